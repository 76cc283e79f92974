"""Workers among themselves: leases, health, and what is left to do."""

from __future__ import annotations

import secrets

from puter_client.contract.health import WorkerHealth
from puter_client.store import names as public
from puter_worker.memory import Epoch
from puter_worker.store import names
from puter_worker.store.base import KEEP_S, Base, decode, encode
from puter_worker.store.txn import Txn

HEALTH_TTL_S = 30


class Workers(Base):
    """Leases, and the health that workers announce."""

    async def lease(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or renew a lease; whether it is the holder's now."""
        return bool(await self.scripts.lease(keys=[name], args=[holder, int(ttl_s * 1000)]))

    async def release(self, name: str, holder: str) -> None:
        """Give a lease up, if it is the holder's."""
        await self.scripts.release(keys=[name], args=[holder])

    async def announce(self, health: WorkerHealth) -> None:
        """Tell the world that this worker lives."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.set(public.worker(health.worker_id), encode(health), ex=HEALTH_TTL_S)
            pipe.zadd(public.WORKERS, {health.worker_id: health.seen_at})
            pipe.zremrangebyscore(public.WORKERS, "-inf", health.seen_at - 10 * HEALTH_TTL_S)
            pipe.expire(public.WORKERS, KEEP_S)
            await pipe.execute()

    async def withdraw(self, worker_id: str) -> None:
        """This worker has ended."""
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.delete(public.worker(worker_id))
            pipe.zrem(public.WORKERS, worker_id)
            await pipe.execute()

    async def epoch(self) -> Epoch:
        """How far this Redis has got; one that knows nothing begins a new epoch."""
        epoch_id, launches = await self.redis.hmget(names.EPOCH, "id", "launches")
        while epoch_id is None:
            async with self.redis.pipeline(transaction=True) as pipe:
                pipe.hsetnx(names.EPOCH, "id", secrets.token_hex(8))
                pipe.expire(names.EPOCH, KEEP_S)
                await pipe.execute()
            epoch_id, launches = await self.redis.hmget(names.EPOCH, "id", "launches")
        return Epoch(epoch_id.decode(), int(launches or 0))

    def expect_epoch(self, txn: Txn, epoch: Epoch) -> None:
        """Redis has forgotten nothing since it was asked how far it has got; one launch more."""
        txn.expect(names.EPOCH, "id", epoch.epoch_id)
        txn.do("HINCRBY", names.EPOCH, "launches", 1)
        txn.keep(names.EPOCH, KEEP_S)

    async def offered_profiles(self) -> set[str]:
        """AWS profiles that some living worker announces."""
        ids = await self.redis.zrangebyscore(public.WORKERS, self.now() - HEALTH_TTL_S, "+inf")
        raws = await self.redis.mget([public.worker(raw.decode()) for raw in ids]) if ids else []
        healths = (decode(raw, WorkerHealth, "health") for raw in raws)
        return {profile for health in healths if health and not health.draining for profile in health.profiles}

    async def unfinished(self) -> int:
        """How much is left to do: ready_namespaces inboxes, keys on their way, labels to write, doors to open."""
        targets = await self.targets()
        async with self.redis.pipeline(transaction=False) as pipe:
            pipe.scard(public.READY)
            pipe.scard(names.BACKLOGS)
            pipe.zcard(names.MOVING)
            pipe.zcard(names.PARKED)
            pipe.zcard(names.QUEUE)
            pipe.zcard(names.ADMISSIONS)
            for target in targets:
                pipe.zcard(names.labels(target))
                pipe.zcard(names.intents(target))
            return sum(await pipe.execute())

    async def any_starting(self) -> bool:
        """Whether some machine is launched but does not run yet, or may get its address yet."""
        counts = [await self.redis.scard(names.starting(target)) for target in await self.targets()]
        return any(counts)

    async def in_use(self) -> bool:
        """Whether anything is alive or on its way."""
        if await self.unfinished():
            return True
        for target in await self.targets():
            if await self.redis.zcard(names.live(target)):
                return True
        return False

    async def targets(self) -> list[str]:
        """Ids of all targets that had something to do of late."""
        return [raw.decode() for raw in await self.redis.zrangebyscore(names.TARGETS, self.now() - KEEP_S, "+inf")]
