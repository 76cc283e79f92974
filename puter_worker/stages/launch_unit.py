"""One launch: prepares its image, key pair and security group, makes its intent durable, and sends it.

The keys of a unit stay in the launch queue until their intent is stored; `launch` says why an interruption at any point
is harmless.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from puter_client.contract import transitions
from puter_client.contract.key import PuterKey
from puter_client.contract.record import EventKind
from puter_worker.errors import (
    KeyNotKept,
    LaunchNotComposed,
    LaunchTooLarge,
    PrepareTimedOut,
    StageError,
    is_final,
    reason_after,
)
from puter_worker.memory import Epoch
from puter_worker.pacer import Reservation
from puter_worker.rates import INSTANCES
from puter_worker.stages.limits import Limits
from puter_worker.stages.members import Members
from puter_worker.stages.plan import Unit, Waiting
from puter_worker.stages.prepare import Prepared, prepare
from puter_worker.stages.quarantine import Quarantine
from puter_worker.stages.queued import put_failed, put_waiting, read_waiting
from puter_worker.stages.send import Sender
from puter_worker.store.failures import BatchLimit
from puter_worker.store.intent import Intent, Place
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.launch")
LetGo = Callable[[Iterable[PuterKey]], None]


@dataclass
class LaunchUnit:
    """A unit that is being launched.

    Attributes:
        unit: its keys; fewer after a split.
        place: what to launch, and where.
        reservation: its tokens.
        held: keys that no other launch may begin with until this one ends.
    """

    unit: Unit
    place: Place
    reservation: Reservation
    held: set[PuterKey] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.held = {one.key for one in self.unit}


class UnitLauncher:
    """Launches units of one target."""

    def __init__(self, store: Store, target: Target, gate: Quarantine, timings: Timings, limits: Limits) -> None:
        self._store = store
        self._target = target
        self._gate = gate
        self._timings = timings
        self._limits = limits
        self._members = Members(store, target, timings)
        self._sender = Sender(store, target, timings)

    async def launch(self, launch: LaunchUnit, *, let_go: LetGo) -> None:
        """Launch a unit whose tokens are reserved; `let_go` is called with keys that are split off."""
        try:
            prepared = await self._prepare(launch)
            if self._gate.epoch is None:
                await launch.reservation.refund()
                return
            self._gate.remember_launch()
            leased_until = self._store.now() + self._timings.intent_lease_s
            opened = await self.open_intent(launch, prepared, self._gate.epoch)
        except LaunchTooLarge as error:
            await self._split(launch, error, let_go)
        except StageError as error:
            await self._not_prepared(launch, error)
        except self._store.refusals:
            with suppress(*self._store.errors):
                await launch.reservation.refund()  # Redis has refused the intent, so nothing is sent
            raise
        except self._store.errors:
            raise
        except Exception as error:  # noqa: BLE001 - a key that cannot be composed must not hold up all others
            _log.exception("launch.not_composed", keys=len(launch.unit))
            why = f"an internal error in Puter ({type(error).__name__}) prevents its launch, see the worker's log"
            await self._split(launch, LaunchNotComposed(why), let_go)
        else:
            if opened is not None and await self._gate.saw_launch():
                await self._sender.send(opened, leased_until=leased_until)

    async def _prepare(self, launch: LaunchUnit) -> Prepared:
        try:
            async with asyncio.timeout(self._timings.prepare_s):
                return await prepare(self._target, launch.unit, launch.place, self._store.now())
        except TimeoutError:
            raise PrepareTimedOut("EC2 did not answer in time") from None
        except OSError as error:
            # The file for a key that EC2 would make for this host cannot be written.
            _log.error("key.not_kept", error=type(error).__name__, path=error.filename)
            raise KeyNotKept(f"the key's file cannot be written: {error.strerror or type(error).__name__}") from None

    async def _split(self, launch: LaunchUnit, error: StageError, let_go: LetGo) -> None:
        """Launch only the first half of a unit that cannot be launched as it is; a single key waits or fails."""
        if len(launch.unit) == 1:
            await self._not_prepared(launch, error)
            return
        # The other half is still in the launch queue: it is launched later, with tokens of its own.
        half = len(launch.unit) // 2
        rest = {one.key for one in launch.unit[half:]}
        launch.unit = launch.unit[:half]
        launch.held -= rest
        let_go(rest)
        await launch.reservation.refund({INSTANCES: len(rest)})
        await self.launch(launch, let_go=let_go)

    async def _not_prepared(self, launch: LaunchUnit, error: StageError) -> None:
        """The launch was not sent: fail its keys, or let them wait in the launch queue."""
        await launch.reservation.refund()
        target, reason = str(self._target), reason_after(error)

        def put(txn: Txn, one: Waiting) -> None:
            now = self._store.now()
            if is_final(error):
                put_failed(self._store, txn, target, one.stored, error, now)
                return
            at = now + self._timings.launch_again_s
            put_waiting(self._store, txn, one, reason, at, short_since=one.record.short_since)

        left: Sequence[Waiting] = launch.unit
        while left:
            written = {one.key for one in await self._store.commit_each(left, put)}
            left = await read_waiting(self._store, target, [one.key for one in left if one.key not in written])

    async def open_intent(self, launch: LaunchUnit, prepared: Prepared, epoch: Epoch) -> Versioned[Intent] | None:
        """Make an intent durable and remove its keys from the queue, in one transaction; None if a key has moved on."""
        now, txn = self._store.now(), Txn()
        self._store.epochs.put_launch(txn, epoch)
        self._expect_room(txn, launch.unit)
        limits = self._limits.expect_room(txn, launch.unit, prepared.vcpus)
        for one in launch.unit:
            self._put_launching(txn, one, prepared, members=len(launch.unit), now=now)
        # The stored intent is doubtful, because after a crash it is not known whether it was sent.
        doubtful = prepared.intent.replace(doubtful=True)
        opened = self._store.intents.put(txn, None, doubtful, lease_until=now + self._timings.intent_lease_s)
        broken, why = await self._store.commit_durably(txn)
        if broken:
            await launch.reservation.refund()
            if (rule := next((limits[number] for number in broken if number in limits), None)) is not None:
                await self._limits.no_room(launch.unit, rule)
            return None
        if why is not None:
            _log.error("intent.not_durable", intent=doubtful.intent_id, why=why)
            # Nothing was sent. The worker that takes the intent up sends it, once Redis can make it durable.
            reason = f"{why}; launches wait until this works"
            await self._members.delayed(opened, prepared.intent, reason, self._timings.launch_again_s)
            return None
        return opened

    def _expect_room(self, txn: Txn, unit: Unit) -> None:
        """Add guards on batches: those with max_parallel have room, those with max_fails have not failed."""
        namespace = unit[0].key.namespace
        for limit in {limit for one in unit if (limit := BatchLimit.of(one.record)) is not None}:
            self._store.failures.expect_not_reached(txn, limit)
        for batch_id, most in {(one.record.batch_id, one.record.max_parallel) for one in unit}:
            if most is not None and batch_id is not None:
                self._store.batches.expect_room(txn, namespace, batch_id, most=most, more=len(unit))

    def _put_launching(self, txn: Txn, one: Waiting, prepared: Prepared, *, members: int, now: float) -> None:
        intent_id = prepared.intent.intent_id
        self._store.launch_queue.expect(txn, str(self._target), one.key)
        launching = transitions.launching(
            one.record,
            intent_id,
            now,
            ssh_user=prepared.ssh_user,
            private_key_path=prepared.private_key_path,
            vcpus=prepared.vcpus,
        )
        detail = {"intent": intent_id, "members": str(members)}
        if prepared.notices:
            detail["notice"] = "\n".join(prepared.notices)
        self._store.records.put(txn, one.stored, launching, event=EventKind.LAUNCH_BEGUN, detail=detail)
        self._store.launch_queue.remove(txn, str(self._target), one.key)
