"""Consoles: machines whose console somebody wants to see, and what was read there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from puter_client.contract.console import Console
from puter_client.contract.key import PuterKey
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.generation import Generation
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import decode


class Consoles:
    """The machines of each target whose console is to be read once."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, target: str) -> DueItems:
        """The machines of one target, as due items."""
        topic, longest_s = wakeups.consoles(target), self._db.timings.console_claim_s
        return DueItems.of(self._db, names.CONSOLES, target, topic=topic, longest_s=longest_s)

    def ask(self, txn: Txn, record: Record, now: float) -> None:
        """Have the console of the record's machine read; however often that is asked, one reading is due at most."""
        self.of(record.target or "").add(txn, str(Generation.of(record)), now, if_new=True)

    async def claim(self, target: str, most: int, until: float) -> list[Generation]:
        """Claim up to `most` machines whose console is due until that time: no other worker gets them before."""
        return [Generation.parse(raw.decode()) for raw in await self.of(target).claim(most, until)]

    async def published(self, keys: Sequence[PuterKey]) -> list[Console | None]:
        """What is published of these keys' consoles, in their order."""
        async with self._db.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.get(public.console(key))
            raws = await pipe.execute(raise_on_error=False)
        return [
            decode(raw, Console, public.console(key)) if isinstance(raw, bytes) else None
            for key, raw in zip(keys, raws, strict=True)
        ]

    def publish(self, txn: Txn, key: PuterKey, console: Console) -> None:
        """Publish for a while what the console of the key's machine showed."""
        txn.do("SET", public.console(key), msgspec.json.encode(console), "EX", self._db.timings.console_kept_s)
