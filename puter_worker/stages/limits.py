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
from puter_worker.errors import PolicyRefused, StageError, is_final, reason_after
from puter_worker.policy import POLICY
from puter_worker.stages.plan import Unit, Waiting
from puter_worker.stages.queued import put_failed, put_waiting
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.target import Target
from puter_worker.timings import Timings

_ORDER_S = 1e-6
_NO_RIGHT = f"waiting: the worker's role may not call DescribeInstanceTypes, which the policy rule {VCPUS} needs"


class Limits:
    """The limits of namespaces, for the launches of one target.

    Attributes:
        awaits_end: whether the latest keys that were not let through wait for a machine to end.
    """

    def __init__(self, store: Store, target: Target, timings: Timings) -> None:
        self._store = store
        self._target = target
        self._timings = timings
        self.awaits_end = False
        self._begun: dict[PuterKey, int] = {}  # keys that were let through → their vCPUs

    async def within(self, waiting: Sequence[Waiting], busy: Iterable[PuterKey]) -> list[Waiting]:
        """The keys that may be launched now; `busy`: keys of launches that have begun, not all of them written yet."""
        begun, soon = set(busy), self._soon()
        self._begun = {key: vcpus for key, vcpus in self._begun.items() if key in begun}
        let_through: dict[PuterKey, int] = {}
        held: list[tuple[Waiting, str, float]] = []
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
                await self._fail(one, refused[0])  # no end of a machine, and of no hour, makes room
                continue
            if namespace not in rooms:
                rooms[namespace] = await self._room(allowed, begun)
            vcpus, why = await self._needs(allowed, one)
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
            elif why:
                held.append((one, why, at))
        self._begun |= let_through
        self.awaits_end = awaits_end
        await self._hold(held)
        return [one for one in waiting if one.key in passing]

    async def fitting(self, namespace: str, types: Sequence[str]) -> list[str]:
        """Those of the types of a request of which one machine fits under the namespace's limit of vCPUs."""
        allowed = self._target.rules.of(namespace)
        most = allowed.limit(VCPUS) if allowed else None
        if most is None:
            return list(types)
        fit: list[str] = []
        for name in types:
            vcpus, _ = await self._vcpus(name)
            if vcpus is not None and vcpus <= most:
                fit.append(name)
        return fit or list(types)

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

    async def _needs(self, allowed: Allowed, one: Waiting) -> tuple[int, str | None]:
        """The vCPUs of a key's machine, and why it waits ("": it has failed; None: it need not).

        Of several types, the first that fits under the limit counts: it is tried first.
        """
        most = allowed.limit(VCPUS)
        if most is None:
            return 0, None
        found = [await self._vcpus(name) for name in types_of(one.spec)]
        if all(error is not None for _, error in found):
            error = found[0][1]
            assert error is not None
            # What can never be launched is launched in vain, for EC2's own words.
            return 0, None if is_final(error) else reason_after(error)
        needed = smallest([vcpus for vcpus, _ in found])
        if needed is None:
            return 0, _NO_RIGHT
        if needed <= most:
            return next(vcpus for vcpus, _ in found if vcpus is not None and vcpus <= most), None
        await self._fail(one, allowed.refusal(VCPUS, f"a machine with {needed:,} vCPUs"))
        return 0, ""

    async def _vcpus(self, name: str) -> tuple[int | None, StageError | None]:
        try:
            return await self._target.vcpus(name), None
        except StageError as error:
            return None, error

    async def _fail(self, one: Waiting, refusal: Refusal) -> None:
        txn = Txn()
        error = PolicyRefused(str(refusal))
        put_failed(self._store, txn, str(self._target), one.stored, error, self._store.now())
        if not await self._store.commit(txn):
            self._target.rules.count(refusal.namespace, f"{POLICY}{refusal.rule}")

    async def _hold(self, held: Sequence[tuple[Waiting, str, float]]) -> None:
        def put(txn: Txn, item: tuple[int, tuple[Waiting, str, float]]) -> None:
            number, (one, why, at) = item
            put_waiting(self._store, txn, one, why, at + number * _ORDER_S)

        await self._store.commit_each(list(enumerate(held)), put)
