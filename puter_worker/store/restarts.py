"""Restarts: the job of a key is run again if no stage has moved the key in time."""

from __future__ import annotations

from puter_client.contract.key import PuterKey
from puter_worker.store import wakeups
from puter_worker.store.arq_adapter import JobQueue
from puter_worker.store.database import Database
from puter_worker.store.due_items import DueItems
from puter_worker.store.on_its_way import OnItsWay
from puter_worker.store.txn import Txn

RESTART_AT_ONCE = 500


class Restarts:
    """Keys on their way, and keys with parked requests, by the time at which their job runs again."""

    def __init__(self, db: Database, jobs: JobQueue, *, on_its_way: OnItsWay, parked: DueItems) -> None:
        self._db = db
        self._jobs = jobs
        self._sets = (on_its_way.restarts, parked)

    async def restart(self) -> list[PuterKey]:
        """Enqueue the keys whose time has come; it is always safe to run a job once more."""
        now = self._db.now()
        stuck: list[PuterKey] = []
        txn = Txn()
        for items in self._sets:
            for text in await items.due(now, RESTART_AT_ONCE):
                key = PuterKey.parse(text)
                stuck.append(key)
                items.reschedule(txn, text, now + self._db.timings.restart_s)
                self._jobs.enqueue(txn, key)
        if txn:
            await self._db.commit(txn)
        return stuck

    async def next_due(self) -> float | None:
        """When the next key is restarted; None if there is none."""
        times = [at for items in self._sets if (at := await items.next_due()) is not None]
        return min(times, default=None)

    def reschedule(self, txn: Txn, key: PuterKey, at: float) -> None:
        """Run the key's job again at this time, if the key is still on its way then, or has parked requests.

        Only the record decides whether a key is on its way: a key that is no longer in the set is not added again.
        """
        for items in self._sets:
            items.reschedule(txn, str(key), at)
        txn.wake(wakeups.MOVING)
