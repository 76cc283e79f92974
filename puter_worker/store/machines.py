"""The machines of a target that are alive, and those among them that are still starting."""

from __future__ import annotations

from collections.abc import Iterable

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.targets import TargetIndex
from puter_worker.store.txn import Txn


class Machines:
    """For each target, the keys whose machine is alive, and those whose machine is starting."""

    def __init__(self, db: Database, targets: TargetIndex) -> None:
        self._db = db
        self._targets = targets

    def put(self, txn: Txn, record: Record) -> None:
        """The record's machine is alive; it counts as starting until it runs and has a public address."""
        target, key = record.target or "", str(record.key)
        txn.do("ZADD", names.live(target), record.changed_at, key)
        self._targets.put(txn, target, record.changed_at)
        if record.phase is Phase.PENDING or record.public_ip is None:
            txn.do("SADD", names.starting(target), key)
            txn.wake(wakeups.machines(target))
        else:
            txn.do("SREM", names.starting(target), key)
        self.renew(txn, target, ())

    def remove(self, txn: Txn, record: Record) -> None:
        """The record's machine has ended; keys that wait for capacity or a quota may be launched now."""
        target, key = record.target or "", str(record.key)
        txn.do("ZREM", names.live(target), key)
        txn.do("SREM", names.starting(target), key)
        txn.wake(wakeups.launches(target))

    def put_started(self, txn: Txn, target: str, key: PuterKey) -> None:
        """The key's machine no longer counts as starting, whether it has a public address or not."""
        txn.do("SREM", names.starting(target), str(key))

    def renew(self, txn: Txn, target: str, namespaces: Iterable[str]) -> None:
        """Extend the life of the sets that machines are in, for as long as a machine is alive."""
        of_namespaces = [name for one in namespaces for name in (public.index(one), names.machines(one))]
        for name in (names.live(target), names.starting(target), *of_namespaces):
            txn.keep(name, self._db.timings.keep_s)

    async def live(self, target: str) -> list[PuterKey]:
        """The target's keys whose machine is alive, as far as workers know."""
        return [PuterKey.parse(raw.decode()) for raw in await self._db.redis.zrange(names.live(target), 0, -1)]

    async def live_count(self, target: str) -> int:
        """How many machines of the target are alive, as far as workers know."""
        return int(await self._db.redis.zcard(names.live(target)))

    async def starting(self, target: str) -> list[PuterKey]:
        """The target's keys whose machine is launched but does not run yet, or has no public address yet."""
        return [PuterKey.parse(raw.decode()) for raw in await self._db.redis.smembers(names.starting(target))]

    async def starting_count(self, target: str) -> int:
        """How many machines of the target are starting."""
        return int(await self._db.redis.scard(names.starting(target)))
