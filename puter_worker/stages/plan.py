"""How the keys that wait in launch queues are put together into launches. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from puter_client.contract.declaration import shared
from puter_client.contract.duration import format_duration
from puter_client.contract.key import PuterKey
from puter_client.contract.record import Record
from puter_client.contract.spec import Spec
from puter_worker.pacer import Budget
from puter_worker.store.base import Kept
from puter_worker.turns import take_turns


@dataclass(frozen=True, slots=True)
class Shape:
    """What the members of one RunInstances call have in common: the call gives all its instances the same.

    Attributes:
        namespace: whose machines they are.
        owner: who requested them.
        batch_id: the submission that requested them.
        values: of every spec field that is not declared to be a member's own.
        spec: of any of the members.
    """

    namespace: str
    owner: str | None
    batch_id: str | None
    values: tuple[Hashable, ...]
    spec: Spec = field(compare=False, repr=False)

    @property
    def instance_types(self) -> tuple[str, ...]:
        """The types to try, in order."""
        return (self.spec.instance_type, *self.spec.instance_types)

    @property
    def subnets(self) -> tuple[str, ...]:
        """The subnets to try, in order; none is the default VPC's."""
        return (self.spec.subnet, *self.spec.subnets) if self.spec.subnet else ()

    @property
    def spot(self) -> bool:
        """Whether Spot instances are requested."""
        return self.spec.spot


class Waiting(msgspec.Struct, frozen=True):
    """One key on a launch queue, with what it is to be launched from."""

    stored: Kept[Record]
    spec: Spec

    @property
    def record(self) -> Record:
        """Its record as read."""
        return self.stored.value

    @property
    def key(self) -> PuterKey:
        """Its key."""
        return self.record.key

    @property
    def shape(self) -> Shape:
        """What it shares with the others of its launch."""
        values = (getattr(self.spec, name) for name in shared(type(self.spec)))
        return Shape(
            namespace=self.record.namespace,
            owner=self.record.owner,
            batch_id=self.record.batch_id,
            values=tuple(tuple(sorted(value.items())) if isinstance(value, dict) else value for value in values),
            spec=self.spec,
        )


Unit = tuple[Waiting, ...]
IDLE_S = 0.03
LONGEST_WAIT_S = 0.3


def units(waiting: Sequence[Waiting], *, calls_now: int, most: int) -> list[Unit]:
    """The launches of these keys: one call a key where the calls suffice, else one for each group of a shape.

    `calls_now` is how many RunInstances calls may be made at once, `most` how many instances one may launch.
    Units come in turns of their namespaces, so that a namespace with many does not hold up one with few; whose keys
    stand first in `waiting` comes first.
    """
    if len(waiting) <= calls_now:
        return in_turns([(w,) for w in waiting])
    singly = [(w,) for w in waiting if is_single(w.spec)]
    shapes: dict[Shape, list[Waiting]] = defaultdict(list)
    for w in waiting:
        if not is_single(w.spec):
            shapes[w.shape].append(w)
    grouped = [
        tuple(members[start : start + most]) for members in shapes.values() for start in range(0, len(members), most)
    ]
    place = {namespace: n for n, namespace in enumerate(dict.fromkeys(w.record.namespace for w in waiting))}
    return in_turns(sorted([*grouped, *singly], key=lambda unit: place[unit[0].record.namespace]))


def is_single(spec: Spec) -> bool:
    """Whether it takes a call of its own.

    Either no other may read its user data, or nobody could tell it from them: all Spot instances of a call have launch
    index 0.
    """
    return spec.alone or spec.spot


def in_turns(of: Iterable[Unit]) -> list[Unit]:
    """Units ordered so that namespaces take turns."""
    return take_turns(of, lambda unit: unit[0].record.namespace)


def is_ready(waiting: Sequence[Waiting], since: Mapping[str, float], now: float, *, most: int) -> bool:
    """Whether the keys of one launch queue are launched now.

    They are if they fill a group, if somebody has waited for 0.3 s, or if nobody came for 30 ms and the batches of
    those who wait are complete: a batch that is still coming in is worth the wait, for each launch costs a call
    whose budget is two a second.
    """
    if not waiting:
        return False
    times = [since[w.record.tag] for w in waiting]
    if len(waiting) >= most or now - min(times) >= LONGEST_WAIT_S:
        return True
    expected = sum({w.record.batch_id: w.record.batch_size or 1 for w in waiting}.values())
    return now - max(times) >= IDLE_S and len(waiting) >= expected


class Calls:
    """Counts the calls that launch keys, as they wait one behind the other: those of a shape share theirs."""

    def __init__(self, most: int) -> None:
        """`most`: instances that one call may launch."""
        self._most = most
        self._begun = 0
        self._of: dict[Shape, tuple[int, int]] = {}  # which call, and for how many keys yet

    def until(self, w: Waiting) -> int:
        """With how many calls this key is launched, too."""
        if is_single(w.spec):
            self._begun += 1
            return self._begun
        call, members = self._of.get(w.shape, (0, self._most))
        if members == self._most:
            self._begun += 1
            call, members = self._begun, 0
        self._of[w.shape] = call, members + 1
        return call


def estimate_s(budget: Budget, *, machines: int, calls: int) -> float:
    """In how many seconds so many machines can have been launched with so many calls, within a budget."""
    by_calls = (calls - budget.calls) / budget.calls_rate
    by_machines = (machines - budget.machines) / budget.machines_rate
    return max(0.0, by_calls, by_machines)


def about(seconds: float) -> str:
    """An estimate as it is told: rounded up, so coarsely that it need not be told anew all the time."""
    step = 5 if seconds < 60 else 30 if seconds < 600 else 300
    return format_duration(max(1, -(-seconds // step)) * step)
