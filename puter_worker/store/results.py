"""Results: machines whose console is to be read for how their workload ended, and the output that was found there."""

from __future__ import annotations

import msgspec

from puter_client.contract.key import PuterKey
from puter_client.contract.output import Output
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.generation import Generation
from puter_worker.store.txn import Txn


class Results:
    """The machines of each target whose results are not known, and when their consoles are read next."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def of(self, target: str) -> DueItems:
        """The machines of one target, as due items."""
        topic, longest_s = wakeups.results(target), self._db.timings.result_longest_s
        return DueItems.of(self._db, names.RESULTS, target, topic=topic, longest_s=longest_s)

    def follow(self, txn: Txn, record: Record) -> None:
        """Have the console read whenever a workload may have ended: its machine has, or stays when it has."""
        if not record.has_workload or record.result is not None:
            return
        if record.phase in LIVE and record.ends_with_workload:
            return  # its machine ends when it does
        at = record.changed_at + (self._db.timings.result_again_s if record.phase in LIVE else 0.0)
        self.of(record.target or "").add(txn, str(Generation.of(record)), at)

    async def claim(self, target: str, most: int, until: float) -> list[Generation]:
        """Claim up to `most` machines whose console is due until that time: no other worker gets them before."""
        return [Generation.parse(raw.decode()) for raw in await self.of(target).claim(most, until)]

    def put_output(self, txn: Txn, key: PuterKey, output: Output) -> None:
        """Publish the last of what the key's workload printed."""
        txn.do("SET", public.output(key), msgspec.json.encode(output), "EX", self._db.timings.keep_s)
