"""observe: carries over what EC2 shows of living machines into their records. A loop of the target's leader.

May run twice, and on stale data: a record only moves on, rests on its revision, and an instance that is not shown
stays as it was, until it has not been seen for over an hour.
"""

from __future__ import annotations

from collections.abc import Sequence

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import LIVE, Phase
from puter_client.contract.record import Record
from puter_worker.stages.confirm import confirm
from puter_worker.store.base import Kept
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target

# What starts is looked at so often, for its owner waits for the address.
STARTING_EVERY_S = 2.0
# EC2 may show a machine as running a moment before it shows its public address.
ADDRESS_WITHIN_S = 10.0
# What runs is looked at as often while others wait for it to end; so many machines, that is 2.5 of the 20 calls a
# second that EC2 allows. More of them are looked at the less often.
WAITED_FOR_EVERY_S = 2.0
WAITED_FOR = 1_000


class Observer:
    """The observe stage of one target, as one leader runs it."""

    def __init__(self, store: WorkerStore, target: Target, *, quiet_s: float) -> None:
        """`quiet_s`: how often to look at what runs while nobody waits for its end."""
        self._store = store
        self._target = target
        self._quiet_s = quiet_s
        self._swept_at = 0.0
        self._looked_at = 0.0
        self._nobody_waited_at = 0.0

    async def turn(self) -> None:
        """Look at what is due; to be called again and again."""
        now, target = self._store.now(), str(self._target)
        if now - self._swept_at >= await self._sweep_every_s(now):
            self._swept_at = self._looked_at = now
            await observe(self._store, self._target, await self._store.live_keys(target))
        elif now - self._looked_at >= STARTING_EVERY_S and (starting := await self._store.starting_keys(target)):
            self._looked_at = now
            await observe(self._store, self._target, starting)
        else:
            return
        await self._let_started(await self._store.starting_keys(target))

    async def _let_started(self, starting: Sequence[PuterKey]) -> None:
        """Look less often at those that run and have their address, or, as in a private subnet, will have none."""
        now, records = self._store.now(), await self._store.records(starting)
        started = [k for one in records if (k := one.kept) is not None and has_started(k.value, now)]

        def put(txn: Txn, kept: Kept[Record]) -> None:
            self._store.expect_record(txn, kept.value.key, kept)
            self._store.put_started(txn, str(self._target), kept.value.key)

        await self._store.commit_each(started, put)

    async def _sweep_every_s(self, now: float) -> float:
        if not await self._store.launch_queues(str(self._target)):
            self._nobody_waited_at = now
        if now - self._nobody_waited_at < WAITED_FOR_EVERY_S:
            return self._quiet_s
        many = await self._store.live_count(str(self._target))
        return min(self._quiet_s, WAITED_FOR_EVERY_S * max(1.0, many / WAITED_FOR))


def has_started(record: Record, now: float) -> bool:
    """Whether nothing of a machine's start is to be waited for any more. Pure."""
    if record.phase is not Phase.RUNNING:
        return False
    return record.public_ip is not None or now - (record.running_at or now) > ADDRESS_WITHIN_S


async def observe(store: WorkerStore, target: Target, keys: Sequence[PuterKey]) -> None:
    """Look at the machines of these keys."""
    living = [k for one in await store.records(keys) if (k := one.kept) is not None and k.value.phase in LIVE]
    # Known ids are requested: the tags of an ended instance fade before itself does.
    ids = [kept.value.instance_id for kept in living if kept.value.instance_id]
    shown = await target.describe(ids)
    if living:
        # As long as a machine lives, its target is not forgotten.
        txn = Txn()
        store.put_target(txn, str(target), store.now())
        store.renew_sets(txn, str(target), {kept.value.namespace for kept in living})
        await store.commit(txn)
    await confirm(store, target, living, shown)
