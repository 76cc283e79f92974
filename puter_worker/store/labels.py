"""Labels: machines of a group whose own tags are not written yet."""

from __future__ import annotations

from puter_client.contract.record import Record
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.generation import Generation
from puter_worker.store.txn import Txn

# Ten a second are written, so thousands that only tell people which machine is which would be in the way for minutes.
_BEFORE_OTHERS_S = 3_600.0


class Labels:
    """The labels of each target."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, target: str) -> DueItems:
        """The labels of one target, as due items."""
        return DueItems.of(
            self._db, names.LABELS, target, topic=wakeups.LABELS, longest_s=self._db.timings.label_refused_s
        )

    def add(self, txn: Txn, record: Record) -> None:
        """Note that the record's machine needs its own tags; first of all if it learns its workload from them."""
        due = record.changed_at - (0.0 if record.member is None else _BEFORE_OTHERS_S)
        self.of(record.target or "").add(txn, str(Generation.of(record)), due, if_new=True)

    def remove(self, txn: Txn, record: Record) -> None:
        """Note that the record's machine no longer needs its own tags."""
        self.of(record.target or "").remove(txn, str(Generation.of(record)))

    async def claim(self, target: str, most: int, until: float) -> list[Generation]:
        """Claim up to `most` due labels until that time: no other worker gets them before."""
        return [Generation.parse(raw.decode()) for raw in await self.of(target).claim(most, until)]
