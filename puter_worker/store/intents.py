"""Open intents: launches whose outcome is not yet in the records of all their members."""

from __future__ import annotations

import structlog

from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.intent import Intent
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned, decode, encode, next_rev

_log = structlog.get_logger("puter.store")


class Intents:
    """Intents and their leases: an open intent is due when no worker holds its lease."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def open_of(self, target: str) -> DueItems:
        """The open intents of one target, by the time at which their lease ends."""
        return DueItems.of(
            self._db, names.INTENTS, target, topic=wakeups.intents(target), longest_s=self._db.timings.longest_put_off_s
        )

    async def read(self, intent_id: str) -> Versioned[Intent | None]:
        """One intent with its revision."""
        rev, doc = await self._db.redis.hmget(names.intent(intent_id), "rev", "doc")
        return Versioned(decode(doc, Intent, names.intent(intent_id)), rev)

    def put(self, txn: Txn, old: Versioned[Intent] | None, new: Intent, *, lease_until: float) -> Versioned[Intent]:
        """Write an intent if it has not changed since it was read (None: if there is none), and lease it until then.

        Returns the intent as it is after the transaction.
        """
        name = names.intent(new.intent_id)
        rev = next_rev(old.rev if old else None)
        txn.expect(name, "rev", old.rev if old else None)
        txn.do("HSET", name, "doc", encode(new), "rev", rev)
        txn.keep(name, self._db.timings.keep_s)
        self.open_of(new.target).add(txn, new.intent_id, lease_until)
        return Versioned(new, str(rev).encode())

    def expect(self, txn: Txn, as_read: Versioned[Intent]) -> int:
        """Guard: the intent is still as it was read."""
        return txn.expect(names.intent(as_read.value.intent_id), "rev", as_read.rev)

    async def unattended(self, target: str, now: float) -> list[Versioned[Intent]]:
        """Open intents of the target whose lease has ended."""
        found: list[Versioned[Intent]] = []
        for intent_id in await self.open_of(target).due(now):
            stored = await self.read(intent_id)
            if (intent := stored.found()) is not None:
                found.append(intent)
            if stored.rev is not None:
                continue  # it does not decode: workers of another version take it up
            _log.error("intent.lost", intent=intent_id)
            txn = Txn()
            txn.expect(names.intent(intent_id), "rev", None)
            self.open_of(target).remove(txn, intent_id)
            await self._db.commit(txn)
        return found

    async def renew(self, intent: Intent, lease_until: float) -> None:
        """Extend the intent's lease until then, so that no other worker takes it up."""
        txn = Txn()
        self.open_of(intent.target).reschedule(txn, intent.intent_id, lease_until)
        await self._db.commit(txn)

    def close(self, txn: Txn, intent: Intent) -> None:
        """Delete an intent whose outcome is in the records of all its members."""
        txn.do("UNLINK", names.intent(intent.intent_id))
        self.open_of(intent.target).remove(txn, intent.intent_id)
