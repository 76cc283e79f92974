"""Batches: their heads, the outcome of each request, and which of their keys count against max_parallel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence

import msgspec

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.key import TAG, PuterKey
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import encode

READ_AT_ONCE = 500


class Known(msgspec.Struct, frozen=True):
    """What is there of some batches.

    Attributes:
        rows: those of their rows (batch id and tag) that are there: these requests have come before.
        batches: ids of those that have a head.
    """

    rows: set[tuple[str, str]]
    batches: set[str]


class Batches:
    """What is published about batches, and the live sets of batches with max_parallel."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, txn: Txn, info: BatchInfo, *, only_for_s: int | None = None) -> None:
        """Store the head of a batch; one that is stored already does not change.

        `only_for_s`: a new batch is kept for this time, unless something is put into it that is kept for longer.
        """
        name, keep_s = public.batch(info.namespace, info.batch_id), self._db.timings.keep_s
        txn.once("HSETNX", name, public.BATCH_INFO, encode(info))
        txn.keep(name, keep_s if only_for_s is None else only_for_s, only_new=only_for_s is not None)
        index = public.batches(info.namespace)
        txn.once("ZADD", index, "NX", info.created_at, info.batch_id)
        txn.once("ZREMRANGEBYSCORE", index, "-inf", self._db.now() // 60 * 60 - keep_s)
        txn.keep(index, keep_s)

    def put_row(self, txn: Txn, key: PuterKey, batch_id: str, row: BatchRow) -> None:
        """Write the outcome of a batch's request for this key into the batch's row."""
        txn.do("HSET", public.batch(key.namespace, batch_id), key.tag, encode(row))
        txn.once("PUBLISH", public.channel(key.namespace), key.tag)

    async def known(self, namespace: str, rows: Iterable[tuple[str, str]]) -> Known:
        """What is there of these rows (batch id and tag)."""
        tags: dict[str, list[str]] = defaultdict(list)
        for batch_id, tag in rows:
            tags[batch_id].append(tag)
        async with self._db.redis.pipeline(transaction=False) as pipe:
            for batch_id, some in tags.items():
                pipe.hmget(public.batch(namespace, batch_id), [public.BATCH_INFO, *some])
            found = await pipe.execute() if tags else []
        known = Known(rows=set(), batches=set())
        for (batch_id, some), (head, *raws) in zip(tags.items(), found, strict=True):
            if head is not None:
                known.batches.add(batch_id)
            known.rows.update((batch_id, tag) for tag, raw in zip(some, raws, strict=True) if raw is not None)
        return known

    def put_member(self, txn: Txn, record: Record) -> None:
        """Add the key to its batch's live set, or remove it; only batches with max_parallel have a live set."""
        if record.max_parallel is None or record.batch_id is None:
            return
        live = names.parallel(record.namespace, record.batch_id)
        if record.intent is not None or record.phase in LIVE:
            txn.do("SADD", live, record.tag)
            txn.keep(live, self._db.timings.keep_s)
        else:
            txn.do("SREM", live, record.tag)

    def renew(self, txn: Txn, record: Record) -> None:
        """Extend the life of the live set that the key is in, if it is in one."""
        if record.max_parallel is not None and record.batch_id is not None:
            txn.keep(names.parallel(record.namespace, record.batch_id), self._db.timings.keep_s)

    async def tags(self, namespace: str, batch_id: str) -> AsyncIterator[list[str]]:
        """The tags of a batch whose requests workers have taken, some hundred at a time; one may come twice."""
        name, cursor = public.batch(namespace, batch_id), 0
        while True:
            cursor, rows = await self._db.redis.hscan(name, cursor, count=READ_AT_ONCE)
            if tags := [tag for raw in rows if TAG.fullmatch(tag := raw.decode(errors="replace"))]:
                yield tags
            if cursor == 0:
                return

    async def live_count(self, namespace: str, batch_id: str, begun: Sequence[str] = ()) -> int:
        """How many tags of a batch with max_parallel are launched or alive, or among those whose launch has begun."""
        live = names.parallel(namespace, batch_id)
        async with self._db.redis.pipeline(transaction=True) as pipe:
            pipe.scard(live)
            for tag in begun:
                pipe.sismember(live, tag)
            count, *counted = await pipe.execute()
        return int(count) + len(begun) - sum(map(int, counted))

    def expect_room(self, txn: Txn, namespace: str, batch_id: str, *, most: int, more: int) -> int:
        """Guard: the batch's live set has at most `most` members when it gets so many more."""
        return txn.expect_below(names.parallel(namespace, batch_id), most - more + 1)
