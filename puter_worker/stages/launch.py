"""launch: turns waiting keys into intents and intents into instances. A loop of the target's leader.

May run twice: a key leaves its launch queue in the same transaction that gives its record an intent, so it is in at
most one open intent whoever leads. Killed before that transaction, the key is still in the launch queue; killed after
it, the intent is open and durable, with the very bytes to be sent: whoever leads next finds its lease run out and
replays it (see `replay`). Only what is stored in an intent is ever sent.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import structlog

from puter_client.contract.duration import format_duration
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.ec2.tags import ManifestTooLarge
from puter_worker.ec2.userdata import UserDataTooLarge
from puter_worker.memory import Epoch
from puter_worker.pacer import INSTANCES, Reservation
from puter_worker.stages import plan
from puter_worker.stages.backoffs import (
    FREE,
    Choice,
    Place,
    capacity_name,
    choose_place,
    places,
    quota_name,
)
from puter_worker.stages.members import put_off
from puter_worker.stages.plan import Unit, Waiting
from puter_worker.stages.prepare import Prepared, prepare
from puter_worker.stages.quarantine import Quarantine
from puter_worker.stages.send import LEASE_S, send
from puter_worker.stages.waiting import is_final, reason_after
from puter_worker.store.backoff import Backoff
from puter_worker.store.base import Kept
from puter_worker.store.intent import Intent
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target

_log = structlog.get_logger("puter.launch")
# More at a time would only wait for each other's tokens.
UNITS_AT_ONCE = 24
# Of one namespace, each time: as many as four calls launch, the burst that EC2 allows.
READ_FROM_QUEUE = 400
PREPARE_S = 60.0
TRY_AGAIN_S = 5.0
AFTER_REDIS_S = 1.0
PARALLEL_AGAIN_S = 1.0
LOOK_EVERY_S = 0.025
LOOK_WHILE_PACED_S = 0.1
PLACE_AGAIN_S = 5.0


class Launcher:
    """The launch stage of one target, as one leader runs it."""

    def __init__(self, store: WorkerStore, target: Target, gate: Quarantine, *, most: int) -> None:
        self._store = store
        self._target = target
        self._gate = gate
        self._most = most
        self._busy: dict[PuterKey, str | None] = {}  # keys on their way, with their batch
        # Names of the backoffs that launches on their way count against; of those that are probes, apart.
        self._used: Counter[str] = Counter()
        self._probed: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        # Namespaces by the number of their latest launch: whoever was served longest ago comes first.
        self._served: dict[str, int] = {}
        self._launches = 0

    def is_busy(self, key: PuterKey) -> bool:
        """Whether a launch with this key is on its way."""
        return key in self._busy

    async def turn(self) -> float:
        """Look at the launch queues once and begin what can be launched now; after how long to look again."""
        now = self._store.now()
        calls = (await self._target.pacer.take([("RunInstances", 0)])).before
        room = (await self._target.pacer.take([(INSTANCES, 0)])).before
        if min(calls, room) < 1:
            return LOOK_WHILE_PACED_S  # nothing could be begun: what waits need not be read
        waiting: list[Waiting] = []
        for namespace in sorted(
            await self._store.launch_queues(str(self._target)), key=lambda ns: self._served.get(ns, 0)
        ):
            since = await self._store.on_launch_queue(str(self._target), namespace, now, READ_FROM_QUEUE)
            keys = [key for tag in since if (key := PuterKey(namespace, tag)) not in self._busy]
            on_launch_queue = await self._read(keys)
            if plan.is_ready(on_launch_queue, since, now, most=self._most):
                waiting += on_launch_queue
        if waiting and await self._gate.open():
            return await self._begin_what_may(await self._in_parallel(waiting), now, calls=calls, room=room)
        return LOOK_EVERY_S

    async def _begin_what_may(self, waiting: Sequence[Waiting], now: float, *, calls: int, room: int) -> float:
        backoffs = await self._store.backoffs(str(self._target))
        for unit in plan.units(waiting, calls_now=calls, most=self._most):
            if len(self._tasks) >= UNITS_AT_ONCE:
                break
            choice = await self._choose(unit, backoffs, now)
            if choice.place is None:
                await self._wait_for_place(unit, choice)
                continue
            names = {capacity_name(choice.place), quota_name(choice.place.instance_type, spot=unit[0].spec.spot)}
            if names & self._probed.keys() or (choice.most < len(unit) and names & self._used.keys()):
                continue  # what is asked there now tells how much more may be
            # No group waits until there are tokens for all of it: who comes next would wait behind it.
            asked = unit[: min(choice.most, max(1, room))]
            reservation = await self._target.pacer.reserve({"RunInstances": 1, INSTANCES: len(asked)})
            if not isinstance(reservation, Reservation):
                return min(reservation, LOOK_WHILE_PACED_S)
            room -= len(asked)
            self._begin(asked, choice.place, names, reservation, probe=choice.most < FREE)
        return LOOK_EVERY_S

    async def _choose(self, unit: Unit, backoffs: Mapping[str, Backoff], now: float) -> Choice:
        shape = unit[0].shape
        zones: list[str] = []
        if backoffs and not shape.subnets:
            with suppress(Ec2Error):  # then EC2 chooses among zones that are not known here
                zones = await self._target.zones()
        wanted = places(shape.instance_types, zones, shape.subnets)
        return choose_place(wanted, backoffs, now, spot=shape.spot)

    async def _in_parallel(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Those that may be launched beside what already lives of their batches."""
        allowed: list[Waiting] = []
        room: dict[tuple[str, str], int] = {}
        txn, now = Txn(), self._store.now()
        for w in waiting:
            most, batch_id = w.record.max_parallel, w.record.batch_id
            if most is None or batch_id is None:
                allowed.append(w)
                continue
            batch = (w.key.namespace, batch_id)
            if batch not in room:
                # Begun launches first: one that ends meanwhile is then counted twice, never not at all.
                begun = sum((key.namespace, of) == batch for key, of in self._busy.items())
                room[batch] = most - begun - await self._store.parallel(*batch)
            if room[batch] > 0:
                room[batch] -= 1
                allowed.append(w)
            else:
                reason = f"waiting for one of the batch's {most} machines to end (max_parallel)"
                self._tell_waiting(txn, w, reason, now)
                self._store.put_on_launch_queue(txn, w.key, str(self._target), now + PARALLEL_AGAIN_S)
        if txn:
            await self._store.commit(txn)
        return allowed

    async def _wait_for_place(self, unit: Unit, choice: Choice) -> None:
        """No place may be asked now: wait, or give up what has waited for capacity for as long as it may."""
        now, txn = self._store.now(), Txn()
        live = await self._store.live_count(str(self._target))
        for w in unit:
            # Waiting for a quota, or for tokens while there is capacity, does not count as waiting for capacity.
            since = None if choice.dry_since is None else max(choice.dry_since, w.record.short_since or now)
            if since is not None and now - since >= w.spec.give_up_after_s:
                waited = format_duration(now - since)
                error = Ec2Error("InsufficientInstanceCapacity", f"{choice.why}; gave up after {waited}")
                self._fail(txn, w.stored, error, now)
                continue
            reason = f"{choice.why}, {live} live; next as machines end" if choice.quota else choice.why
            self._tell_waiting(txn, w, reason, now, short_since=since)
            self._store.put_on_launch_queue(txn, w.key, str(self._target), now + min(choice.wait_s, PLACE_AGAIN_S))
        await self._store.commit(txn)

    def _tell_waiting(self, txn: Txn, w: Waiting, reason: str, now: float, *, short_since: float | None = None) -> None:
        same = w.record.reason == reason
        if same and w.record.short_since == short_since:
            return
        changed_at = w.record.changed_at if same else now
        changed = w.record.replace(reason=reason, changed_at=changed_at, short_since=short_since)
        self._store.put_record(txn, w.stored, changed, event=None if same else "launch.delayed")

    def _fail(self, txn: Txn, kept: Kept[Record], error: Ec2Error, now: float) -> None:
        record = kept.value
        info = ErrorInfo(code=error.code, message=error.message, request_id=error.request_id)
        failed = record.replace(phase=Phase.FAILED, reason=error.message, error=info, changed_at=now, ended_at=now)
        self._store.put_record(txn, kept, failed, event="puter.failed", request_id=error.request_id)
        self._store.put_off_launch_queue(txn, record.key, str(self._target))
        _log.warning("puter.failed", namespace=record.namespace, tag=record.tag, code=error.code)

    async def drain(self) -> None:
        """Wait until every launch that was begun has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _begin(self, unit: Unit, place: Place, names: set[str], reservation: Reservation, *, probe: bool) -> None:
        keys = {w.key for w in unit}
        self._busy |= {w.key: w.record.batch_id for w in unit}
        self._launches += 1
        self._served[unit[0].record.namespace] = self._launches
        self._used.update(names)
        if probe:
            self._probed.update(names)
        task = asyncio.create_task(self._launch_alone(unit, place, keys, reservation))
        self._tasks.add(task)

        def done(ended: asyncio.Task[None]) -> None:
            self._tasks.discard(ended)
            self._let_go(keys)  # what was split off is no longer among them
            self._used.subtract(names)
            self._used += Counter()  # drops what is at nought
            if probe:
                self._probed.subtract(names)
                self._probed += Counter()

        task.add_done_callback(done)

    async def _launch_alone(self, unit: Unit, place: Place, held: set[PuterKey], reservation: Reservation) -> None:
        """Launch a unit; if that is interrupted, Redis holds what it leaves: queued keys, or an open intent."""
        try:
            async with reservation:
                await self._launch(unit, place, held, reservation)
        except self._store.errors as error:
            # Its text may quote what was written.
            _log.error("launch.interrupted", error=type(error).__name__, keys=len(unit))
            await asyncio.sleep(AFTER_REDIS_S)
        except Exception:  # noqa: BLE001 - a defect in one launch must not end the others
            _log.exception("launch.interrupted", keys=len(unit))

    def _let_go(self, keys: Iterable[PuterKey]) -> None:
        for key in keys:
            self._busy.pop(key, None)

    async def _read(self, keys: Sequence[PuterKey]) -> list[Waiting]:
        stored, specs = await asyncio.gather(self._store.records(keys), self._store.specs(keys))
        waiting: list[Waiting] = []
        for key, one, spec in zip(keys, stored, specs, strict=True):
            kept, txn = one.kept, Txn()
            if kept is None or kept.value.phase is not Phase.LAUNCHING or kept.value.intent:
                self._store.expect_record(txn, key, one)
                self._store.put_off_launch_queue(txn, key, str(self._target))
                await self._store.commit(txn)
            elif spec is None:
                lost = Ec2Error("SpecLost", "Redis no longer holds what was requested: submit it again")
                self._fail(txn, kept, lost, self._store.now())
                await self._store.commit(txn)
            else:
                waiting.append(Waiting(kept, spec))
        return waiting

    async def _launch(self, unit: Unit, place: Place, held: set[PuterKey], reservation: Reservation) -> None:
        """Launch a unit whose tokens are taken; `held` are the keys that no other launch begins with meanwhile."""
        try:
            prepared = await self._prepare(unit, place)
            if self._gate.epoch is None:
                await reservation.refund()
                return
            self._gate.launched()
            leased_until = self._store.now() + LEASE_S
            opened = await open_intent(self._store, self._target, unit, prepared, self._gate.epoch, reservation)
        except (UserDataTooLarge, ManifestTooLarge) as error:
            await self._split(unit, place, held, reservation, Ec2Error(error.code, str(error)))
        except Ec2Error as error:
            await self._not_prepared(unit, reservation, error)
        except self._store.refusals:
            with suppress(*self._store.errors):
                await reservation.refund()  # Redis has refused the intent: nothing is sent
            raise
        except self._store.errors:
            raise
        except Exception as error:  # noqa: BLE001 - a key that cannot be composed must not hold up all others
            _log.exception("launch.not_composed", keys=len(unit))
            defect = Ec2Error(type(error).__name__, "", handling=Handling.AGAIN)
            why = f"a defect of Puter's ({defect.code}) keeps it from its launch, see the worker's log; trying again"
            await self._split(unit, place, held, reservation, defect, why)
        else:
            if opened is not None:
                await send(self._store, self._target, opened, leased_until=leased_until)

    async def _prepare(self, unit: Unit, place: Place) -> Prepared:
        try:
            async with asyncio.timeout(PREPARE_S):
                return await prepare(self._target, unit, place, self._store.now())
        except TimeoutError:
            raise Ec2Error("Timeout", "EC2 takes long to answer", handling=Handling.AGAIN) from None
        except OSError as error:
            # The file of a key that EC2 shall make for this host.
            _log.error("key.not_kept", error=type(error).__name__, path=error.filename)
            raise Ec2Error(type(error).__name__, error.strerror or "", handling=Handling.AGAIN) from None

    async def _split(
        self,
        unit: Unit,
        place: Place,
        held: set[PuterKey],
        reservation: Reservation,
        error: Ec2Error,
        reason: str | None = None,
    ) -> None:
        """Launch half of a unit that cannot be launched as it is; of one key: wait, or fail it."""
        if len(unit) == 1:
            await self._not_prepared(unit, reservation, error, reason)
            return
        # The other half is still in the launch queue: its turn comes like everybody's, with tokens of its own.
        half = len(unit) // 2
        rest = {w.key for w in unit[half:]}
        held -= rest
        self._let_go(rest)
        await reservation.refund({INSTANCES: len(rest)})
        await self._launch(unit[:half], place, held, reservation)

    async def _not_prepared(
        self, unit: Unit, reservation: Reservation, error: Ec2Error, reason: str | None = None
    ) -> None:
        """Nothing was asked of EC2 for these keys: fail them, or let them wait where they are."""
        await reservation.refund()
        told = reason or reason_after(error)

        def put(txn: Txn, w: Waiting) -> None:
            now = self._store.now()
            if is_final(error):
                self._fail(txn, w.stored, error, now)
                return
            self._tell_waiting(txn, w, told, now, short_since=w.record.short_since)
            self._store.put_on_launch_queue(txn, w.key, str(self._target), now + TRY_AGAIN_S)

        left: Sequence[Waiting] = unit
        while left:
            written = {w.key for w in await self._store.commit_each(left, put)}
            left = await self._read([w.key for w in left if w.key not in written])


async def open_intent(
    store: WorkerStore, target: Target, unit: Unit, prepared: Prepared, epoch: Epoch, reservation: Reservation
) -> Kept[Intent] | None:
    """Make an intent durable and take its keys off the launch queue, in one transaction; None if a key has moved on."""
    intent, now, txn = prepared.intent, store.now(), Txn()
    store.expect_epoch(txn, epoch)
    full = False
    for batch_id, most in {(w.record.batch_id, w.record.max_parallel) for w in unit}:
        if most is not None and batch_id is not None:
            count = await store.parallel(intent.namespace, batch_id)
            full = full or count + len(unit) > most
            store.expect_parallel(txn, intent.namespace, batch_id, count)
    for w in unit:
        store.expect_on_launch_queue(txn, w.key, str(target))
        launching = w.record.replace(
            intent=intent.intent_id,
            reason="asking EC2 for the machine",
            changed_at=now,
            private_key_path=prepared.private_key_path or w.record.private_key_path,
        )
        detail = {"intent": intent.intent_id, "members": str(len(unit))}
        if prepared.notices:
            detail["notice"] = " ".join(prepared.notices)
        store.put_record(txn, w.stored, launching, event="launch.begun", detail=detail)
        store.put_off_launch_queue(txn, w.key, str(target))
    # From here on the end of a send is unknown until it is known: `doubtful` is what a crash leaves behind.
    doubtful = intent.replace(doubtful=True)
    kept = store.put_intent(txn, None, doubtful, lease_until=now + LEASE_S)
    broken, why = ([0], None) if full else await store.commit_durably(txn)
    if broken:
        await reservation.refund()
        return None
    if why is not None:
        _log.error("intent.not_durable", intent=intent.intent_id, why=why)
        # Nothing was sent: whoever takes it up sends it, once Redis keeps what it is told.
        await put_off(store, kept, intent, f"{why}; nothing is launched before", TRY_AGAIN_S)
        return None
    return kept
