"""What an overview costs Redis: a bounded number of commands that each look at little, whatever clients wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from puter_client.store import names as public
from puter_worker.clock import Clock
from puter_worker.store import names
from puter_worker.store.overview import MOST_NAMESPACES, MOST_PAIRS, MOST_TARGETS, Overview, read_overview
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.hostile.world import SharedRedis, shared

__all__ = ["shared"]

MANY = 20_000
COSTLY = {"keys", "scan", "hscan", "zscan", "smembers", "hgetall", "hkeys", "lrange"}


@pytest.fixture
async def store(shared: SharedRedis) -> AsyncIterator[Store]:
    """A worker's store, as its user."""
    async with Redis.from_url(shared.worker) as connected:
        yield Store(connected, clock=Clock(), timings=Timings())


async def commands_of(store: Store) -> tuple[Overview, dict[str, int]]:
    """An overview, and how often it used which command."""

    async def calls() -> dict[str, int]:
        told = await store.db.redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(one["calls"]) for name, one in told.items()}

    before = await calls()
    overview = await read_overview(store.db)
    after = await calls()
    return overview, {name: after[name] - before.get(name, 0) for name in after if after[name] > before.get(name, 0)}


async def test_a_redis_full_of_names_costs_a_bounded_number_of_short_commands(store: Store) -> None:
    redis = store.db.redis
    await redis.sadd(public.READY, *(f"n{number}" for number in range(MANY)))
    await redis.sadd(names.BACKLOGS, *(f"n{number}" for number in range(MANY)))
    targets = {f"{number}:r:": number for number in range(200)}
    await redis.zadd(names.TARGETS, targets)
    for target in targets:
        await redis.sadd(names.looking(target), *(f"n{number}" for number in range(500)))
        await redis.sadd(names.launch_queues(target), *(f"n{number}" for number in range(500)))
    overview, calls = await commands_of(store)

    assert overview.partial
    assert overview.inboxes == MANY
    assert len(overview.machines) == MOST_TARGETS
    assert not COSTLY & calls.keys()
    assert sum(calls.values()) <= 4 * MOST_NAMESPACES + 2 * 2 * MOST_PAIRS + 20 * MOST_TARGETS + 50


async def test_long_names_of_a_client_are_read_a_few_at_a_time(store: Store, shared: SharedRedis) -> None:
    with shared.plain(shared.mallory) as mallory, shared.plain(shared.worker) as worker:
        for number in range(60):
            mallory.sadd(public.READY, f"{number}-".encode() + b"x" * 999_000)
        before = worker.info("memory")["used_memory"]
        overview, calls = await commands_of(store)

        assert worker.info("memory")["used_memory_peak"] - before < 30_000_000  # all of them have 60 MB
    assert overview.inboxes == 60
    assert calls["sscan"] == 1


async def test_names_of_another_type_are_passed_over(store: Store, shared: SharedRedis) -> None:
    with shared.plain(shared.mallory) as mallory:
        mallory.sadd(public.READY, "../..", b"\xff\xfe", "betty")
    redis = store.db.redis
    await redis.set(names.MOVING, "no set")
    await redis.set(public.inbox("betty"), "no list")
    overview, _ = await commands_of(store)

    assert (overview.waiting, overview.queued, overview.partial) == ({}, 0, False)


async def test_it_counts_what_is_due_and_since_when(store: Store) -> None:
    redis, now = store.db.redis, store.now()
    await redis.zadd(names.TARGETS, {"1:a:": now, "2:b:p": now})
    await redis.zadd(names.due(names.ORDERS, "1:a:"), {"k#1": now - 50, "l#1": now + 50})
    await redis.zadd(names.due(names.ORDERS, "2:b:p"), {"m#1": now - 500})
    await redis.sadd(names.launch_queues("2:b:p"), "betty", "mallory")
    await redis.zadd(names.launch_queue("2:b:p", "betty"), {"t": now - 7, "u": now})
    await redis.zadd(names.launch_queue("2:b:p", "mallory"), {"t": now + 7})
    await redis.zadd("arq:queue", {"betty/t": (now - 9) * 1000})
    await redis.rpush(names.backlog("betty"), "a", "b", "c")
    await redis.sadd(names.BACKLOGS, "betty")
    await redis.zadd(names.live("1:a:"), {"betty/a": now, "betty/b": now})
    await redis.sadd(names.starting("1:a:"), "betty/b")
    overview, _ = await commands_of(store)

    queues = overview.queues
    assert [queues[name].items for name in ("orders", "launch_queue", "jobs", "backlog", "labels")] == [3, 3, 1, 3, 0]
    ages = [queues[name].age_s or 0.0 for name in ("orders", "launch_queue", "jobs", "labels")]
    assert [age_s >= least for age_s, least in zip(ages, (500, 7, 9, 0), strict=True)] == [True] * 4
    assert (ages[3], queues["backlog"].age_s) == (0.0, None)
    assert (overview.machines["1:a:"].alive, overview.machines["1:a:"].starting) == (2, 1)
    assert overview.memory_limit == 1 << 30
