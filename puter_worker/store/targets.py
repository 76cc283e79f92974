"""Targets that have work, those of each namespace, and the worker that leads each."""

from __future__ import annotations

from collections.abc import Iterable

from puter_client.contract.key import PuterKey
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn

MOST_TARGETS = 40
"""How many targets a namespace has at a time: one profile in all regions that an account usually has, or two in most.
Each is led: it costs a worker some 10 commands of Redis a second and a megabyte."""


class TargetIndex:
    """Targets by the time at which they last had work."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, txn: Txn, target: str, now: float) -> None:
        """Note that the target has work, so that a worker leads it."""
        txn.once("ZADD", names.TARGETS, now, target)
        txn.keep(names.TARGETS, self._db.timings.keep_s)
        txn.wake(wakeups.TARGETS)

    async def last_put(self, target: str) -> float | None:
        """The time at which the target last had work; None if it was given up."""
        score = await self._db.redis.zscore(names.TARGETS, target)
        return None if score is None else float(score)

    async def give_up(self, target: str, last_put: float) -> bool:
        """Lead the target no longer, if nothing is there and nothing was put there since `last_put`; whether it is so.

        What is put there later is led again.
        """
        txn = Txn()
        txn.expect_score(names.TARGETS, target, last_put)
        for name in _names_of(target):
            txn.expect_empty(name)
        txn.do("ZREM", names.TARGETS, target)
        txn.wake(wakeups.TARGETS)
        return not await self._db.commit(txn)

    async def all(self) -> list[str]:
        """Ids of all targets that had work within `keep_s` and were not given up."""
        since = self._db.now() - self._db.timings.keep_s
        return [raw.decode() for raw in await self._db.redis.zrangebyscore(names.TARGETS, since, "+inf")]


def _names_of(target: str) -> list[str]:
    """All names in Redis under which a target has something alive, something that waits, or something to read."""
    due = (names.CONSOLES, names.INTENTS, names.LABELS, names.ORDERS, names.RESULTS)
    sets = (names.live(target), names.starting(target), names.looking(target), names.launch_queues(target))
    return [*sets, *(names.due(what, target) for what in due)]


class NamespaceTargets:
    """The targets in which each namespace has something, or had within `target_idle_s`: at most MOST_TARGETS."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def put(self, txn: Txn, namespace: str, target: str, now: float) -> int:
        """Note that the namespace has something in the target, with a guard that it may have one more target."""
        name, idle_s = names.targets_of(namespace), self._db.timings.target_idle_s
        guard = txn.expect_room(name, target, since=now - idle_s, upto=now + idle_s, most=MOST_TARGETS)
        txn.do("ZREMRANGEBYSCORE", name, "-inf", now - idle_s)
        txn.do("ZADD", name, now, target)
        txn.keep(name, int(idle_s) + 1)
        return guard

    async def renew(self, target: str) -> bool:
        """Note all namespaces that have something in the target; whether anything is there, of any namespace."""
        async with self._db.redis.pipeline(transaction=False) as pipe:
            pipe.zrange(names.live(target), 0, -1)
            pipe.smembers(names.looking(target))
            pipe.smembers(names.launch_queues(target))
            for name in _names_of(target):
                pipe.exists(name)
            live, looking, waiting, *there = await pipe.execute()
        namespaces = {raw.decode() for raw in (*looking, *waiting)}
        namespaces |= {PuterKey.parse(raw.decode()).namespace for raw in live}
        now, txn = self._db.now(), Txn()
        for namespace in namespaces:
            txn.do("ZADD", names.targets_of(namespace), now, target)
            txn.keep(names.targets_of(namespace), int(self._db.timings.target_idle_s) + 1)
        if namespaces:
            await self._db.commit(txn)
        return any(there)


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
