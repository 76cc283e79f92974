"""Targets that have work, and the worker that leads each."""

from __future__ import annotations

from collections.abc import Iterable

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


class Unsure:
    """Targets that may hold machines that Redis has forgotten, until somebody has looked them through.

    Workers that remember a launch there keep an entry alive: if none of them runs, nobody can look, and it ends.
    """

    def __init__(self, db: Database, targets: TargetIndex) -> None:
        self._db = db
        self._targets = targets

    async def put(self, targets: Iterable[str], *, only_renew: bool = False) -> None:
        """Note targets, so that they are led; `only_renew`: only those that are noted still."""
        txn, now = Txn(), self._db.now()
        for target in targets:
            txn.do("ZADD", names.UNSURE, *(["XX"] if only_renew else []), now, target)
            if not only_renew:
                self._targets.put(txn, target, now)
        if txn:
            txn.keep(names.UNSURE, self._db.timings.keep_s)
            await self._db.commit(txn)

    async def remove(self, target: str) -> None:
        """The target was checked."""
        await self._db.redis.zrem(names.UNSURE, target)

    async def all(self, *, also_without_rememberer: bool = False) -> set[str]:
        """Targets that are still to be checked; usually only those that a running worker remembers."""
        since = "-inf" if also_without_rememberer else self._db.now() - self._db.timings.unsure_kept_s
        return {raw.decode() for raw in await self._db.redis.zrangebyscore(names.UNSURE, since, "+inf")}


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
