"""What capacity and quotas have taught, as it is stored; see `puter_worker.stages.backoffs`."""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """How much may be requested under one name.

    Attributes:
        until: nothing before this time, seconds of Redis TIME.
        most: then at most so many machines with one call.
        why: what EC2 said, for people.
        since: when EC2 first refused, of the refusals that nothing but refusals came after; None: it did not.
        pause_s: how long to wait if the next try is refused, too; None: as long as is usual.
    """

    until: float
    most: int
    why: str
    since: float | None = None
    pause_s: float | None = None
