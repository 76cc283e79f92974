"""Redis's clock was set back by hours: what was written before is due now, and is not waited for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from puter_client.contract.key import PuterKey
from puter_worker.clock import Clock
from puter_worker.rates import RUN_INSTANCES, Rates
from puter_worker.store import names
from puter_worker.store.arq_adapter import QUEUE
from puter_worker.store.backoff import Backoff
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.timings import Timings
from tests.integration.redis_servers import RedisServer

TARGET = "123456789012:us-east-1:"
KEY = PuterKey("betty", "one")
HOURS_2 = 7_200.0


@pytest.fixture
async def store(valkey: RedisServer) -> AsyncIterator[Store]:
    async with redis.asyncio.Redis.from_url(valkey.url) as connected:
        opened = Store(connected, clock=Clock(), timings=Timings())
        await opened.db.sync_clock()
        yield opened


@pytest.fixture(params=[HOURS_2, 30.0], ids=["before the step", "a short pause"])
def ahead(request: pytest.FixtureRequest, store: Store) -> tuple[float, bool]:
    """A time to which something was put off, and whether that is due now."""
    return store.now() + request.param, bool(request.param == HOURS_2)


async def test_items_that_were_put_off_before_the_step_are_due(store: Store, ahead: tuple[float, bool]) -> None:
    at, is_due = ahead
    txn = Txn()
    store.look_ups.add(txn, TARGET, KEY, at)
    store.restarts.reschedule(txn, KEY, at)
    await store.commit(txn)
    now = store.now()

    namespaces = await store.look_ups.namespaces(TARGET)
    due = await store.look_ups.due(TARGET, "betty", now, 10)
    claimed = await store.look_ups.of(TARGET, "betty").claim(10, now + 5)

    assert (namespaces["betty"] <= now, list(due), claimed) == (is_due, *((["one"], [b"one"]) if is_due else ([], [])))


async def test_nothing_that_is_always_due_keeps_what_was_put_off_before_the_step_waiting(store: Store) -> None:
    txn, now = Txn(), store.now()
    store.look_ups.add(txn, TARGET, KEY, now + HOURS_2)
    for n in range(9):
        store.look_ups.add(txn, TARGET, PuterKey("betty", f"usual-{n}"), now - 9 + n)
    await store.commit(txn)
    await store.db.redis.zadd(QUEUE, {"betty/one": (now + HOURS_2) * 1000, "betty/usual": (now - 1) * 1000})

    due = await store.look_ups.due(TARGET, "betty", now, 3)
    claimed = await store.look_ups.of(TARGET, "betty").claim(3, now + 5)
    jobs = await store.jobs.due(1)

    assert list(due) == ["one", "usual-0", "usual-1"]
    assert claimed == [b"one", b"usual-0", b"usual-1"]
    assert jobs == ["betty/one"]


async def test_jobs_that_were_queued_before_the_step_are_run(store: Store, ahead: tuple[float, bool]) -> None:
    at, is_due = ahead
    await store.db.redis.zadd(QUEUE, {"betty/one": int(at * 1000)})

    due, next_due, locked = await store.jobs.due(10), await store.jobs.next_due(), await store.jobs.lock(["betty/one"])

    assert (due, list(locked)) == ((["betty/one"], ["betty/one"]) if is_due else ([], []))
    assert next_due is not None
    assert (next_due <= store.now()) == is_due


async def test_places_in_the_queue_from_before_the_step_are_free(store: Store) -> None:
    lost = {f"lost-{n}": (store.now() + HOURS_2) * 1000 for n in range(500)}
    await store.db.redis.zadd(names.places("betty"), lost)
    txn = Txn()
    store.jobs.enqueue(txn, KEY)
    await store.commit(txn)

    await store.jobs.feed()

    assert await store.jobs.due(10) == ["betty/one"]


async def test_backoffs_from_before_the_step_have_ended(store: Store, ahead: tuple[float, bool]) -> None:
    at, has_ended = ahead
    txn = Txn()
    store.backoffs.put(txn, TARGET, "capacity/all", Backoff(at, 1, "why"))
    await store.commit(txn)

    now = store.now()
    (backoff,) = (await store.backoffs.read(TARGET)).values()

    assert (backoff.until <= now) == has_ended  # at the time at which the launches were begun to be looked at


async def test_a_bucket_is_not_slow_for_hours(store: Store) -> None:
    buckets = store.token_buckets("123456789012", "us-east-1", Rates())
    usual = await buckets.rate(RUN_INSTANCES)
    await buckets.slow_down(RUN_INSTANCES, factor=0.5)
    slow = await buckets.rate(RUN_INSTANCES)
    (name,) = [key async for key in store.db.redis.scan_iter("puter:_public:bucket:*")]
    later = str(store.now() + HOURS_2)
    await store.db.redis.hset(name, mapping={"at": later, "slow_until": later, "sent:x": f"4 {later}", "tokens": "5"})

    assert (slow, await buckets.rate(RUN_INSTANCES)) == (usual / 2, usual)
    assert await buckets.reserve({RUN_INSTANCES: 4}) == 0.0
