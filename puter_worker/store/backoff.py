"""The backoff of a place or quota, as it is stored; see `puter_worker.stages.backoffs`."""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """How much may be requested in one place, or under one quota.

    Attributes:
        until: nothing is launched before this time, seconds of Redis TIME.
        most: after it, one call launches at most this many machines.
        why: what EC2 said, in plain words.
        since: when the present run of refusals began; None: there is none.
        pause_s: how long to wait if the next attempt is refused too; None: the default.
    """

    until: float
    most: int
    why: str
    since: float | None = None
    pause_s: float | None = None
