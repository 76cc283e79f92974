"""A Redis that has no memory left, or is asked for very much at once: what it refuses is done later, not forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.clock import Clock
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.timings import Timings
from tests.integration.redis_servers import RedisServer
from tests.integration.stage_world import Hands, hands, time_passes
from tests.integration.workshop import Workshop, spec

__all__ = ["hands"]
KEY = PuterKey("betty", "one")


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    """The server refuses, while inside, every command that may need memory."""
    with server.client() as behind:
        behind.config_set("maxmemory", 1)
        try:
            yield
        finally:
            behind.config_set("maxmemory", 0)


@pytest.fixture
def roomy(valkey: RedisServer) -> Iterator[None]:
    """The server has memory again after the test, whatever happens in it."""
    yield
    with valkey.client() as behind:
        behind.config_set("maxmemory", 0)


async def is_taken(hands: Hands) -> None:
    """intake takes the request now, and nothing of it is left."""
    time_passes(hands.shop)  # the inbox is not kept for an intake that was refused
    await hands.take_requests()
    assert (await hands.shop.record("one")).phase is Phase.QUEUED
    assert await hands.shop.client.untaken() == 0


@pytest.mark.parametrize("times", [1, 3])
async def test_requests_of_a_full_redis_are_taken_when_it_has_room_again(
    workshop: Workshop, hands: Hands, times: int
) -> None:
    await workshop.client.submit([MachineRequest("one", spec())])
    with full(workshop.server):
        for _ in range(times):
            with suppress(RedisError):
                await hands.take_requests()

    with workshop.server.client() as behind:
        assert behind.smembers(public.READY) == {b"betty"}
        assert behind.llen(public.inbox("betty")) == 1
    await is_taken(hands)


@pytest.mark.usefixtures("roomy")
async def test_requests_that_a_redis_was_too_full_to_settle_are_taken_when_it_has_room_again(
    workshop: Workshop, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills up after they were read."""
    await workshop.client.submit([MachineRequest("one", spec())])
    real = hands.store.records.read

    async def read(keys: Sequence[PuterKey]) -> list[Versioned[Record | None]]:
        with workshop.server.client() as behind:
            behind.config_set("maxmemory", 1)
        return await real(keys)

    with monkeypatch.context() as filling, suppress(RedisError):
        filling.setattr(hands.store.records, "read", read)
        await hands.take_requests()
    with workshop.server.client() as behind:
        assert behind.llen(public.inbox("betty")) == 1
        assert behind.config_get("maxmemory") == {"maxmemory": "1"}
        behind.config_set("maxmemory", 0)

    await is_taken(hands)


@pytest.mark.usefixtures("roomy")
async def test_a_worker_serves_what_came_while_redis_was_full(workshop: Workshop) -> None:
    workshop.hurry(after_error_s=0.05, taking_s=0.1)
    batch = await workshop.client.submit([MachineRequest("one", spec())])
    async with workshop.idle() as worker:
        stages = Hands(workshop, worker)
        with full(workshop.server), suppress(RedisError):
            await stages.take_requests()
    async with workshop.working():
        (view,) = await workshop.client.wait(batch_id=batch, tags=["one"], timeout_s=120)

    assert (view.phase, view.outcome) == (Phase.RUNNING, Outcome.CREATED)


# -- very much at once ------------------------------------------------------------------------------------------------


@pytest.fixture
async def store(any_redis: RedisServer) -> AsyncIterator[Store]:
    """A worker's view of each kind of server."""
    redis = Redis.from_url(any_redis.url)
    opened = Store(redis, clock=Clock(), timings=Timings())
    await opened.db.sync_clock()
    yield opened
    await redis.aclose()


@pytest.mark.parametrize("count", [1, 5_000, 20_000])
async def test_every_machine_of_a_large_namespace_is_noted_as_observed(store: Store, count: int) -> None:
    keys = [PuterKey("betty", f"job-{number}") for number in range(count)]
    txn, now = Txn(), 1_700_000_000.25

    store.records.put_observed(txn, keys, now)

    assert await store.commit(txn) == []
    assert await store.records.observed_at(keys) == dict.fromkeys(keys, now)
    assert await store.db.redis.ttl(public.observed("betty")) > 0


async def test_machines_of_many_namespaces_are_noted_as_observed(store: Store) -> None:
    keys = [PuterKey(f"team-{number % 7}", f"job-{number}") for number in range(7_000)]
    txn, now = Txn(), 1_700_000_000.25

    store.records.put_observed(txn, keys, now)

    assert await store.commit(txn) == []
    assert await store.records.observed_at(keys) == dict.fromkeys(keys, now)
