"""Failures of batches with `max_fails`: which of their tags failed for good, and which batches are to be looked at.

A failure is counted as a member of a set, in the transaction that writes it into the record: none is lost, and none is
counted twice. Whether a batch has reached its limit follows from the size of that set alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import msgspec

from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.request import UpRequest
from puter_client.contract.result import Result
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import decode, encode

_FAILED = frozenset({Result.FAILED, Result.TIMED_OUT, Result.INTERRUPTED, Result.LOST})


class BatchLimit(msgspec.Struct, frozen=True, array_like=True):
    """How many of a batch may fail.

    Attributes:
        namespace: the batch's namespace.
        batch_id: its id.
        max_fails: as soon as so many have failed, the rest is cancelled, and what runs is stopped.
        keep_running: what runs is left running.
        owner: who submitted it.
    """

    namespace: str
    batch_id: str
    max_fails: int
    keep_running: bool
    owner: str

    @classmethod
    def of(cls, record: Record) -> Self | None:
        """The limit of the batch that requested what the record is about; None if it has none."""
        if record.max_fails is None or record.batch_id is None:
            return None
        return cls(record.namespace, record.batch_id, record.max_fails, record.keep_running, record.owner or "?")

    @classmethod
    def of_request(cls, namespace: str, request: UpRequest) -> Self | None:
        """The limit of a request's batch; None if it has none."""
        if request.max_fails is None:
            return None
        return cls(namespace, request.batch, request.max_fails, request.keep_running, request.user)

    @property
    def reason(self) -> str:
        """Why the rest of the batch does not run, once the limit is reached."""
        return f"{self.max_fails:,} of batch {self.batch_id} failed (max_fails)"


def is_failure(record: Record) -> bool:
    """Whether the record says that its request failed for good: no launch, or a workload that did not succeed.

    What somebody has stopped or cancelled did not fail. A workload that is run again has no result.
    """
    return record.result in _FAILED or (record.phase is Phase.FAILED and record.result is None)


class Failures:
    """The failed tags of batches with `max_fails`, and the batches that are to be looked at because one failed.

    Attributes:
        items: those batches, as due items.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.items = DueItems(db, names.FAILURES, topic=wakeups.FAILURES, longest_s=db.timings.failures_claim_s)

    def follow(self, txn: Txn, old: Record | None, new: Record) -> None:
        """Count a failure that the record has not told before, and have its batch looked at."""
        limit = BatchLimit.of(new)
        if limit is None or not is_failure(new) or (old is not None and is_failure(old)):
            return
        failed = names.failed(limit.namespace, limit.batch_id)
        txn.do("SADD", failed, new.tag)
        txn.keep(failed, self._db.timings.keep_s)
        # One that is being looked at keeps its time: who looks at it goes on until nothing has changed.
        self.items.add(txn, encode(limit), new.changed_at, if_new=True)

    async def counts(self, limits: Iterable[BatchLimit]) -> dict[BatchLimit, int]:
        """How many of each batch have failed."""
        distinct = list(dict.fromkeys(limits))
        if not distinct:
            return {}
        async with self._db.redis.pipeline(transaction=False) as pipe:
            for limit in distinct:
                pipe.scard(names.failed(limit.namespace, limit.batch_id))
            return dict(zip(distinct, await pipe.execute(), strict=True))

    async def reached(self, limits: Iterable[BatchLimit]) -> set[BatchLimit]:
        """The batches that have reached their limits: they stay so."""
        return {limit for limit, count in (await self.counts(limits)).items() if count >= limit.max_fails}

    def expect_not_reached(self, txn: Txn, limit: BatchLimit) -> int:
        """Guard: the batch has not reached its limit yet."""
        return txn.expect_below(names.failed(limit.namespace, limit.batch_id), limit.max_fails)

    def expect_count(self, txn: Txn, limit: BatchLimit, count: int) -> int:
        """Guard: so many of the batch have failed."""
        return txn.expect_size(names.failed(limit.namespace, limit.batch_id), count)

    async def claim(self, most: int, until: float) -> list[BatchLimit]:
        """Claim up to `most` batches that are to be looked at until that time: no other worker gets them before."""
        found = [decode(raw, BatchLimit, names.FAILURES) for raw in await self.items.claim(most, until)]
        return [limit for limit in found if limit is not None]

    def reschedule(self, txn: Txn, limit: BatchLimit, at: float) -> None:
        """Look at the batch again at this time."""
        self.items.reschedule(txn, encode(limit), at)

    def remove(self, txn: Txn, limit: BatchLimit) -> None:
        """Look at the batch no more, until another of it fails."""
        self.items.remove(txn, encode(limit))

    def put_ended(self, txn: Txn, limit: BatchLimit) -> None:
        """Note that all of the batch is cancelled, told to stop or to be left, for good."""
        txn.do("SET", names.ended(limit.namespace, limit.batch_id), 1, "EX", self._db.timings.keep_s)

    async def has_ended(self, limit: BatchLimit) -> bool:
        """Whether `put_ended` has noted the batch, so that a further failure changes nothing."""
        return bool(await self._db.redis.exists(names.ended(limit.namespace, limit.batch_id)))
