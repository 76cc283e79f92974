"""A client that fills Redis keeps the others from writing for a few turns of a worker, in the ready set or not.

An inbox that was never put into the ready set took Redis down for good: no worker looked at it, and what is refused
while the memory is full is also the SADD of everybody else.
"""

from __future__ import annotations

from contextlib import suppress

import pytest
import redis
from structlog.testing import capture_logs

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.errors import StoreUnavailable
from puter_client.store import names as public
from puter_worker.stages.cuts import ALMOST_FULL
from puter_worker.stages.intake import Intake
from puter_worker.store.requests import SCANNED_AT_ONCE, SCANS
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.hostile.world import SharedRedis, shared, store
from tests.integration.workshop import spec

__all__ = ["shared", "store"]

MB = 1_000_000
LIMIT = 160 * MB
INBOX = public.inbox("mallory:mallory")
# No message wakes a stage that looks by itself only after an hour; a look through all names is made once.
ASLEEP = Timings(sweep_s=3_600.0, look_through_s=3_600.0, watch_s=0.0)


@pytest.fixture
def small(shared: SharedRedis) -> SharedRedis:
    """The shared Redis, with little memory."""
    with shared.host.admin() as admin:
        admin.config_set("maxmemory", LIMIT)
    return shared


async def fill(shared: SharedRedis, betty: PuterClient) -> None:
    """Append to the inbox until Redis takes nothing more of anybody."""
    for size in (500_000, 50_000, 5_000):
        with shared.plain(shared.mallory) as mallory:
            append_all(mallory, size)
    with shared.plain(shared.mallory) as mallory:  # its end would leave room for a request
        for _ in range(20):
            append_all(mallory, 100)
            try:
                await betty.submit([MachineRequest("before", spec())])
            except StoreUnavailable:
                return
    pytest.fail("Redis does not become full")


def append_all(mallory: redis.Redis, size: int) -> None:
    with suppress(redis.OutOfMemoryError):
        while True:
            mallory.rpush(INBOX, b"x" * size)


def put_records(shared: SharedRedis, many: int, size: int) -> None:
    """What workers keep of other namespaces."""
    with shared.plain(shared.worker) as worker:
        for start in range(0, many, 100):
            worker.mset({f"puter:_spec:team/t-{start + number}": b"x" * size for number in range(100)})


async def turns_until_submitted(intake: Intake, betty: PuterClient, *, most: int) -> int:
    """How many runs of intake it takes until Redis accepts a request; while it is full, a run may fail."""
    for turn in range(1, most + 1):
        with suppress(redis.RedisError):
            await intake.run_once()
        with suppress(StoreUnavailable):
            await betty.submit([MachineRequest("one", spec())])
            return turn
    pytest.fail(f"Redis is still full after {most} turns")


async def is_taken(intake: Intake, betty: PuterClient) -> bool:
    await intake.run_once()
    (view,) = await betty.views(["one"])
    return view.record is not None


@pytest.mark.parametrize("is_ready", [True, False], ids=["ready", "not-ready"])
@pytest.mark.parametrize("records", [0, 50_000])
async def test_an_inbox_that_fills_redis_keeps_nobody_from_writing(
    small: SharedRedis, store: Store, is_ready: bool, records: int
) -> None:
    put_records(small, records, 100)
    with small.plain(small.mallory) as mallory:
        mallory.rpush(INBOX, *[b"{}"] * 10_000)  # the first of it says nothing of the rest
        if is_ready:
            mallory.sadd(public.READY, "mallory:mallory")
    intake = Intake(store, ASLEEP)
    async with small.puter("betty") as betty:
        await fill(small, betty)
        with capture_logs() as lines:
            turns = await turns_until_submitted(intake, betty, most=records // (SCANS * SCANNED_AT_ONCE) + 3)

        assert await is_taken(intake, betty)
    assert small.memory() < 80 * MB
    assert [line["user"] for line in lines if line["event"] == "inbox.cut"] == ["mallory"], f"{turns} turns"


async def test_one_that_was_cut_is_cut_again_without_a_look_through_all_names(small: SharedRedis, store: Store) -> None:
    intake = Intake(store, ASLEEP)
    async with small.puter("betty") as betty:
        await fill(small, betty)
        await turns_until_submitted(intake, betty, most=3)
        while (await store.requests.ready()).names:
            await intake.run_once()
        before = small.calls("scan")
        await fill(small, betty)
        await turns_until_submitted(intake, betty, most=1)

    assert small.calls("scan") == before


async def test_a_redis_that_is_full_of_other_things_is_looked_through_from_time_to_time_only(
    small: SharedRedis, store: Store
) -> None:
    put_records(small, 2_000, int(ALMOST_FULL * LIMIT) // 2_000)
    timings = Timings(sweep_s=0.0, look_through_s=3_600.0)
    intake = Intake(store, timings)
    before = small.calls("scan")
    for _ in range(20):
        await intake.run_once()

    assert 0 < small.calls("scan") - before <= 3


async def test_an_idle_worker_asks_how_full_redis_is_with_every_sweep_only(shared: SharedRedis, store: Store) -> None:
    intake = Intake(store, ASLEEP)
    before = shared.calls("info")
    for _ in range(20):
        assert await intake.run_once() > 3_000.0

    assert shared.calls("info") - before <= 2  # this look at the count is one, too
    assert shared.calls("scan") == 0


def test_a_client_can_write_into_no_database_that_workers_do_not_see(shared: SharedRedis) -> None:
    with shared.plain(shared.mallory) as mallory:
        for number in (1, 2, 15):
            with pytest.raises(redis.ResponseError, match="DB index is out of range"):
                mallory.execute_command("SELECT", number)
