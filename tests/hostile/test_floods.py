"""Floods of what a client may write or read: they cost a bounded amount, and another namespace is served beside them.

Each attack has the rules that `puter admin user add` gives a client, and was measured before it was stopped: names in
the ready set kept another namespace waiting for over 240 s, 20 requests of 40 MB took 3 GB, and a reader that does not
read filled Redis until all writes failed.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable
from typing import Any, cast

import pytest
import redis
from structlog.testing import capture_logs

from puter_client.client import MachineRequest
from puter_client.contract.request import MAX_REQUEST_BYTES
from puter_client.store import names as public
from puter_worker.stages.intake import Intake
from puter_worker.store import names, wakeups
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.hostile.sizes import SEED
from tests.hostile.world import SharedRedis, shared, store
from tests.integration.workshop import spec

__all__ = ["shared", "store"]

MANY = 100_000
MB = 1_000_000


def names_without_requests(dice: random.Random) -> list[str]:
    return [f"n{dice.getrandbits(64):x}" for _ in range(MANY)]


def names_that_are_none(dice: random.Random) -> list[str]:
    return ["../" + "x" * dice.randint(0, 500) + str(number) for number in range(MANY)]


@pytest.mark.parametrize("names", [names_without_requests, names_that_are_none])
async def test_names_in_the_ready_set_keep_nobody_waiting_and_fill_no_log(
    shared: SharedRedis, store: Store, names: Callable[[random.Random], list[str]]
) -> None:
    intake = Intake(store, Timings())
    flood = names(random.Random(SEED))
    with shared.plain(shared.mallory) as mallory:
        for at in range(0, MANY, 1_000):
            mallory.sadd(public.READY, *flood[at : at + 1_000])
    async with shared.puter("betty") as betty:
        await betty.submit([MachineRequest("one", spec())])
        turns = 0
        with capture_logs() as lines:
            while not await betty.views(["one"]) or (await betty.views(["one"]))[0].record is None:
                await intake.run_once()
                turns += 1
                assert turns <= MANY / 1_000 / 20 + 2, "a run reads 20 times 1,000 names"

    assert len(lines) <= 3  # the flood, betty's request
    part = await store.requests.ready()
    while part.cursor:
        part = await store.requests.ready(part.cursor)
    with shared.plain(shared.worker) as behind:
        assert behind.scard(public.READY) <= 1


async def test_a_request_larger_than_the_server_takes_is_refused_where_it_is_written(shared: SharedRedis) -> None:
    with shared.plain(shared.mallory) as mallory, pytest.raises((redis.RedisError, OSError)):
        mallory.rpush(public.inbox("mallory:mallory"), b"x" * 40 * MB)

    with shared.plain(shared.worker) as behind:
        assert behind.llen(public.inbox("mallory:mallory")) == 0


async def test_many_requests_that_are_too_large_cost_little_and_are_counted(shared: SharedRedis, store: Store) -> None:
    with shared.plain(shared.mallory) as mallory:
        for _ in range(200):
            mallory.rpush(public.inbox("mallory:mallory"), b"x" * (MAX_REQUEST_BYTES + 1))
        mallory.sadd(public.READY, "mallory:mallory")
    before = shared.peak()
    intake = Intake(store, Timings())
    with capture_logs() as lines:
        while (await store.requests.ready()).names:
            await intake.run_once()

    assert shared.peak() <= before + 8 * MB
    refused = [line for line in lines if line["event"] == "requests.refused"]
    assert len(refused) == 1  # the others are told at the end of the minute


async def test_messages_without_end_are_not_read_one_by_one(shared: SharedRedis, store: Store) -> None:
    """What workers told each other waited behind them: another namespace's launch was seconds late."""
    requests, topics = store.wakeups.requests(), store.wakeups.topics()
    assert await anext(requests) == wakeups.REQUESTS
    assert await anext(topics) == wakeups.EVERYTHING
    heard = 0

    async def hear() -> None:
        nonlocal heard
        async for _ in requests:
            heard += 1

    def flood() -> None:
        with shared.plain(shared.mallory) as mallory, mallory.pipeline(transaction=False) as pipe:
            for _ in range(MANY // 100):
                for _ in range(100):
                    pipe.publish(public.READY, "")
                pipe.execute()

    hearing = asyncio.create_task(hear())
    await asyncio.to_thread(flood)
    with shared.plain(shared.worker) as worker:
        worker.publish(names.WAKE, wakeups.JOBS)
    assert await anext(topics) == wakeups.JOBS
    hearing.cancel()
    await asyncio.gather(hearing, return_exceptions=True)
    await cast("Any", topics).aclose()

    assert 0 < heard < MANY / 20


async def test_a_reader_that_does_not_read_is_cut_off(shared: SharedRedis) -> None:
    big = public.batch("mallory", "b-1")
    with shared.plain(shared.worker) as worker:
        worker.hset(big, mapping={f"t-{number}": b"x" * 1_000 for number in range(10_000)})
    before = shared.memory()
    user, _, rest = shared.mallory.partition("//")[2].partition("@")
    name, _, password = user.partition(":")
    with socket.socket(socket.AF_UNIX) as reader:
        reader.connect(rest)
        reader.sendall(f"AUTH {name} {password}\r\n".encode())
        cut_off = False
        for _ in range(100):
            try:
                reader.sendall(f"HGETALL {big}\r\n".encode() * 7)
            except OSError:
                cut_off = True
                break
            assert shared.memory() <= before + 200 * MB
    assert cut_off
