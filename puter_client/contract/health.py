"""What a worker tells of itself."""

from __future__ import annotations

import msgspec


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One running worker; times are seconds of Redis TIME.

    Attributes:
        worker_id: `<host>:<pid>:<random>`.
        host: its host's name.
        pid: its process.
        version: of Puter.
        started_at: when it began.
        seen_at: when it last said so.
        profiles: AWS profiles it can use.
        draining: whether it is about to end and takes nothing new.
    """

    worker_id: str
    host: str
    pid: int
    version: str
    started_at: float
    seen_at: float
    profiles: tuple[str, ...] = ()
    draining: bool = False
