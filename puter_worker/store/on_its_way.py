"""Keys that are queued, resolving or launching: when their jobs run again, and which are in which phase."""

from __future__ import annotations

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import ON_ITS_WAY, Phase
from puter_client.contract.record import Record
from puter_worker.store import names
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.txn import Txn

_AFTER_QUEUED = (Phase.RESOLVING, Phase.LAUNCHING)


class OnItsWay:
    """Follows from records, in the transactions that write them.

    Attributes:
        restarts: the keys, by the time at which their job runs again if no stage has moved them.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.restarts = DueItems(db, names.MOVING, topic=None, longest_s=db.timings.unclaimed_s)

    def follow(self, txn: Txn, old: Record | None, new: Record) -> None:
        """Keep the sets as the record says."""
        key = str(new.key)
        if new.phase in ON_ITS_WAY:
            self.restarts.add(txn, key, new.changed_at + self._db.timings.unclaimed_s)
        else:
            self.restarts.remove(txn, key)
        for phase in _AFTER_QUEUED:
            if new.phase is phase:
                txn.do("SADD", names.in_phase(phase), key)
                txn.keep(names.in_phase(phase), self._db.timings.keep_s)
            elif old is not None and old.phase is phase:
                txn.do("SREM", names.in_phase(phase), key)

    def drop(self, txn: Txn, key: PuterKey) -> None:
        """The key has no record any more."""
        self.restarts.remove(txn, str(key))
        for phase in _AFTER_QUEUED:
            txn.do("SREM", names.in_phase(phase), str(key))
