"""How many of the machines that wait a namespace's limits let through now. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from puter_client.policy.names import HOURLY, MACHINES, VCPUS
from puter_client.policy.policy import Allowed


class Room(msgspec.Struct, kw_only=True):
    """What a namespace's limits leave free; None: there is no limit.

    Attributes:
        machines: so many more may be alive.
        vcpus: so many more vCPUs may be alive.
        launches: so many more may be launched within this hour.
        hour_ends_at: when there is room for the next launch of the hour; None: not known.
    """

    machines: int | None
    vcpus: int | None
    launches: int | None
    hour_ends_at: float | None = None

    @classmethod
    def of(
        cls, allowed: Allowed, *, machines: int, vcpus: int, launched: int, hour_ends_at: float | None = None
    ) -> Room:
        """The room beside what the namespace has."""
        return cls(
            machines=_left(allowed.limit(MACHINES), machines),
            vcpus=_left(allowed.limit(VCPUS), vcpus),
            launches=_left(allowed.limit(HOURLY), launched),
            hour_ends_at=hour_ends_at,
        )

    def take(self, vcpus: int) -> str | None:
        """Take the room of one machine; the rule that leaves none, if one does: then nothing is taken."""
        if self.machines is not None and self.machines < 1:
            return MACHINES
        if self.vcpus is not None and self.vcpus < vcpus:
            return VCPUS
        if self.launches is not None and self.launches < 1:
            return HOURLY
        self.machines = _left(self.machines, 1)
        self.vcpus = _left(self.vcpus, vcpus)
        self.launches = _left(self.launches, 1)
        return None


def is_limited(allowed: Allowed | None) -> bool:
    """Whether there is any limit on what is launched."""
    return allowed is not None and any(allowed.limit(rule) is not None for rule in (MACHINES, VCPUS, HOURLY))


def smallest(vcpus: Sequence[int | None]) -> int | None:
    """The vCPUs of the smallest of several types; None: they are not known."""
    return min((one for one in vcpus if one is not None), default=None)


def why_waiting(allowed: Allowed, rule: str) -> str:
    """Why a machine waits for its launch under a limit; the same text as long as it waits."""
    most = allowed.limit(rule) or 0
    what = {
        MACHINES: f"one of the namespace's {most:,} machines to end",
        VCPUS: f"room under the namespace's {most:,} vCPUs",
        HOURLY: f"the next of the namespace's {most:,} launches in an hour",
    }[rule]
    return f"waiting for {what} (policy rule {rule})"


def _left(most: int | None, used: int) -> int | None:
    return None if most is None else most - used
