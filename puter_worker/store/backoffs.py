"""The backoffs of a target's places and quotas, in Redis."""

from __future__ import annotations

import msgspec

from puter_worker.store import names
from puter_worker.store.backoff import Backoff
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import decode, encode


class Backoffs:
    """How much may be launched in a place or under a quota; one without an entry has no limit."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def read(self, target: str) -> dict[str, Backoff]:
        """All backoffs of a target, by name."""
        raws = await self._db.redis.hgetall(names.backoffs(target))
        found = {name.decode(): decode(raw, Backoff, names.backoffs(target)) for name, raw in raws.items()}
        # One that ends later was written before Redis's clock was set back: it has ended.
        now, timings = self._db.now(), self._db.timings
        late = now + max(timings.no_capacity_s, timings.quota_s)
        return {
            name: backoff if backoff.until <= late else msgspec.structs.replace(backoff, until=0.0, since=None)
            for name, backoff in found.items()
            if backoff is not None
        }

    def put(self, txn: Txn, target: str, name: str, backoff: Backoff | None) -> None:
        """Store the backoff of a place or quota; None removes it."""
        if backoff is None:
            txn.do("HDEL", names.backoffs(target), name)
            return
        txn.do("HSET", names.backoffs(target), name, encode(backoff))
        txn.keep(names.backoffs(target), self._db.timings.keep_s)
