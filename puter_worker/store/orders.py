"""Orders of machines that are to be written as tags, and to be confirmed by their consoles."""

from __future__ import annotations

from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.generation import Generation
from puter_worker.store.txn import Txn


class Orders:
    """The machines of each target with an order that is not done yet."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, target: str) -> DueItems:
        """The machines of one target, as due items."""
        topic, longest_s = wakeups.orders(target), self._db.timings.order_refused_s
        return DueItems.of(self._db, names.ORDERS, target, topic=topic, longest_s=longest_s)

    def follow(self, txn: Txn, old: Record | None, new: Record) -> None:
        """Have a new order carried out as soon as the machine exists."""
        if new.order is None or new.order.sent_at is not None or new.phase not in LIVE:
            return
        if old is None or old.order != new.order or old.phase not in LIVE:
            self.of(new.target or "").add(txn, str(Generation.of(new)), new.order.given_at)

    async def claim(self, target: str, most: int, until: float) -> list[Generation]:
        """Claim up to `most` machines with orders that are due until that time: no other worker gets them before."""
        return [Generation.parse(raw.decode()) for raw in await self.of(target).claim(most, until)]
