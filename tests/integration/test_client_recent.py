"""What a bare `status` shows: all that lives, however old, and what ended within a day."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from puter_client.client import PuterClient
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_worker.clock import Clock
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.timings import Timings
from tests.integration.redis_servers import RedisServer

HOUR_S = 3_600.0
LIVING, ENDED_TODAY, ENDED_BEFORE = ["lives-3d", "waits-3d"], ["ended-23h", "failed-23h"], ["ended-25h", "failed-25h"]


async def happened(store: Store, tag: str, *phases: tuple[Phase, float]) -> None:
    """Write a puter's phases as a worker would have, each so many hours ago."""
    as_read: Versioned[Record | None] = await store.records.read_one(PuterKey("betty", tag))
    for phase, hours in phases:
        at = store.now() - hours * HOUR_S
        before = as_read.value or Record(namespace="betty", tag=tag, phase=phase, created_at=at, changed_at=at)
        txn = Txn()
        ended_at = at if phase in {Phase.TERMINATED, Phase.FAILED} else None
        as_read = store.records.put(txn, as_read, before.replace(phase=phase, changed_at=at, ended_at=ended_at))
        assert await store.commit(txn) == []


@pytest.fixture
async def server(any_redis: RedisServer) -> AsyncIterator[RedisServer]:
    """Each kind of server, with puters that live and that ended, today and before."""
    redis = Redis.from_url(any_redis.url)
    store = Store(redis, clock=Clock(), timings=Timings())
    await store.db.sync_clock()
    await happened(store, "lives-3d", (Phase.PENDING, 73), (Phase.RUNNING, 72))
    await happened(store, "waits-3d", (Phase.QUEUED, 72))
    for hours in (23, 25):
        await happened(store, f"ended-{hours}h", (Phase.RUNNING, 72), (Phase.TERMINATED, hours))
        await happened(store, f"failed-{hours}h", (Phase.QUEUED, 72), (Phase.FAILED, hours))
    yield any_redis
    await redis.aclose()


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[PuterClient]:
    async with PuterClient.connect(server.url, namespace="betty", user="betty") as connected:
        yield connected


async def status(server: RedisServer, home: Path, *words: str) -> set[str]:
    """The tags that the command shows."""
    environ = {"PATH": os.environ["PATH"], "PUTER_HOME": str(home), "PUTER_REDIS_URL": server.url}
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "puter_client.cli", "status", "-n", "betty", "--json", *words),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await command.communicate()
    assert command.returncode == 0
    return {json.loads(line)["tag"] for line in out.splitlines()}


async def test_what_lives_and_what_ended_within_a_day_is_recent(client: PuterClient) -> None:
    assert {view.tag for view in await client.recent()} == {*LIVING, *ENDED_TODAY}


async def test_what_ended_before_is_shown_to_who_asks_for_everything(client: PuterClient) -> None:
    assert {view.tag for view in await client.recent(everything=True)} == {*LIVING, *ENDED_TODAY, *ENDED_BEFORE}


async def test_a_bare_status_shows_what_is_recent(server: RedisServer, tmp_path: Path) -> None:
    assert await status(server, tmp_path) == {*LIVING, *ENDED_TODAY}


async def test_status_of_all_shows_what_ended_before_too(server: RedisServer, tmp_path: Path) -> None:
    assert await status(server, tmp_path, "--all") == {*LIVING, *ENDED_TODAY, *ENDED_BEFORE}
