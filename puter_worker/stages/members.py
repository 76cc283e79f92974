"""Writes the outcome of an intent into its members' records. The third part of launch.

May run twice: each transaction writes a member only if its record still names the intent. A transaction that fails
members, or puts them back into the launch queue, also has the intent's revision as a guard: another worker that has
taken the intent up meanwhile may be sending it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from puter_client.contract import transitions
from puter_client.contract.batch import BatchRow
from puter_client.contract.order import OrderKind
from puter_client.contract.outcome import Outcome
from puter_client.contract.record import EventKind, Record
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.tags import is_labelled
from puter_worker.errors import StageError
from puter_worker.stages.backoffs import after_success, capacity_name, is_of_capacity, names_of
from puter_worker.stages.facts import generation_of, with_instance
from puter_worker.store.backoff import Backoff
from puter_worker.store.intent import Intent
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.launch")
PutMember = Callable[[Txn, str, Versioned[Record], float], None]


class Members:
    """Writes the outcomes of one target's intents into their members' records."""

    def __init__(self, store: Store, target: Target, timings: Timings) -> None:
        self._store = store
        self._target = target
        self._timings = timings

    async def launched(
        self,
        intent: Intent,
        found: Mapping[str, Instance],
        *,
        request_id: str | None = None,
        missing_ended: bool = False,
    ) -> None:
        """Give each member its instance, put those without one back into the launch queue, and close the intent.

        `missing_ended`: EC2 has said that the machines of members without an instance have ended.
        """
        backoffs = await self._store.backoffs.read(intent.target)
        while True:
            txn = Txn()
            for tag, current in await self._of(intent):
                instance = found.get(tag)
                if instance is not None:
                    self._put_launched(txn, intent, current, instance, request_id)
                elif missing_ended:
                    over = transitions.terminated(current.value, "ended before EC2 showed it", self._store.now())
                    self._store.records.put(txn, current, over, event=EventKind.INSTANCE_TERMINATED)
                else:
                    reason = "EC2 launched fewer machines than requested; waiting for the next launch"
                    self._put_back(txn, current, current.value, reason)
            self._put_success(txn, intent, backoffs, len(found), whole=missing_ended)
            self._store.intents.close(txn, intent)
            if not await self._store.commit(txn):
                break
        _log.info(
            "intent.closed",
            intent=intent.intent_id,
            namespace=intent.namespace,
            members=len(intent.members),
            launched=len(found),
            request_id=request_id,
            instance_ids=[instance.instance_id for instance in found.values()],
        )

    def _put_launched(
        self, txn: Txn, intent: Intent, current: Versioned[Record], instance: Instance, request_id: str | None
    ) -> None:
        record = current.value
        launched = record.replace(
            labelled=len(intent.members) == 1 or is_labelled(instance.tags),
            short_since=None,
            generation=max(record.generation, generation_of(instance, unknown=0)),
        )
        alive = with_instance(launched, instance, self._target.target_id, self._store.now(), self._timings)
        detail = {"instance": instance.instance_id, "intent": intent.intent_id}
        self._store.records.put(
            txn, current, alive, event=EventKind.INSTANCE_LAUNCHED, request_id=request_id, detail=detail
        )

    def _put_success(
        self, txn: Txn, intent: Intent, backoffs: Mapping[str, Backoff], launched: int, *, whole: bool
    ) -> None:
        """Update the backoffs that limited a launch, after it."""
        for name in names_of(intent.place, intent.disk) if launched else ():
            if name in backoffs:
                self._store.backoffs.put(txn, intent.target, name, after_success(backoffs[name], launched))
        if 0 < launched < len(intent.members) and not whole:
            # There was no capacity for all: the next launch tries one machine, for which EC2 gives the reason.
            one = Backoff(self._store.now(), 1, "EC2 launched fewer than requested")
            self._store.backoffs.put(txn, intent.target, capacity_name(intent.place), one)

    async def failed(self, current: Versioned[Intent], error: StageError) -> None:
        """Close the intent and fail its members, unless another worker has taken it up: it may be sending it."""

        def put(txn: Txn, tag: str, member: Versioned[Record], now: float) -> None:
            failed = transitions.failed(member.value, error.info, now)
            event, request_id = EventKind.PUTER_FAILED, error.request_id
            self._store.records.put(txn, member, failed, event=event, request_id=request_id)
            _log.warning("puter.failed", namespace=current.value.namespace, tag=tag, code=error.code)

        await self._close(current, put)

    async def queued_again(
        self,
        current: Versioned[Intent],
        reason: str,
        *,
        pause_s: float = 0.0,
        error: StageError | None = None,
        backoffs: Mapping[str, Backoff] | None = None,
        anew: bool = False,
    ) -> None:
        """Close the intent and put its members back, unless another worker has taken it up: it may be sending it.

        `error`: the refusal of EC2. `backoffs`: the backoffs that follow from it. `anew`: whether the resources of the
        launch (image, key pair, security group) are read or made again.
        """

        def put(txn: Txn, _tag: str, member: Versioned[Record], now: float) -> None:
            record = member.value
            if backoffs is not None:
                # Waiting for a quota does not count as waiting for capacity.
                short = record.short_since or now if any(map(is_of_capacity, backoffs)) else None
                record = record.replace(short_since=short)
            if anew:
                record = record.replace(made_anew=record.made_anew + 1)
            self._put_back(txn, member, record, reason, pause_s, error)

        await self._close(current, put, backoffs or {})

    async def queued_after(self, current: Versioned[Intent], ended: Mapping[str, Instance], reason: str) -> None:
        """Close the intent and put its members back, with the generations after those that Redis had forgotten."""

        def put(txn: Txn, tag: str, member: Versioned[Record], _now: float) -> None:
            record = member.value
            known = ended[tag].name if tag in ended else None
            reached = max(record.generation, known[1] if known else 0)
            self._put_back(txn, member, record.replace(generation=reached + 1), reason)

        await self._close(current, put)

    async def _close(
        self, current: Versioned[Intent], put: PutMember, backoffs: Mapping[str, Backoff] | None = None
    ) -> None:
        """Close the intent, with `put` for each member, unless another worker has taken the intent up."""
        intent = current.value
        while True:
            now, txn = self._store.now(), Txn()
            ours = self._store.intents.expect(txn, current)
            for name, backoff in (backoffs or {}).items():
                self._store.backoffs.put(txn, intent.target, name, backoff)
            for tag, member in await self._of(intent):
                put(txn, tag, member, now)
            self._store.intents.close(txn, intent)
            broken = await self._store.commit(txn)
            if not broken or ours in broken:
                return

    def _put_back(
        self,
        txn: Txn,
        current: Versioned[Record],
        record: Record,
        reason: str,
        pause_s: float = 0.0,
        error: StageError | None = None,
    ) -> None:
        now = self._store.now()
        if record.order is not None and record.order.kind is OrderKind.STOP:
            self._put_stopped(txn, current, record, now)
            return
        waiting = transitions.back_in_queue(record, reason, now)
        request_id = error.request_id if error else None
        self._store.records.put(txn, current, waiting, event=EventKind.LAUNCH_PUT_OFF, request_id=request_id)
        self._store.launch_queue.add(txn, str(self._target), record.key, now + pause_s)

    def _put_stopped(self, txn: Txn, current: Versioned[Record], record: Record, now: float) -> None:
        """Its owner has ordered its end while its launch was sent, and nothing was launched."""
        user = record.order.user if record.order else "?"
        over = transitions.cancelled(record.replace(intent=None), user, now)
        self._store.records.put(txn, current, over, event=EventKind.REQUEST_CANCELLED)
        if over.batch_id:
            row = BatchRow(outcome=Outcome.CANCELLED, generation=over.generation, request_number=over.request_number)
            self._store.batches.put_row(txn, over.key, over.batch_id, row)

    async def delayed(
        self,
        current: Versioned[Intent],
        intent: Intent,
        reason: str,
        pause_s: float,
        *,
        error: StageError | None = None,
    ) -> None:
        """Leave an intent open, to be taken up after a pause, and write the reason into its members' records.

        `current`: the intent as it is stored; `intent`: as it is to be stored; `error`: EC2's error, if there was one.
        """
        request_id = error.request_id if error else None
        while True:
            now, txn = self._store.now(), Txn()
            self._store.intents.put(txn, current, intent, lease_until=now + pause_s)
            guards = txn.guards
            for _, member in await self._of(intent):
                waiting = transitions.waiting(member.value, reason, now)
                if waiting != member.value:
                    event = EventKind.LAUNCH_DELAYED
                    self._store.records.put(txn, member, waiting, event=event, request_id=request_id)
            broken = await self._store.commit(txn)
            if not broken or broken[0] < guards:
                return  # it is written, or another worker has taken the intent up

    async def made_anew(self, intent: Intent) -> int:
        """How often the resources of a launch were read or made again, for the member with the highest count."""
        return max((member.value.made_anew for _, member in await self._of(intent)), default=0)

    async def _of(self, intent: Intent) -> list[tuple[str, Versioned[Record]]]:
        """The members whose records still wait for this intent, by tag."""
        records = await self._store.records.read(intent.keys)
        return [
            (member.tag, current)
            for member, stored in zip(intent.members, records, strict=True)
            if (current := stored.found()) is not None and current.value.intent == intent.intent_id
        ]
