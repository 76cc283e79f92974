"""Look-ups and launchpads: the keys that wait for EC2's word, or for their launch."""

from __future__ import annotations

from collections.abc import Sequence

from puter_client.contract.key import PuterKey
from puter_worker.store import names
from puter_worker.store.base import KEEP_S, decode, encode
from puter_worker.store.brake import Brake
from puter_worker.store.records import Records
from puter_worker.store.txn import Txn


class Pads(Records):
    """Look-ups of fleets, and their launchpads, one a namespace."""

    def put_on_pad(self, txn: Txn, key: PuterKey, fleet: str, at: float, *, again: bool = False) -> None:
        """The key waits on its fleet's launchpad; it may be launched from this time on.

        `again`: if it waits there already, it keeps its time.
        """
        pad = names.pad(fleet, key.namespace)
        txn.do("ZADD", pad, *(["NX"] if again else []), at, key.tag)
        txn.keep(pad, KEEP_S)
        txn.once("SADD", names.pads(fleet), key.namespace)
        txn.keep(names.pads(fleet), KEEP_S)
        self.put_fleet(txn, fleet, at)

    def put_off_pad(self, txn: Txn, key: PuterKey, fleet: str) -> None:
        """The key no longer waits on the launchpad."""
        txn.do("ZREM", names.pad(fleet, key.namespace), key.tag)

    def expect_on_pad(self, txn: Txn, key: PuterKey, fleet: str) -> None:
        """The key still waits on the launchpad."""
        txn.expect_member(names.pad(fleet, key.namespace), key.tag)

    def put_on_look_up(self, txn: Txn, key: PuterKey, fleet: str, at: float) -> None:
        """The key shall be looked up in EC2, from this time on."""
        txn.do("ZADD", names.look_ups(fleet), at, str(key))
        txn.keep(names.look_ups(fleet), KEEP_S)
        self.put_fleet(txn, fleet, at)

    def put_off_look_up(self, txn: Txn, key: PuterKey, fleet: str) -> None:
        """The key is looked up, or no longer to be."""
        txn.do("ZREM", names.look_ups(fleet), str(key))

    async def look_ups(self, fleet: str, now: float, most: int) -> dict[PuterKey, float]:
        """Keys that are to be looked up and that nobody is at, with the time from which, the earliest first."""
        pairs = await self.redis.zrangebyscore(names.look_ups(fleet), "-inf", now, start=0, num=most, withscores=True)
        return {PuterKey.parse(raw.decode()): at for raw, at in pairs}

    async def claim_look_ups(self, fleet: str, keys: Sequence[PuterKey], until: float) -> None:
        """Nobody else shall look these keys up until a time."""
        await self.redis.zadd(names.look_ups(fleet), {str(key): until for key in keys}, xx=True)

    async def pads(self, fleet: str) -> list[str]:
        """Namespaces with a launchpad of the fleet that is not empty."""
        namespaces = [raw.decode() for raw in await self.redis.smembers(names.pads(fleet))]
        async with self.redis.pipeline(transaction=False) as pipe:
            for namespace in namespaces:
                pipe.zcard(names.pad(fleet, namespace))
            sizes = await pipe.execute()
        for namespace, size in zip(namespaces, sizes, strict=True):
            if not size:
                await self.scripts.unpad(keys=[names.pads(fleet), names.pad(fleet, namespace)], args=[namespace])
        return [namespace for namespace, size in zip(namespaces, sizes, strict=True) if size]

    async def on_pad(self, fleet: str, namespace: str, now: float, most: int) -> dict[str, float]:
        """Tags on a launchpad that may be launched, with the time from which they may, the earliest first."""
        pairs = await self.redis.zrangebyscore(
            names.pad(fleet, namespace), "-inf", now, start=0, num=most, withscores=True
        )
        return {tag.decode(): at for tag, at in pairs}

    async def brakes(self, fleet: str) -> dict[str, Brake]:
        """How much may be asked for, by the name of a place or quota; what is missing is free."""
        raws = await self.redis.hgetall(names.brakes(fleet))
        found = {name.decode(): decode(raw, Brake, names.brakes(fleet)) for name, raw in raws.items()}
        return {name: brake for name, brake in found.items() if brake is not None}

    def put_brake(self, txn: Txn, fleet: str, name: str, brake: Brake | None) -> None:
        """Keep what was learned of a place or quota; None: it is free."""
        if brake is None:
            txn.do("HDEL", names.brakes(fleet), name)
            return
        txn.do("HSET", names.brakes(fleet), name, encode(brake))
        txn.keep(names.brakes(fleet), KEEP_S)

    async def parallel(self, namespace: str, batch_id: str) -> int:
        """How many of a batch's tags are launched or alive, of a batch with `max_parallel`."""
        return int(await self.redis.scard(names.parallel(namespace, batch_id)))

    def expect_parallel(self, txn: Txn, namespace: str, batch_id: str, count: int) -> None:
        """Still as many are."""
        txn.expect_size(names.parallel(namespace, batch_id), count)
