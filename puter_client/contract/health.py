"""What a worker publishes about itself."""

from __future__ import annotations

import msgspec


class StageHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one stage of a worker is doing; times are seconds of Redis TIME.

    Attributes:
        name: the stage's name.
        last_success_at: when it last ran without an error; None if it never did.
        last_error_at: when it last ended with an error; None if it never did.
        last_error: text of that error.
        began_at: when its last run began, which may still be going on; None if it never ran.
        runs: number of its runs since the worker started, with or without an error.
        pace_s: seconds from its last run until its next one; None if only a write for it wakes it.
    """

    name: str
    last_success_at: float | None = None
    last_error_at: float | None = None
    last_error: str | None = None
    began_at: float | None = None
    runs: int = 0
    pace_s: float | None = None


class CredentialsHealth(msgspec.Struct, frozen=True, kw_only=True):
    """AWS credentials that fail; times are seconds of Redis TIME.

    Attributes:
        profile: their AWS profile; empty: the default credentials.
        since: when they began to fail.
        error: why they failed when they were last used.
    """

    profile: str
    since: float
    error: str


class WorkerHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One running worker; times are seconds of Redis TIME.

    Attributes:
        worker_id: `<host>:<pid>:<random>`.
        host: name of its host.
        pid: its process id.
        version: its version of Puter.
        started_at: when it started.
        seen_at: when it last announced itself.
        profiles: AWS profiles that every namespace may use there; those of some namespaces are in their `OwnHealth`.
        draining: whether it is about to end and takes nothing new.
        stages: the health of each of its stages, but of those for profiles that not every namespace may use.
        credentials: those that fail, but of profiles that not every namespace may use.
    """

    worker_id: str
    host: str
    pid: int
    version: str
    started_at: float
    seen_at: float
    profiles: tuple[str, ...] = ()
    draining: bool = False
    stages: tuple[StageHealth, ...] = ()
    credentials: tuple[CredentialsHealth, ...] = ()


class OwnHealth(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker publishes for one namespace alone.

    Attributes:
        profiles: further AWS profiles that the namespace may use there.
        stages: the health of stages for these.
        credentials: those of these that fail.
    """

    profiles: tuple[str, ...] = ()
    stages: tuple[StageHealth, ...] = ()
    credentials: tuple[CredentialsHealth, ...] = ()
