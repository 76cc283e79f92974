"""Look-ups and launch queues: the keys that wait for EC2's word, or for their launch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from puter_client.contract.key import PuterKey
from puter_worker.store import names
from puter_worker.store.backoff import Backoff
from puter_worker.store.base import KEEP_S, decode, encode
from puter_worker.store.records import Records
from puter_worker.store.txn import Txn


class LaunchQueues(Records):
    """Look-ups and launch queues of targets, each a sorted set a namespace."""

    def put_on_launch_queue(self, txn: Txn, key: PuterKey, target: str, at: float, *, again: bool = False) -> None:
        """The key waits on its target's launch queue; it may be launched from this time on.

        `again`: if it waits there already, it keeps its time.
        """
        pad = names.launch_queue(target, key.namespace)
        txn.do("ZADD", pad, *(["NX"] if again else []), at, key.tag)
        txn.keep(pad, KEEP_S)
        txn.once("SADD", names.launch_queues(target), key.namespace)
        txn.keep(names.launch_queues(target), KEEP_S)
        self.put_target(txn, target, at)

    def put_off_launch_queue(self, txn: Txn, key: PuterKey, target: str) -> None:
        """The key no longer waits in the launch queue."""
        txn.do("ZREM", names.launch_queue(target, key.namespace), key.tag)

    def expect_on_launch_queue(self, txn: Txn, key: PuterKey, target: str) -> None:
        """The key still waits in the launch queue."""
        txn.expect_member(names.launch_queue(target, key.namespace), key.tag)

    async def launch_queues(self, target: str) -> list[str]:
        """Namespaces with a launch queue of the target that is not empty."""
        return await self._with_any(
            names.launch_queues(target), lambda namespace: names.launch_queue(target, namespace)
        )

    async def on_launch_queue(self, target: str, namespace: str, now: float, most: int) -> dict[str, float]:
        """Tags on a launch queue that may be launched, with the time from which they may, the earliest first."""
        return await self._due(names.launch_queue(target, namespace), now, most)

    def put_on_look_up(self, txn: Txn, key: PuterKey, target: str, at: float) -> None:
        """The key shall be looked up in EC2, from this time on."""
        look_ups = names.look_ups(target, key.namespace)
        txn.do("ZADD", look_ups, at, key.tag)
        txn.keep(look_ups, KEEP_S)
        txn.once("SADD", names.looking(target), key.namespace)
        txn.keep(names.looking(target), KEEP_S)
        self.put_target(txn, target, at)

    def put_off_look_up(self, txn: Txn, key: PuterKey, target: str) -> None:
        """The key is looked up, or no longer to be."""
        txn.do("ZREM", names.look_ups(target, key.namespace), key.tag)

    async def looking(self, target: str) -> list[str]:
        """Namespaces with keys that are to be looked up."""
        return await self._with_any(names.looking(target), lambda namespace: names.look_ups(target, namespace))

    async def look_ups(self, target: str, namespace: str, now: float, most: int) -> dict[str, float]:
        """Tags that are to be looked up and that nobody is at, with the time from which, the earliest first."""
        return await self._due(names.look_ups(target, namespace), now, most)

    async def claim_look_ups(self, target: str, keys: Sequence[PuterKey], until: float) -> None:
        """Nobody else shall look these keys of one namespace up until a time."""
        claimed = {key.tag: until for key in keys}
        await self.redis.zadd(names.look_ups(target, keys[0].namespace), claimed, xx=True)

    async def _with_any(self, of: str, waiting: Callable[[str], str]) -> list[str]:
        """Those of a set of namespaces in whose sorted set anything waits; the others are taken off."""
        namespaces = [raw.decode() for raw in await self.redis.smembers(of)]
        if not namespaces:
            return []
        async with self.redis.pipeline(transaction=False) as pipe:
            for namespace in namespaces:
                pipe.zcard(waiting(namespace))
            sizes = await pipe.execute()
        for namespace, size in zip(namespaces, sizes, strict=True):
            if not size:
                await self.scripts.leave(keys=[of, waiting(namespace)], args=[namespace])
        return [namespace for namespace, size in zip(namespaces, sizes, strict=True) if size]

    async def _due(self, name: str, now: float, most: int) -> dict[str, float]:
        pairs = await self.redis.zrangebyscore(name, "-inf", now, start=0, num=most, withscores=True)
        return {tag.decode(): at for tag, at in pairs}

    async def backoffs(self, target: str) -> dict[str, Backoff]:
        """How much may be requested, by the name of a place or quota; what is missing is free."""
        raws = await self.redis.hgetall(names.backoffs(target))
        found = {name.decode(): decode(raw, Backoff, names.backoffs(target)) for name, raw in raws.items()}
        return {name: backoff for name, backoff in found.items() if backoff is not None}

    def put_backoff(self, txn: Txn, target: str, name: str, backoff: Backoff | None) -> None:
        """Keep what was learned of a place or quota; None: it is free."""
        if backoff is None:
            txn.do("HDEL", names.backoffs(target), name)
            return
        txn.do("HSET", names.backoffs(target), name, encode(backoff))
        txn.keep(names.backoffs(target), KEEP_S)

    async def parallel(self, namespace: str, batch_id: str) -> int:
        """How many of a batch's tags are launched or alive, of a batch with `max_parallel`."""
        return int(await self.redis.scard(names.parallel(namespace, batch_id)))

    def expect_parallel(self, txn: Txn, namespace: str, batch_id: str, count: int) -> None:
        """Still as many are."""
        txn.expect_size(names.parallel(namespace, batch_id), count)
