"""What workers tell each other: their health, and how far this Redis has got."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence

from puter_client.contract.health import OwnHealth, WorkerHealth
from puter_client.store import names as public
from puter_worker.memory import Epoch
from puter_worker.store import names
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import decode, encode


class Workers:
    """The health that workers publish."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def announce(self, health: WorkerHealth, *, offered: Sequence[str], own: Mapping[str, OwnHealth]) -> None:
        """Publish that this worker runs, and its health.

        `offered`: all AWS profiles that it has, for other workers; `own`: what only these namespaces shall read.
        """
        ttl_s = self._db.timings.health_ttl_s
        async with self._db.redis.pipeline(transaction=True) as pipe:
            pipe.set(public.worker(health.worker_id), encode(health), ex=ttl_s)
            pipe.set(names.profiles(health.worker_id), encode(tuple(offered)), ex=ttl_s)
            for namespace, of_it in own.items():
                pipe.set(public.own_health(namespace, health.worker_id), encode(of_it), ex=ttl_s)
            pipe.zadd(public.WORKERS, {health.worker_id: health.seen_at})
            pipe.zremrangebyscore(public.WORKERS, "-inf", health.seen_at - 10 * ttl_s)
            pipe.expire(public.WORKERS, self._db.timings.keep_s)
            # A new epoch means that Redis has lost data, never that nothing was launched for long.
            pipe.expire(names.EPOCH, self._db.timings.keep_s)
            await pipe.execute()

    async def is_announced(self, worker_id: str) -> bool:
        """Whether Redis still has what the worker has published."""
        return bool(await self._db.redis.exists(public.worker(worker_id)))

    async def remove(self, worker_id: str) -> None:
        """Remove a worker that has ended."""
        async with self._db.redis.pipeline(transaction=True) as pipe:
            pipe.delete(public.worker(worker_id), names.profiles(worker_id))
            pipe.zrem(public.WORKERS, worker_id)
            await pipe.execute()

    async def offered_profiles(self) -> set[str]:
        """AWS profiles that at least one running worker offers."""
        since = self._db.now() - self._db.timings.health_ttl_s
        ids = await self._db.redis.zrangebyscore(public.WORKERS, since, "+inf")
        if not ids:
            return set()
        workers = [raw.decode() for raw in ids]
        healths = await self._db.redis.mget([public.worker(one) for one in workers])
        offered = await self._db.redis.mget([names.profiles(one) for one in workers])
        return {
            profile
            for raw, profiles in zip(healths, offered, strict=True)
            if (health := decode(raw, WorkerHealth, "health")) and not health.draining
            for profile in decode(profiles, tuple[str, ...], "profiles") or ()
        }


class Epochs:
    """How far this Redis has got: a random id, made when it was first seen empty, and the launches since then."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self) -> Epoch:
        """How far this Redis has got; an empty Redis gets a new epoch."""
        epoch_id, launches = await self._db.redis.hmget(names.EPOCH, "id", "launches")
        while epoch_id is None:
            async with self._db.redis.pipeline(transaction=True) as pipe:
                pipe.hsetnx(names.EPOCH, "id", secrets.token_hex(8))
                pipe.expire(names.EPOCH, self._db.timings.keep_s)
                await pipe.execute()
            epoch_id, launches = await self._db.redis.hmget(names.EPOCH, "id", "launches")
        return Epoch(epoch_id.decode(), int(launches or 0))

    def put_launch(self, txn: Txn, epoch: Epoch) -> None:
        """Count one more launch. Guard: Redis still has this epoch, so it was not emptied since the epoch was read."""
        txn.expect(names.EPOCH, "id", epoch.epoch_id)
        txn.do("HINCRBY", names.EPOCH, "launches", 1)
        txn.keep(names.EPOCH, self._db.timings.keep_s)
