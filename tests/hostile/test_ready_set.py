"""Names in the ready set, which clients write: a part of it at a time, a few names and few bytes in each.

1,000 names were drawn at once, whatever their length: 100 names of 8 MB blocked Redis for 9 s, and took 4.7 GB.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis
from redis.asyncio import Redis
from structlog.testing import capture_logs

from puter_client.client import MachineRequest
from puter_client.contract.errors import InvalidInput
from puter_client.contract.inbox import LONGEST, Inbox
from puter_client.store import names as public
from puter_worker.clock import Clock
from puter_worker.stages.intake import Intake
from puter_worker.store.requests import READY_AT_ONCE, READY_BYTES, TAKE_REQUESTS, Ready
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.hostile.world import SharedRedis, shared, store
from tests.integration.redis_servers import RedisServer, any_redis, any_redis_server
from tests.integration.workshop import spec

__all__ = ["any_redis", "any_redis_server", "shared", "store"]

MB = 1_000_000
LARGEST = 1 << 20  # proto-max-bulk-len


def step(many: int) -> int:
    """How many of so many names one step of a walk may copy: some of one place, more where the set has just shrunk."""
    return max(16, many // 10)


@pytest.fixture
async def behind(any_redis: RedisServer) -> AsyncIterator[Store]:
    """A worker's store, on each kind of server."""
    async with Redis.from_url(any_redis.url) as connected:
        yield Store(connected, clock=Clock(), timings=Timings())


def put_inboxes(client: redis.Redis, many: int, *, junk: int = 0) -> set[str]:
    """Inboxes with a request each, in the ready set; and names there that have none."""
    inboxes = {f"team-{number}:u" for number in range(many)}
    with client.pipeline(transaction=False) as pipe:
        for inbox in inboxes:
            pipe.rpush(public.inbox(inbox), b"{}")
        pipe.sadd(public.READY, *inboxes)
        for start in range(0, junk, 1_000):
            pipe.sadd(public.READY, *(f"none-{start + number}" for number in range(1_000)))
        pipe.execute()
    return inboxes


async def walk(store: Store) -> AsyncIterator[Ready]:
    """All parts of the ready set."""
    part = await store.requests.ready()
    yield part
    while part.cursor:
        part = await store.requests.ready(part.cursor)
        yield part


async def test_names_as_long_as_the_server_takes_cost_little_and_are_removed(shared: SharedRedis, store: Store) -> None:
    with shared.plain(shared.mallory) as mallory:
        for number in range(100):
            mallory.sadd(public.READY, b"%d" % number + b"x" * (LARGEST - 10))
    async with shared.puter("betty") as betty:
        await betty.submit([MachineRequest("one", spec())])
        before, intake = shared.peak(), Intake(store, Timings())
        turns, taken = 0, False
        with capture_logs() as lines:
            while not taken:
                await intake.run_once()
                turns += 1
                (view,) = await betty.views(["one"])
                taken = view.record is not None
                assert turns <= 100 // 20 + 1, "a run reads 20 parts of the ready set"

    assert shared.peak() <= before + 2 * step(100) * LARGEST  # Redis's copy, and the script's
    (line,) = [line for line in lines if line["event"] == "requests.refused"]
    assert line["namespace"] == "(ready set)"
    while not await intake.run_once():
        pass
    with shared.plain(shared.worker) as worker:
        assert worker.scard(public.READY) == 0


@pytest.mark.parametrize("size", [LONGEST + 1, 10_000, LARGEST - 10])
async def test_a_part_has_few_bytes_and_long_names_are_counted(
    any_redis: RedisServer, behind: Store, size: int
) -> None:
    many = 20 * READY_BYTES // size if size > 1_000 else 5_000
    with any_redis.client() as client:
        for start in range(0, many, 100):
            client.sadd(public.READY, *(b"%06d" % n + b"x" * (size - 6) for n in range(start, min(many, start + 100))))
        parts = [part async for part in walk(behind)]

        assert sum(part.too_long for part in parts) == many
        assert max(part.too_long for part in parts) <= min(READY_AT_ONCE, -(-READY_BYTES // size)) + step(many)
        assert client.scard(public.READY) == 0


async def test_every_inbox_is_seen_in_a_walk_of_few_parts(any_redis: RedisServer, behind: Store) -> None:
    with any_redis.client() as client:
        inboxes = put_inboxes(client, 2_500, junk=50_000)
        parts = [part async for part in walk(behind)]

        assert {name for part in parts for name in part.names} == inboxes
        assert sum(part.empty for part in parts) == 50_000
        assert len(parts) <= 52_500 / READY_AT_ONCE + 60  # a walk passes also places that are empty
        assert client.smembers(public.READY) == {inbox.encode() for inbox in inboxes}


async def test_a_flood_meanwhile_hides_no_inbox(any_redis: RedisServer, behind: Store) -> None:
    with any_redis.client() as client:
        inboxes = put_inboxes(client, 1_500)
        seen: set[str] = set()
        reads = 0
        async for part in walk(behind):
            seen.update(part.names)
            reads += 1
            assert reads <= 300
            if reads <= 100:
                client.sadd(public.READY, *(f"none-{reads}-{number}" for number in range(900)))

    assert inboxes <= seen


async def test_all_of_more_inboxes_than_a_part_has_get_their_turn(shared: SharedRedis, store: Store) -> None:
    many = READY_AT_ONCE + 500
    with shared.plain(shared.worker) as worker:
        put_inboxes(worker, many)
        intake, turns = Intake(store, Timings()), 0
        with capture_logs():
            while worker.scard(public.READY):
                await intake.run_once()
                turns += 1
                assert turns <= 2 * many / TAKE_REQUESTS + 3


def test_the_longest_name_of_an_inbox() -> None:
    longest = f"{'n' * 39}:{'u' * 64}"

    assert len(str(Inbox.parse(longest)).encode()) == LONGEST
    for longer in (f"n{longest}", f"{longest}u"):
        with pytest.raises(InvalidInput):
            Inbox.parse(longer)
