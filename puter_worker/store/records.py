"""Records and batches: what is published, and the sets that follow from a record's phase."""

from __future__ import annotations

from collections.abc import Sequence

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import ENDED, LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import Event, Record
from puter_client.contract.spec import Spec
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.base import KEEP_S, Base, Kept, Stored, decode, encode, next_rev
from puter_worker.store.txn import Txn

KEEP_EVENTS = 200
# What lies in an inbox or on a launch queue is taken up by its own loop; only should that fail is it restarted.
NOT_RESTARTED_S = 600.0


class Records(Base):
    """Reads and guarded writes of records, specs and batches."""

    async def records(self, keys: Sequence[PuterKey]) -> list[Stored[Record]]:
        """Records with their revisions, in the order of the keys."""
        async with self.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hmget(public.record(key), "rev", "doc")
            answers = await pipe.execute()
        return [
            Stored(decode(doc, Record, public.record(key)), rev) for key, (rev, doc) in zip(keys, answers, strict=True)
        ]

    async def record(self, key: PuterKey) -> Stored[Record]:
        """One record with its revision."""
        return (await self.records([key]))[0]

    async def specs(self, keys: Sequence[PuterKey]) -> list[Spec | None]:
        """The specs that the keys' records serve, in the order of the keys."""
        if not keys:
            return []
        raws = await self.redis.mget([names.spec(key) for key in keys])
        return [decode(raw, Spec, names.spec(key)) for key, raw in zip(keys, raws, strict=True)]

    def put_spec(self, txn: Txn, key: PuterKey, spec: Spec) -> None:
        """Keep the spec that the key's record serves from now on."""
        txn.do("SET", names.spec(key), encode(spec), "EX", KEEP_S)

    def expect_record(self, txn: Txn, key: PuterKey, as_read: Stored[Record] | Kept[Record]) -> None:
        """The key's record is still as it was read."""
        txn.expect(public.record(key), "rev", as_read.rev)

    def put_record(
        self,
        txn: Txn,
        old: Stored[Record] | Kept[Record],
        new: Record,
        *,
        event: str | None = None,
        request_id: str | None = None,
        detail: dict[str, str] | None = None,
    ) -> int:
        """Write a record if it is still as read, and all that follows from it: indexes, timeline, channel.

        Returns the number of its guard. This is the one place where a phase decides in which sets a key is.
        """
        key, text = new.key, str(new.key)
        guard = txn.expect(public.record(key), "rev", old.rev)
        txn.do("HSET", public.record(key), "doc", encode(new), "rev", next_rev(old.rev))
        txn.keep(public.record(key), KEEP_S + max(0, (new.ttl_s or 0)))
        txn.keep(public.events(key), KEEP_S)
        if event is None and old.value is not None and old.value.phase is new.phase:
            return guard
        was = old.value.phase if old.value else None
        if was is not new.phase:
            self._put_in_sets(txn, old.value, new)
        if new.max_parallel is not None and new.batch_id is not None:
            parallel = names.parallel(new.namespace, new.batch_id)
            if new.intent is not None or new.phase in LIVE:
                txn.do("SADD", parallel, new.tag)
                txn.keep(parallel, KEEP_S)
            else:
                txn.do("SREM", parallel, new.tag)
        if event:
            line = Event(
                at=new.changed_at,
                event=event,
                generation=new.generation,
                phase=new.phase,
                reason=new.reason,
                request_id=request_id,
                detail=detail or {},
            )
            txn.do("RPUSH", public.events(key), encode(line))
            txn.do("LTRIM", public.events(key), -KEEP_EVENTS, -1)
            txn.keep(public.events(key), KEEP_S)
        txn.once("PUBLISH", public.channel(key.namespace), text.partition("/")[2])
        return guard

    def _put_in_sets(self, txn: Txn, old: Record | None, new: Record) -> None:
        key, index = str(new.key), public.index(new.namespace)
        ended = new.phase in ENDED
        txn.do("ZADD", index, new.changed_at if ended else "+inf", new.tag)
        txn.keep(index, KEEP_S)
        if new.phase in ON_ITS_WAY:
            txn.do("ZADD", names.MOVING, new.changed_at + NOT_RESTARTED_S, key)
            txn.keep(names.MOVING, KEEP_S)
        else:
            txn.do("ZREM", names.MOVING, key)
        if new.target and new.phase in LIVE:
            txn.do("ZADD", names.live(new.target), new.changed_at, key)
            txn.keep(names.live(new.target), KEEP_S)
            self.put_target(txn, new.target, new.changed_at)
            if new.phase is Phase.PENDING or new.public_ip is None:
                txn.do("SADD", names.starting(new.target), key)
                txn.keep(names.starting(new.target), KEEP_S)
            else:
                txn.do("SREM", names.starting(new.target), key)
            if not new.labelled:
                txn.do("ZADD", names.labels(new.target), "NX", new.changed_at, f"{key}#{new.generation}")
                txn.keep(names.labels(new.target), KEEP_S)
        elif old and old.target and old.phase in LIVE:
            txn.do("ZREM", names.live(old.target), key)
            txn.do("SREM", names.starting(old.target), key)
            txn.do("ZREM", names.labels(old.target), f"{key}#{old.generation}")

    def put_target(self, txn: Txn, target: str, now: float) -> None:
        """The target has something to do: some worker shall lead it."""
        txn.once("ZADD", names.TARGETS, now, target)
        txn.keep(names.TARGETS, KEEP_S)

    def put_batch(self, txn: Txn, info: BatchInfo) -> None:
        """Keep the head of a batch, as it was first seen."""
        name = public.batch(info.namespace, info.batch_id)
        txn.once("HSETNX", name, public.BATCH_INFO, encode(info))
        txn.keep(name, KEEP_S)
        txn.once("ZADD", public.batches(info.namespace), "NX", info.created_at, info.batch_id)
        txn.keep(public.batches(info.namespace), KEEP_S)

    def put_row(self, txn: Txn, key: PuterKey, batch_id: str, row: BatchRow) -> None:
        """Tell in a batch what became of its request for this key."""
        txn.do("HSET", public.batch(key.namespace, batch_id), key.tag, encode(row))
        txn.once("PUBLISH", public.channel(key.namespace), key.tag)
