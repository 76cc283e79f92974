"""The workloads of a run: how each ends, on which of its machines, and what its owner orders."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from puter_worker.ec2.tags import key_of, number_of
from tests.agents import INTERRUPTED, LOST, End
from tests.ec2sim.reports import Seen

# After its launch, a machine works for so long before its workload ends: longer than EC2 takes to show it, as any boot.
WORKS_S = (3.0, 8.0)
OUTPUT = "line\n" * 20


@dataclass(frozen=True)
class Fate:
    """What becomes of the workloads of some keys.

    Attributes:
        ends: how their workloads end, on each of their machines in turn; those on further machines go on for ever.
        fields: of their specs.
        order: what their owner orders while the run goes on: `stop`, `extend` or nothing.
    """

    ends: tuple[End, ...] = ()
    fields: dict[str, object] = field(default_factory=dict)
    order: str = ""

    @property
    def stops(self) -> bool:
        """Whether its owner orders its end."""
        return self.order == "stop"

    @property
    def lives(self) -> bool:
        """Whether the last machine of such a key still runs at the end."""
        return not self.stops and (not self.ends or not self.ends[-1].machine_ends)


STAYS = Fate()
EXTENDED = Fate(order="extend")
STOPPED = Fate(order="stop")
# The order may come when EC2 has taken the machine, and nobody knows that yet.
STOPPED_LATE = Fate((INTERRUPTED,), {"retries": 1}, order="stop")
_GOOD, _BAD, _AGAIN = End.exits(0, OUTPUT), End.exits(3, OUTPUT), End.exits(75)
ENDING = (
    Fate((_GOOD,)),
    Fate((_BAD,)),
    Fate((End.exits(0, machine_ends=False),), {"on_exit": "keep"}),
    Fate((INTERRUPTED, _GOOD), {"retries": 2}),
    Fate((LOST, _GOOD), {"retries": 1}),
    Fate((_AGAIN, _GOOD), {"retries": 1, "retry_on": ("75",)}),
    Fate((INTERRUPTED, LOST), {"retries": 1}),
)
# Keys have these in turn. Their number is no multiple of five, so there are Spot machines, every fifth key, of each.
FATES = (*[STAYS] * 5, *[EXTENDED] * 2, STOPPED, *[STOPPED_LATE] * 2, *ENDING)


def fate_of(tag: str) -> Fate:
    """The fate of a tag `k-<number>`."""
    return FATES[int(tag.rpartition("-")[2]) % len(FATES)]


class Ends:
    """How the workload of a machine ends, and when."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._at: dict[str, float] = {}

    def __call__(self, one: Seen, now: float) -> End | None:
        """How the workload of this running machine ends now; None: it goes on."""
        told = key_of(one.tags, number_of(one.tags, one.launch_index))
        if told is None:
            return None
        key, generation = told
        ends = fate_of(key.tag).ends
        if generation > len(ends):
            return None
        at = self._at.setdefault(one.id, one.launched_at + self._dice.uniform(*WORKS_S))
        return ends[generation - 1] if now >= at else None
