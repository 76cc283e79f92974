"""Open intents: launches whose end is not yet told to all their members."""

from __future__ import annotations

import structlog

from puter_worker.store import names
from puter_worker.store.base import KEEP_S, Base, Kept, Stored, decode, encode, next_rev
from puter_worker.store.intent import Intent
from puter_worker.store.txn import Txn

_log = structlog.get_logger("puter.store")


class Intents(Base):
    """Intents and their leases."""

    async def intent(self, intent_id: str) -> Stored[Intent]:
        """One intent with its revision."""
        rev, doc = await self.redis.hmget(names.intent(intent_id), "rev", "doc")
        return Stored(decode(doc, Intent, names.intent(intent_id)), rev)

    def put_intent(self, txn: Txn, old: Kept[Intent] | None, new: Intent, *, lease_until: float) -> Kept[Intent]:
        """Write an intent if it is still as read (None: not there); until `lease_until` nobody else takes it up.

        Returns it as it is once the transaction is carried out.
        """
        name = names.intent(new.intent_id)
        rev = next_rev(old.rev if old else None)
        txn.expect(name, "rev", old.rev if old else None)
        txn.do("HSET", name, "doc", encode(new), "rev", rev)
        txn.keep(name, KEEP_S)
        txn.do("ZADD", names.intents(new.target), lease_until, new.intent_id)
        txn.keep(names.intents(new.target), KEEP_S)
        return Kept(new, str(rev).encode())

    def expect_intent(self, txn: Txn, as_read: Kept[Intent]) -> int:
        """The intent is still as it was read; the number of the guard."""
        return txn.expect(names.intent(as_read.value.intent_id), "rev", as_read.rev)

    async def open_intents(self, target: str, now: float) -> list[Kept[Intent]]:
        """Open intents of the target that nobody works on."""
        ids = [raw.decode() for raw in await self.redis.zrangebyscore(names.intents(target), "-inf", now)]
        found: list[Kept[Intent]] = []
        for intent_id in ids:
            stored = await self.intent(intent_id)
            if stored.kept is not None:
                found.append(stored.kept)
            if stored.rev is not None:
                continue  # one that does not decode is another version's to take up
            _log.error("intent.lost", intent=intent_id)
            await self.redis.zrem(names.intents(target), intent_id)
        return found

    async def renew_intent(self, intent: Intent, lease_until: float) -> None:
        """Nobody else shall take up the intent until then."""
        await self.redis.zadd(names.intents(intent.target), {intent.intent_id: lease_until}, xx=True)

    def close_intent(self, txn: Txn, intent: Intent) -> None:
        """The intent has ended; every member knows of it what it needs."""
        txn.do("UNLINK", names.intent(intent.intent_id))
        txn.do("ZREM", names.intents(intent.target), intent.intent_id)
