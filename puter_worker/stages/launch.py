"""launch: turns waiting keys into intents and intents into instances. A stage of the target's leader.

May run twice: a key leaves its launch queue in the same transaction that gives its record an intent, so it is in at
most one open intent, whichever worker leads. If the worker is killed before that transaction, the key is still in the
launch queue; after it, the intent is open and durable and has the exact bytes to send: the next leader replays it when
its lease has ended (see `replay`). Only what is stored in an intent is ever sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import inf

import msgspec
import structlog

from puter_client.contract.duration import format_duration
from puter_client.contract.key import PuterKey
from puter_client.contract.spec import PREFER
from puter_client.contract.transitions import AWAITS_LAUNCH
from puter_client.policy.refuses import types_of
from puter_worker.errors import NoCapacity, StageError
from puter_worker.pacer import Budget, Reservation
from puter_worker.rates import INSTANCES, RUN_INSTANCES
from puter_worker.stages import plan
from puter_worker.stages.backoffs import Choice, choose_place, either, names_of, places
from puter_worker.stages.batch_window import BatchWindow
from puter_worker.stages.launch_unit import LaunchUnit, UnitLauncher
from puter_worker.stages.limits import Limits
from puter_worker.stages.plan import Unit, Waiting
from puter_worker.stages.quarantine import Quarantine
from puter_worker.stages.queued import put_failed, put_waiting, read_waiting
from puter_worker.stages.removed import of_known_users
from puter_worker.stages.stage import Stage
from puter_worker.store import wakeups
from puter_worker.store.backoff import Backoff
from puter_worker.store.failures import BatchLimit
from puter_worker.store.intent import Place
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.target import Target
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.launch")
# More units at a time would only wait for tokens.
UNITS_AT_ONCE = 24
# Keys read from one namespace in each run: as many as four calls launch, which is the burst that EC2 allows.
READ_FROM_QUEUE = 400
_ORDER_S = 1e-6


class Launch(Stage):
    """Launches the keys in the launch queue of one target."""

    name = "launch"

    def __init__(self, store: Store, target: Target, gate: Quarantine, timings: Timings, *, most: int) -> None:
        """`most`: the largest number of instances that one call may launch."""
        super().__init__()
        self.topics = frozenset({wakeups.launches(str(target))})
        self._store = store
        self._target = target
        self._gate = gate
        self._timings = timings
        self._window = BatchWindow(timings.batch_idle_s, timings.batch_longest_s, most)
        self._limits = Limits(store, target, timings)
        target.instance_types.on_read = self._types_read
        self._units = UnitLauncher(store, target, gate, timings, self._limits)
        self._busy: dict[PuterKey, str | None] = {}  # keys of launches that have begun, with their batch
        # Names of the backoffs that launches in progress count against; `_probed` has those of probes only.
        self._used: Counter[str] = Counter()
        self._probed: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        # Namespace → number of its latest launch: the one that was served longest ago comes first.
        self._served: dict[str, int] = {}
        self._zones: list[str] | None = None  # None: they were never read
        self._zones_until = -inf
        self._reading: list[asyncio.Task[None]] = []
        self._launches = 0
        self._end_awaited_until = -inf
        self._held_until: dict[str, float] = {}  # namespace of which nothing may be launched → when that is looked at

    def is_end_awaited(self) -> bool:
        """Whether keys wait for a machine to end, because of max_parallel, a quota or a limit of the policy."""
        return self._store.db.clock.monotonic() < self._end_awaited_until

    def _await_end(self) -> None:
        # Each of these keys is looked at again within half of this time.
        self._end_awaited_until = self._store.db.clock.monotonic() + 2 * self._timings.place_again_s

    def is_busy(self, key: PuterKey) -> bool:
        """Whether a launch with this key has begun and not ended."""
        return key in self._busy

    async def run_once(self) -> float:
        """Read the launch queues once, and begin the launches that are possible now."""
        now, target = self._store.now(), str(self._target)
        namespaces = await self._store.launch_queue.namespaces(target)
        due = min(namespaces.values(), default=None)
        if due is None or due > now:
            return self._timings.sweep_s if due is None else min(self._timings.sweep_s, due - now)
        budget = await self._target.pacer.budget()
        if budget.wait_s > 0:
            return budget.wait_s  # no launch can begin before that, so there is no need to read the keys
        pause_s = self._timings.sweep_s
        waiting: list[Waiting] = []
        kept = 0  # calls for namespaces whose turn it is, and whose keys wait for a moment for more of their batch
        for namespace in sorted(namespaces, key=lambda name: self._served.get(name, 0)):
            if (at := max(namespaces[namespace], self._held_until.get(namespace, 0.0))) > now:
                pause_s = min(pause_s, at - now)
                continue
            since = await self._store.launch_queue.due(target, namespace, now, READ_FROM_QUEUE)
            keys = [key for tag in since if (key := PuterKey(namespace, tag)) not in self._busy]
            try:
                queued = await self._read(keys)
            except self._store.errors as error:
                # What is stored of one namespace cannot be read: the others go on. If Redis does not answer at all, the
                # next command ends this run.
                _log.error("launch.unreadable", namespace=namespace, target=target, error=type(error).__name__)
                self._held_until[namespace] = now + self._timings.place_again_s
                continue
            wait_s = plan.wait_s(queued, since, now, self._window)
            if queued and wait_s <= 0:
                waiting += queued
            elif queued:
                pause_s = min(pause_s, wait_s)
                kept += not waiting
        if not waiting or budget.calls < kept + 1:
            return pause_s
        if not await self._gate.open():
            return self._timings.shut_s
        may = await of_known_users(self._store, await self._of_open_batches(waiting))
        may = await self._in_parallel(may)
        may = await self._limits.within(may, self._busy)
        if self._limits.awaits_end:
            self._await_end()
        pause_s = min(pause_s, self._note_held(waiting, may))
        return min(pause_s, await self._begin_what_may(may, now, budget, kept))

    def _note_held(self, waiting: Iterable[Waiting], may: Iterable[Waiting]) -> float:
        """Leave alone, until they are due again, the namespaces of which all that was read waits as it did before.

        They may have thousands of keys, which all become due at the same moment and would be looked at one after the
        other, for as long as no machine ends, or as EC2 has not told of their types. Returns the seconds until the
        first of them is due.
        """
        now, again_s = self._store.now(), self._timings.parallel_again_s
        new = (w for w in waiting if w.record.reason == AWAITS_LAUNCH and not self._limits.is_reading(w.key))
        going_on = {one.key.namespace for one in (*may, *new)}
        held = {one.key.namespace for one in waiting} - going_on
        self._held_until = {namespace: at for namespace, at in self._held_until.items() if at > now}
        self._held_until |= dict.fromkeys(held, (now // again_s + 1) * again_s)
        return min((at - now for at in self._held_until.values()), default=self._timings.sweep_s)

    def _types_read(self, namespace: str) -> None:
        self._held_until.pop(namespace, None)
        self.wake()

    async def drain(self) -> None:
        """Wait until every launch that was begun has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self._reading:
            await asyncio.wait(self._reading)
        await self._target.instance_types.drain()

    async def _begin_what_may(self, waiting: Sequence[Waiting], now: float, budget: Budget, kept: int) -> float:
        """Begin launches as far as budget, places and quotas allow; returns the seconds until the next look.

        `kept`: calls that are left for others.
        """
        room, begun = int(budget.machines), 0
        backoffs = await self._store.backoffs.read(str(self._target))
        for unit in plan.units(waiting, calls_now=int(budget.calls) - kept, most=self._window.most):
            if len(self._tasks) >= UNITS_AT_ONCE:
                break  # the next launch that ends wakes this stage
            if kept and begun >= int(budget.calls) - kept:
                break  # they are launched when their window ends, which is soon
            choice = self._choose(unit, backoffs, now)
            if choice is None:
                continue  # this stage is woken when EC2 has named its zones
            if choice.place is None:
                await self._wait_for_place(unit, choice)
                continue
            limits = choice.limits
            if limits & self._probed.keys() or (choice.most < len(unit) and limits & self._used.keys()):
                continue  # a launch there is in progress and will show how much more fits; its end wakes this stage
            # A group does not wait until there are tokens for all its keys: others would have to wait behind it.
            some = unit[: min(choice.most, max(1, room))]
            reservation = await self._target.pacer.reserve({RUN_INSTANCES: 1, INSTANCES: len(some)})
            if not isinstance(reservation, Reservation):
                return reservation
            room, begun = room - len(some), begun + 1
            self._begin(LaunchUnit(some, choice.place, reservation), limits)
        return self._timings.sweep_s

    def _choose(self, unit: Unit, backoffs: Mapping[str, Backoff], now: float) -> Choice | None:
        """Where to launch a unit; None: the zones must be known for that, and are being read."""
        spec = unit[0].spec
        subnets = (spec.subnet, *spec.subnets) if spec.subnet else ()
        types = self._limits.fitting(unit[0].key.namespace, types_of(spec))

        def choose(*, spot: bool, zones: Sequence[str] = ()) -> Choice:
            wanted = places(types, zones, subnets, spot=spot)
            return choose_place(wanted, backoffs, now, disk=spec.disk, timings=self._timings)

        choice, zones = choose(spot=bool(spec.spot)), self._zones
        first = Place(types[0], spot=bool(spec.spot))  # unless it was refused, it is tried before any zone
        if not subnets and (choice.place != first or choice.refused_since is not None):
            self._read_zones_if_due()
            if zones is None:
                return None
            choice = choose(spot=bool(spec.spot), zones=zones)
        if spec.spot != PREFER:
            return choice
        refused_s = self._store.db.clock.age(choice.refused_since) if choice.refused_since is not None else 0.0
        if refused_s < self._timings.prefer_spot_s:
            # Not all its places are dry: nobody gives up before On-Demand was tried.
            return msgspec.structs.replace(choice, dry_since=None)
        may_try = choice.place is not None and not choice.limits & self._probed.keys()
        if may_try and now - (choice.refused_at or 0.0) >= self._timings.no_capacity_s:
            return choice  # one machine a minute tries Spot again, wherever that is; the others need not wait for it
        on_demand = choose(spot=False, zones=zones or ())
        return choice if may_try and on_demand.place is None else either(choice, on_demand)

    def _read_zones_if_due(self) -> None:
        if not self._reading and self._store.db.clock.monotonic() >= self._zones_until:
            self._reading = [asyncio.create_task(self._read_zones())]

    async def _read_zones(self) -> None:
        """Read the target's zones beside this stage; while they cannot be read, EC2 chooses one."""
        for_s = self._timings.launch_again_s
        try:
            self._zones = await self._target.zones()
            for_s = self._timings.target_cache_s
        except StageError:
            self._zones = self._zones or []
        self._zones_until = self._store.db.clock.monotonic() + for_s
        self._reading = []
        self.wake()

    async def _of_open_batches(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """The keys of batches that have not reached their max_fails; the others are about to be cancelled."""
        limits = {one.key: BatchLimit.of(one.record) for one in waiting}
        reached = await self._store.failures.reached(limit for limit in limits.values() if limit is not None)
        return [one for one in waiting if limits[one.key] not in reached]

    async def _in_parallel(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """The keys that may be launched now under max_parallel of their batches; the others wait."""
        held: set[PuterKey] = set()
        room: dict[tuple[str, str], int] = {}
        others: list[Waiting] = []
        for one in sorted(waiting, key=lambda one: one.record.created_at):
            most, batch_id = one.record.max_parallel, one.record.batch_id
            if most is None or batch_id is None:
                continue
            batch = (one.key.namespace, batch_id)
            if batch not in room:
                # Begun launches are noted before the live set is read: one that ends in between is still counted,
                # and none is missed.
                begun = [key.tag for key, of in self._busy.items() if (key.namespace, of) == batch]
                room[batch] = most - await self._store.batches.live_count(*batch, begun)
            if room[batch] > 0:
                room[batch] -= 1
            else:
                others.append(one)
                held.add(one.key)
        if others:
            self._await_end()
        # All that wait are due at the same moment, so that the first of them is the first to be launched.
        again_s = self._timings.parallel_again_s
        again_at = (self._store.now() // again_s + 1) * again_s

        def put(txn: Txn, one: tuple[int, Waiting]) -> None:
            reason = f"waiting for one of the batch's {one[1].record.max_parallel} machines to end (max_parallel)"
            put_waiting(self._store, txn, one[1], reason, again_at + one[0] * _ORDER_S)  # in their order, next time too

        await self._store.commit_each(list(enumerate(others)), put)
        return [one for one in waiting if one.key not in held]

    async def _wait_for_place(self, unit: Unit, choice: Choice) -> None:
        """No place may be tried now: the keys wait, or fail if they have waited for capacity long enough."""
        target = str(self._target)
        live = await self._store.machines.live_count(target)
        if choice.quota:
            self._await_end()

        def put(txn: Txn, one: Waiting) -> None:
            now = self._store.now()
            # Waiting for a quota, or for tokens while there is capacity, does not count as waiting for capacity.
            since = None if choice.dry_since is None else min(now, max(choice.dry_since, one.record.short_since or now))
            waited_s = 0.0 if since is None else self._store.db.clock.age(since)
            if since is not None and waited_s >= one.spec.give_up_after_s:
                error = NoCapacity(f"{choice.why}; gave up after {format_duration(waited_s)}")
                put_failed(self._store, txn, target, one.stored, error, now)
                return
            reason = f"{choice.why}, {live} machines live; waiting for machines to end" if choice.quota else choice.why
            at = now + min(choice.wait_s, self._timings.place_again_s)
            put_waiting(self._store, txn, one, reason, at, short_since=since)

        await self._store.commit_each(unit, put)

    def _begin(self, launch: LaunchUnit, limits: frozenset[str]) -> None:
        """Begin a launch; one with limits probes how much more fits under them."""
        unit, names = launch.unit, names_of(launch.place, launch.unit[0].spec.disk)
        self._busy |= {one.key: one.record.batch_id for one in unit}
        self._launches += 1
        self._served[unit[0].record.namespace] = self._launches
        self._used.update(names)
        self._probed.update(limits)
        task = asyncio.create_task(self._launch_alone(launch))
        self._tasks.add(task)

        def ended(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._let_go(launch.held)  # keys that were split off are no longer among them
            self._used.subtract(names)
            self._probed.subtract(limits)
            self._used += Counter()  # removes names whose count is zero
            self._probed += Counter()
            self.wake()

        task.add_done_callback(ended)

    async def _launch_alone(self, launch: LaunchUnit) -> None:
        """Launch a unit. If this is interrupted, Redis still has its keys in the launch queue, or its open intent."""
        try:
            async with launch.reservation:
                await self._units.launch(launch, let_go=self._let_go)
        except self._store.errors as error:
            # The error's text may quote what was written, so it is not logged.
            _log.error("launch.interrupted", error=type(error).__name__, keys=len(launch.unit))
            await asyncio.sleep(self._timings.after_interruption_s)
        except Exception:  # noqa: BLE001 - a defect in one launch must not end the others
            _log.exception("launch.interrupted", keys=len(launch.unit))

    def _let_go(self, keys: Iterable[PuterKey]) -> None:
        for key in keys:
            self._busy.pop(key, None)

    async def _read(self, keys: Sequence[PuterKey]) -> list[Waiting]:
        return await read_waiting(self._store, str(self._target), keys)
