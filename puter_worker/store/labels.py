"""Labels: machines of a group whose own tags are not written yet."""

from __future__ import annotations

from dataclasses import dataclass

from puter_client.contract.key import PuterKey
from puter_client.contract.record import Record
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.txn import Txn


@dataclass(frozen=True, slots=True)
class Label:
    """An instance whose own tags are not written yet.

    Attributes:
        key: the instance's key.
        generation: the instance's generation.
    """

    key: PuterKey
    generation: int

    def __str__(self) -> str:
        return f"{self.key}#{self.generation}"

    @classmethod
    def parse(cls, text: str) -> Label:
        """The label that `str()` wrote."""
        key, _, generation = text.rpartition("#")
        return cls(PuterKey.parse(key), int(generation))


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
        """Note that the record's machine needs its own tags."""
        label = Label(record.key, record.generation)
        self.of(record.target or "").add(txn, str(label), record.changed_at, if_new=True)

    def remove(self, txn: Txn, record: Record) -> None:
        """Note that the record's machine no longer needs its own tags."""
        self.of(record.target or "").remove(txn, str(Label(record.key, record.generation)))

    async def claim(self, target: str, most: int, until: float) -> list[Label]:
        """Claim up to `most` due labels until that time: no other worker gets them before."""
        return [Label.parse(raw.decode()) for raw in await self.of(target).claim(most, until)]
