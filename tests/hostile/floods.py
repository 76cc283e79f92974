"""Requests of one user, by the thousand, and the intake that takes them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from redis.asyncio import Redis

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.clock import Clock
from puter_worker.stages.intake import Intake
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.timings import Timings
from tests.hostile.world import SharedRedis

INBOX = "mallory:mallory"
MB = 1_000_000
Make = Callable[[int], bytes]


class SetClock(Clock):
    """A worker's clock, of which a test may say how much time has passed."""

    passed_s = 0.0

    def monotonic(self) -> float:
        """Seconds of a clock that is never set."""
        return super().monotonic() + self.passed_s


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
async def store(shared: SharedRedis, clock: SetClock) -> AsyncIterator[Store]:
    """A worker's store, as its user."""
    async with Redis.from_url(shared.worker) as connected:
        opened = Store(connected, clock=clock, timings=Timings())
        await opened.db.sync_clock()
        yield opened


def send(shared: SharedRedis, make: Make, count: int) -> None:
    """Append requests as mallory."""
    with shared.plain(shared.mallory) as mallory:
        for start in range(0, count, 1_000):
            mallory.rpush(public.inbox(INBOX), *map(make, range(start, min(count, start + 1_000))))
        mallory.sadd(public.READY, INBOX)


async def take_all(store: Store, intake: Intake) -> None:
    """Have all inboxes taken."""
    while (await store.requests.ready())[0]:
        await intake.run_once()


def rows_kept(shared: SharedRedis) -> int:
    """How many rows mallory's batches have."""
    with shared.plain(shared.worker) as behind:
        batches = behind.zrange(public.batches("mallory"), 0, -1)
        return sum(behind.hlen(public.batch("mallory", one.decode())) - 1 for one in batches)


async def one_lives(store: Store, key: PuterKey) -> None:
    """The key has a machine that lives, as far as its record says: what is requested of it waits for EC2's word."""
    now = store.now()
    live = Record(
        namespace=key.namespace, tag=key.tag, phase=Phase.RUNNING, generation=1, instance_id="i-1",
        target="1:us-east-1:", created_at=now, changed_at=now,
    )  # fmt: skip
    txn = Txn()
    store.records.put(txn, Versioned(None, None), live)
    assert not await store.commit(txn)
