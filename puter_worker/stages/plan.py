"""Groups the keys that wait in launch queues into launches. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from puter_client.contract.declaration import shared
from puter_client.contract.key import PuterKey
from puter_client.contract.record import Record
from puter_client.contract.spec import Spec
from puter_worker.ec2.own_tags import why_not_read
from puter_worker.pacer import Budget
from puter_worker.stages.batch_window import BatchWindow
from puter_worker.store.versioned import Versioned
from puter_worker.turns import take_turns


@dataclass(frozen=True, slots=True)
class Shape:
    """What the members of one RunInstances call must have in common, because all its instances get the same.

    Attributes:
        namespace: the namespace of their keys.
        owner: the user who requested them.
        batch_id: the batch that requested them.
        values: the values of all spec fields that are not declared as a member's own; a secret (user_data) among them.
        spec: the spec of any member.
    """

    namespace: str
    owner: str | None
    batch_id: str | None
    values: tuple[Hashable, ...] = field(repr=False)
    spec: Spec = field(compare=False, repr=False)


class Waiting(msgspec.Struct, frozen=True):
    """One key in a launch queue, with its record and spec."""

    stored: Versioned[Record]
    spec: Spec

    @property
    def record(self) -> Record:
        """The key's record as it was read."""
        return self.stored.value

    @property
    def key(self) -> PuterKey:
        """The key."""
        return self.record.key

    @property
    def shape(self) -> Shape:
        """What the key shares with the other members of its launch."""
        values = (getattr(self.spec, name) for name in shared(type(self.spec)))
        return Shape(
            namespace=self.record.namespace,
            owner=self.record.owner,
            batch_id=self.record.batch_id,
            values=tuple(tuple(sorted(value.items())) if isinstance(value, dict) else value for value in values),
            spec=self.spec,
        )


Unit = tuple[Waiting, ...]


def units(waiting: Sequence[Waiting], *, calls_now: int, most: int) -> list[Unit]:
    """The launches of these keys: one call for each key if there are enough calls, else one for each group of a shape.

    `calls_now` is how many RunInstances calls may be sent now, `most` how many instances one call may launch.
    Namespaces take turns, so that one with few keys does not wait for one with many; the namespace of the first key in
    `waiting` comes first.
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
    """Whether a machine needs a call of its own.

    It does if no other machine may read its user data, and if it is a Spot instance that cannot read its own tags: all
    Spot instances of one call have launch index 0, so only their tags tell them apart.
    """
    types = (spec.instance_type, *spec.instance_types)
    return spec.alone or (bool(spec.spot) and any(why_not_read(one, spec.aws_tags) for one in types))


def in_turns(of: Iterable[Unit]) -> list[Unit]:
    """The units, ordered so that namespaces take turns."""
    return take_turns(of, lambda unit: unit[0].record.namespace)


def wait_s(waiting: Sequence[Waiting], since: Mapping[str, float], now: float, window: BatchWindow) -> float:
    """How long the keys of one launch queue wait for more keys; 0: they are launched now.

    They are launched if they fill a group, if one has waited for the window's longest time, or if no key was added for
    its idle time and the batches of all waiting keys are complete. It is worth waiting for the rest of a batch: each
    launch costs a call, and EC2 allows two calls a second.
    """
    expected = sum({one.record.batch_id: one.record.batch_size or 1 for one in waiting}.values())
    complete = len(waiting) >= expected
    times = [since[one.record.tag] for one in waiting]
    return (window if complete else window.without_idle()).wait_s(times, now)


class Calls:
    """Counts the calls that are needed to launch keys in their order; keys of one shape share calls."""

    def __init__(self, most: int) -> None:
        """`most`: the largest number of instances that one call may launch."""
        self._most = most
        self._begun = 0
        self._of: dict[Shape, tuple[int, int]] = {}  # number of the latest call, and how many keys it has so far

    def until(self, w: Waiting) -> int:
        """How many calls are needed until this key is launched."""
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
    """In how many seconds so many machines can be launched with so many calls, within a budget."""
    by_calls = (calls - budget.calls) / budget.calls_rate
    by_machines = (machines - budget.machines) / budget.machines_rate
    return max(0.0, by_calls, by_machines)


def rounded_up(seconds: float) -> int:
    """An estimate, rounded up so coarsely that records need not be written for every small change."""
    step = 5 if seconds < 60 else 30 if seconds < 600 else 300
    return int(max(1, -(-seconds // step)) * step)
