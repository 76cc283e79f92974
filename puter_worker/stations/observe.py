"""observe: carries over what EC2 shows of living machines into their records. A loop of the fleet's leader.

May run twice, and on stale data: a record only moves on, rests on its revision, and an instance that is not shown
stays as it was, until it has not been seen for over an hour.
"""

from __future__ import annotations

from puter_client.contract.phase import LIVE
from puter_worker.fleet import Fleet
from puter_worker.stations.confirm import confirm
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore

# While anything starts, its owner waits for the address; else nothing changes but ends.
BUSY_EVERY_S = 2.0


class Observer:
    """The observe station of one fleet, as one leader runs it."""

    def __init__(self, store: WorkerStore, fleet: Fleet, *, quiet_s: float) -> None:
        """`quiet_s`: how often to look while nothing starts."""
        self._store = store
        self._fleet = fleet
        self._quiet_s = quiet_s
        self._swept_at = 0.0

    async def turn(self) -> None:
        """Sweep if a sweep is due; to be called again and again."""
        now = self._store.now()
        starting = await self._store.starting(str(self._fleet))
        if now - self._swept_at >= (min(BUSY_EVERY_S, self._quiet_s) if starting else self._quiet_s):
            self._swept_at = now
            await observe(self._store, self._fleet)


async def observe(store: WorkerStore, fleet: Fleet) -> None:
    """One sweep of the fleet."""
    keys = await store.live_keys(str(fleet))
    living = [k for one in await store.records(keys) if (k := one.kept) is not None and k.value.phase in LIVE]
    # A sweep asks for known ids: the tags of an ended instance fade before itself does.
    ids = [kept.value.instance_id for kept in living if kept.value.instance_id]
    shown = await fleet.describe(ids)
    if living:
        # As long as a machine lives, its fleet is not forgotten.
        txn = Txn()
        store.put_fleet(txn, str(fleet), store.now())
        store.renew_sets(txn, str(fleet), {kept.value.namespace for kept in living})
        await store.commit(txn)
    await confirm(store, fleet, living, shown)
