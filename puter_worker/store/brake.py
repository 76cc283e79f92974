"""What capacity and quotas have taught, as it is stored; see `puter_worker.stations.brakes`."""

from __future__ import annotations

import msgspec


class Brake(msgspec.Struct, frozen=True):
    """How much may be asked for under one name.

    Attributes:
        until: nothing before this time, seconds of Redis TIME.
        most: then at most so many machines with one call.
        why: what EC2 said, for people.
    """

    until: float
    most: int
    why: str
