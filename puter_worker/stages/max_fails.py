"""max_fails: ends batches of which too many have failed. A stage of every worker.

May run twice: each record is written with its revision as a guard, and what is cancelled or told to stop is left alone
the next time. A batch is due from the transaction that writes a failure until all of it has been seen to; if the worker
is killed before, the batch is due again when its claim ends. That it has reached its limit follows from the set of its
failed tags, which never shrinks. Nothing of it comes later: intake cancels further requests, results further retries.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import structlog

from puter_client.contract import transitions
from puter_client.contract.key import PuterKey
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.phase import LIVE, ON_ITS_WAY
from puter_client.contract.record import EventKind, Record
from puter_worker.stages.cancelled import put_cancelled
from puter_worker.stages.decide import may_be_cancelled
from puter_worker.stages.stage import Stage, until_due
from puter_worker.store import wakeups
from puter_worker.store.failures import BatchLimit
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.max_fails")
AT_ONCE = 10


class MaxFails(Stage):
    """Cancels what is left of batches that have reached their `max_fails`, and has what runs of them stopped."""

    name = "max_fails"
    topics = frozenset({wakeups.FAILURES})
    least_gap_s = 0.02

    def __init__(self, store: Store, timings: Timings) -> None:
        super().__init__()
        self._store = store
        self._timings = timings

    async def run_once(self) -> float:
        """See to the batches that are due."""
        until = self._store.now() + self._timings.failures_claim_s
        claimed = await self._store.failures.claim(AT_ONCE, until)
        for limit in claimed:
            await self._see_to(limit)
        if claimed:
            return 0.0
        due = await self._store.failures.items.next_due()
        return until_due(due, self._store.now(), at_most=self._timings.sweep_s)

    async def _see_to(self, limit: BatchLimit) -> None:
        failures = self._store.failures
        while True:
            count, txn = (await failures.counts([limit]))[limit], Txn()
            if count >= limit.max_fails and not await failures.has_ended(limit):
                break
            failures.expect_count(txn, limit, count)
            failures.remove(txn, limit)
            if not await self._store.commit(txn):
                return
        _log.warning("batch.ending", namespace=limit.namespace, batch=limit.batch_id, failed=count)
        txn = Txn()
        if await self._end(limit):
            failures.put_ended(txn, limit)
            failures.remove(txn, limit)
        else:
            failures.reschedule(txn, limit, self._store.now() + self._timings.failures_again_s)
        await self._store.commit(txn)

    async def _end(self, limit: BatchLimit) -> bool:
        """Cancel or stop what is left of a batch; returns whether all of it has been seen to."""
        complete = True
        async for tags in self._store.batches.tags(limit.namespace, limit.batch_id):
            stored = await self._store.records.read([PuterKey(limit.namespace, tag) for tag in tags])
            found = [current for one in stored if (current := one.found()) is not None]
            now = self._store.now()
            after = [(one, after_limit(one.value, limit, now)) for one in found]
            changed = [(one, record) for one, record in after if record is not None]
            written = await self._store.commit_each(changed, lambda txn, one: self._put(txn, *one, limit))
            complete = complete and len(written) == len(changed) and not any_undecided(found, limit)
            txn = Txn()
            self._store.failures.reschedule(txn, limit, self._store.now() + self._timings.failures_claim_s)
            await self._store.commit(txn)
        return complete

    def _put(self, txn: Txn, current: Versioned[Record], record: Record, limit: BatchLimit) -> None:
        if record.order is not None and record.ended_at is None:
            detail = {"order": record.order.kind.value, "user": record.order.user, "reason": limit.reason}
            self._store.records.put(txn, current, record, event=EventKind.ORDER_GIVEN, detail=detail)
            return
        self._store.records.put(txn, current, record, event=EventKind.REQUEST_CANCELLED)
        put_cancelled(self._store, txn, record, limit.reason)


def after_limit(record: Record, limit: BatchLimit, now: float) -> Record | None:
    """The record of a batch that has reached its limit: cancelled, or ordered to stop; None if it stays as it is. Pure.

    A machine that another batch has requested is not this batch's to stop; one that is kept after its workload does not
    run anything of it any more.
    """
    if record.batch_id != limit.batch_id or record.result is not None:
        return None
    if may_be_cancelled(record):
        return transitions.cancelled(record, limit.owner, now, why=limit.reason)
    if limit.keep_running or not (record.phase in LIVE or record.phase in ON_ITS_WAY):
        return None
    if record.order is not None and record.order.kind is OrderKind.STOP:
        return None
    order = Order(kind=OrderKind.STOP, user=limit.owner, given_at=now, reason=limit.reason)
    return msgspec.structs.replace(record, order=order)


def any_undecided(found: Sequence[Versioned[Record]], limit: BatchLimit) -> bool:
    """Whether launches of the batch are being sent that get no order: refused ones are to be cancelled then. Pure."""
    return limit.keep_running and any(
        one.value.batch_id == limit.batch_id and one.value.phase in ON_ITS_WAY and one.value.intent is not None
        for one in found
    )
