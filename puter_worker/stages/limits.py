"""Which keys may be launched now under the limits of their namespaces; the others wait, and their records say why.

It may rest on what was read a moment ago: the guards of the transaction that opens an intent decide (`expect_room`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from puter_client.contract.key import PuterKey
from puter_client.policy.limits import Room, is_limited, smallest, why_waiting
from puter_client.policy.names import HOURLY, MACHINES, VCPUS
from puter_client.policy.policy import Allowed
from puter_client.policy.refuses import types_of
from puter_client.policy.rule import About, Asked, Refusal
from puter_worker.ec2.images import InstanceType
from puter_worker.errors import PolicyRefused, StageError, is_final, reason_after
from puter_worker.instance_types import Known
from puter_worker.stages.plan import Unit, Waiting
from puter_worker.stages.queued import put_failed, put_waiting
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.target import Target
from puter_worker.timings import Timings

_ORDER_S = 1e-6
_NOT_TOLD = f"waiting: EC2 does not tell the vCPUs of its instance types, which the policy rule {VCPUS} needs"
_NO_RIGHT = f"waiting: the worker's role may not call DescribeInstanceTypes, which the policy rule {VCPUS} needs"
_NOT_READ = f"waiting until EC2 has told how many vCPUs its instance types have (policy rule {VCPUS})"


class Limits:
    """The limits of namespaces, for the launches of one target.

    It waits for Redis alone: a type that is not known yet is read beside it, and its key is looked at again then.

    Attributes:
        awaits_end: whether the latest keys that were not let through wait for a machine to end.
    """

    def __init__(self, store: Store, target: Target, timings: Timings) -> None:
        self._store = store
        self._target = target
        self._timings = timings
        self.awaits_end = False
        self._begun: dict[PuterKey, int] = {}  # keys that were let through → their vCPUs
        self._unread: set[PuterKey] = set()  # of the latest keys, those whose types are read

    async def within(self, waiting: Sequence[Waiting], busy: Iterable[PuterKey]) -> list[Waiting]:
        """The keys that may be launched now; `busy`: keys of launches that have begun, not all of them written yet."""
        begun, soon = set(busy), self._soon()
        self._begun = {key: vcpus for key, vcpus in self._begun.items() if key in begun}
        let_through: dict[PuterKey, int] = {}
        held: list[tuple[Waiting, str, float]] = []
        failed: list[tuple[Waiting, StageError | Refusal]] = []
        unread: set[PuterKey] = set()
        rooms: dict[str, Room] = {}
        passing: set[PuterKey] = set()
        awaits_end = False
        for one in sorted(waiting, key=lambda one: one.record.created_at):
            namespace = one.key.namespace
            allowed = self._target.rules.of(namespace)
            if allowed is None or not is_limited(allowed):
                passing.add(one.key)
                continue
            if refused := allowed.refusals(Asked(spec=one.spec, profile=""), {About.COUNT}):
                failed.append((one, refused[0]))  # no end of a machine, and of no hour, makes room
                continue
            if namespace not in rooms:
                rooms[namespace] = await self._room(allowed, begun)
            vcpus, why = self._needs(allowed, one)
            if isinstance(why, StageError | Refusal):
                failed.append((one, why))
                continue
            if why == _NOT_READ:
                unread.add(one.key)
                if self._store.db.clock.age(one.record.changed_at) < self._timings.explain_after_s:
                    continue  # usually it is read by then, and nothing needs to be written
            at = soon
            if why is None and (rule := rooms[namespace].take(vcpus)) is not None:
                why = why_waiting(allowed, rule)
                if rule == HOURLY:  # no machine's end makes room
                    at = min(max(soon, rooms[namespace].hour_ends_at or soon), soon + self._timings.longest_put_off_s)
                else:
                    awaits_end = True
            if why is None:
                let_through[one.key] = vcpus
                passing.add(one.key)
            else:
                held.append((one, why, at))
        self._begun |= let_through
        self._unread = unread
        self.awaits_end = awaits_end
        await self._fail(failed)
        await self._hold(held)
        return [one for one in waiting if one.key in passing]

    def is_reading(self, key: PuterKey) -> bool:
        """Whether one of the latest keys waits until EC2 has told of its types."""
        return key in self._unread and self._target.instance_types.is_reading(key.namespace)

    def fitting(self, namespace: str, types: Sequence[str]) -> list[str]:
        """Those of the types of a request of which one machine fits under the namespace's limit of vCPUs."""
        allowed = self._target.rules.of(namespace)
        most = allowed.limit(VCPUS) if allowed else None
        if most is None:
            return list(types)
        known = {name: vcpus_of(self._target.instance_types.known(name)) for name in types}
        return [name for name, vcpus in known.items() if vcpus is not None and vcpus <= most] or list(types)

    def expect_room(self, txn: Txn, unit: Unit, vcpus: int | None) -> dict[int, str]:
        """Add guards: with the unit's machines, each with so many vCPUs, no limit of the namespace is exceeded.

        Returns the rule of each guard, by its number.
        """
        namespace = unit[0].key.namespace
        allowed, usage = self._target.rules.of(namespace), self._store.usage
        guards: dict[int, str] = {}
        if allowed is None:
            return guards
        if (most := allowed.limit(MACHINES)) is not None:
            guards[usage.expect_machines(txn, namespace, most=most, more=len(unit))] = MACHINES
        if (most := allowed.limit(VCPUS)) is not None:
            each = most + 1 if vcpus is None else vcpus  # what is not known fits under no limit
            guards[usage.expect_vcpus(txn, namespace, most=most, more=each * len(unit))] = VCPUS
        if (most := allowed.limit(HOURLY)) is not None:
            guards[usage.expect_launches(txn, namespace, most=most, more=len(unit))] = HOURLY
        return guards

    async def no_room(self, unit: Unit, rule: str) -> None:
        """Others have taken the room of a unit, or its type needs more than is free: its keys wait, and say so."""
        allowed = self._target.rules.of(unit[0].key.namespace)
        if allowed is not None and allowed.limit(rule) is not None:
            await self._hold([(one, why_waiting(allowed, rule), self._soon()) for one in unit])

    def _soon(self) -> float:
        """When what waits is looked at again: all at the same moment, so that the first of them is launched first."""
        again_s = self._timings.parallel_again_s
        return (self._store.now() // again_s + 1) * again_s

    async def _room(self, allowed: Allowed, begun: set[PuterKey]) -> Room:
        """What is free; begun launches that are not written yet count, and none counts twice."""
        used = await self._store.usage.read(allowed.namespace)
        more = [key for key in begun if key.namespace == allowed.namespace and key.tag not in used.tags]
        return Room.of(
            allowed,
            machines=used.machines + len(more),
            vcpus=used.vcpus + sum(self._begun.get(key, 0) for key in more),
            launched=used.launched + len(more),
            hour_ends_at=used.hour_ends_at,
        )

    def _needs(self, allowed: Allowed, one: Waiting) -> tuple[int, str | StageError | Refusal | None]:
        """The vCPUs of a key's machine, and why it waits (text), or fails; None: it does neither.

        Of several types, the first that fits under the limit counts: it is tried first.
        """
        most = allowed.limit(VCPUS)
        if most is None:
            return 0, None
        types = self._target.instance_types
        found = {name: types.known(name) for name in types_of(one.spec)}
        types.want(one.key.namespace, (name for name, known in found.items() if known is None))
        for known in found.values():
            if known is None:
                return 0, _NOT_READ
            if (vcpus := vcpus_of(known)) is not None and vcpus <= most:
                return vcpus, None
        errors = [known for known in found.values() if isinstance(known, StageError)]
        for error in errors:
            if error.code == "UnauthorizedOperation":
                return 0, _NO_RIGHT
            if not is_final(error):
                return 0, reason_after(error)
        needed = smallest([vcpus_of(known) for known in found.values()])
        if needed is not None:
            return 0, allowed.refusal(VCPUS, f"a machine with {needed:,} vCPUs")
        return 0, errors[0] if errors else _NOT_TOLD

    async def _fail(self, failed: Sequence[tuple[Waiting, StageError | Refusal]]) -> None:
        target, now = str(self._target), self._store.now()

        def put(txn: Txn, item: tuple[Waiting, StageError | Refusal]) -> None:
            one, why = item
            error = why if isinstance(why, StageError) else PolicyRefused(str(why))
            put_failed(self._store, txn, target, one.stored, error, now)

        for _, why in await self._store.commit_each(failed, put):
            if isinstance(why, Refusal):
                self._target.rules.refused(why)

    async def _hold(self, held: Sequence[tuple[Waiting, str, float]]) -> None:
        def put(txn: Txn, item: tuple[int, tuple[Waiting, str, float]]) -> None:
            number, (one, why, at) = item
            put_waiting(self._store, txn, one, why, at + number * _ORDER_S)

        await self._store.commit_each(list(enumerate(held)), put)


def vcpus_of(known: Known | None) -> int | None:
    """The vCPUs of a type, if they are known. Pure."""
    return known.vcpus if isinstance(known, InstanceType) else None
