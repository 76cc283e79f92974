"""Targets that have work, and the worker that leads each."""

from __future__ import annotations

from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn


class TargetIndex:
    """Targets by the time at which they last had work."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, txn: Txn, target: str, now: float) -> None:
        """Note that the target has work, so that a worker leads it."""
        txn.once("ZADD", names.TARGETS, now, target)
        txn.keep(names.TARGETS, self._db.timings.keep_s)
        txn.wake(wakeups.TARGETS)

    async def all(self) -> list[str]:
        """Ids of all targets that had work within `keep_s`."""
        since = self._db.now() - self._db.timings.keep_s
        return [raw.decode() for raw in await self._db.redis.zrangebyscore(names.TARGETS, since, "+inf")]


class Leases:
    """Which worker leads which target."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def acquire(self, target: str, holder: str) -> float:
        """Acquire or renew a target's lease; returns 0, or the seconds left if another worker has it."""
        for_ms = int(self._db.timings.lease_s * 1000)
        return await self._db.scripts.lease(names.lease(target), holder, for_ms=for_ms) / 1000

    async def release(self, target: str, holder: str) -> None:
        """Release the lease if the holder has it, and wake the other workers: one of them may lead now."""
        await self._db.scripts.release(names.lease(target), holder)
        txn = Txn()
        txn.wake(wakeups.TARGETS)
        await self._db.commit(txn)
