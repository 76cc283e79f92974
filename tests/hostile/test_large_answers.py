"""What a worker reads of what clients made as large as they may: each answer stays far below the server's limit.

`client-output-buffer-limit` of deploy/redis.conf ends the connection of whoever is sent more than 32 MB at a time. 120
specs of the largest size, read at once, were more: launches, intake and look-ups of all namespaces stood still.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest
from redis.asyncio import Redis

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import Attempt, Record
from puter_client.contract.request import UpRequest
from puter_client.contract.result import Result
from puter_client.store import names as public
from puter_worker.clock import Clock
from puter_worker.stages.decode import decode_request
from puter_worker.store import names
from puter_worker.store.database import READ_AT_ONCE, READ_BYTES
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.hostile.requests import up
from tests.hostile.sizes import SEED
from tests.integration.redis_servers import RedisServer, running_server, server_binaries
from tests.integration.shared_host import CONFIGURATION

MANY = 500
SETTING = "client-output-buffer-limit"


@pytest.fixture(params=server_binaries())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each kind of server, with the limits of `deploy/redis.conf`."""
    limits = [
        line.removeprefix(SETTING).strip()
        for line in CONFIGURATION.read_text().splitlines()
        if line.startswith(SETTING)
    ]
    assert limits
    with running_server(server_binaries()[request.param], appendonly="no") as server:
        with server.client() as behind:
            behind.config_set(SETTING, " ".join(limits))
        yield server


@pytest.fixture
async def store(server: RedisServer) -> AsyncIterator[Store]:
    async with Redis.from_url(server.url) as connected:
        opened = Store(connected, clock=Clock(), timings=Timings())
        await opened.db.sync_clock()
        yield opened


def largest_spec() -> bytes:
    """The largest spec that intake takes, as a worker stores it."""
    text = "\x01" * 16_000  # six bytes each in JSON
    raw = up(random.Random(SEED), {"run": f"x{text}", "env": {"A": text}, "user_data": f"#!/bin/sh\n{text}"})
    request = decode_request(raw)
    assert isinstance(request, UpRequest)
    return msgspec.json.encode(request.spec)


def largest_record(key: PuterKey) -> bytes:
    """A record whose workload was run again as often as it may be."""
    again = Attempt(generation=1, instance_id="i-0123456789abcdef0", result=Result.FAILED, exit_code=1, finished_at=1e9)
    record = Record(
        namespace=key.namespace,
        tag=key.tag,
        phase=Phase.LAUNCHING,
        created_at=1e9,
        changed_at=1e9,
        private_key_path="/" * 4_096,
        log_tail="\x01" * 1_000,
        attempts=(again,) * 100,
    )
    return msgspec.json.encode(record)


async def test_specs_of_any_size_are_read(server: RedisServer, store: Store) -> None:
    keys = [PuterKey("mallory", f"t-{n}") for n in range(MANY)]
    raw = largest_spec()
    assert len(raw) > 280_000
    with server.client() as behind:
        for key in keys:
            behind.set(names.spec(key), raw)

    found = await store.records.specs([*keys, PuterKey("mallory", "none")])

    assert [spec is not None for spec in found] == [True] * MANY + [False]


async def test_records_of_any_size_are_read(server: RedisServer, store: Store) -> None:
    keys = [PuterKey("mallory", f"t-{n}") for n in range(3 * MANY)]
    with server.client() as behind:
        for key in keys:
            behind.hset(public.record(key), mapping={"rev": "7", "doc": largest_record(key)})

    found = await store.records.read([PuterKey("mallory", "none"), *keys])

    assert [(one.value.tag if one.value else None, one.rev) for one in found] == [
        (None, None),
        *((key.tag, b"7") for key in keys),
    ]


@pytest.mark.parametrize("size", [100, 20_000, 300_000])
async def test_an_answer_has_few_megabytes_and_ordinary_values_are_one_answer(store: Store, size: int) -> None:
    for n in range(MANY):
        await store.db.redis.set(f"puter:_spec:x/{n}", b"x" * size)

    parts = [part async for part in store.db.read(range(MANY), lambda n: f"puter:_spec:x/{n}")]

    assert [item for part in parts for item, _ in part] == list(range(MANY))
    assert all(sum(len(raw or b"") for _, (raw,) in part) <= READ_BYTES + 10 * size for part in parts)
    assert MANY <= READ_AT_ONCE
    assert len(parts) <= 1 + MANY * size // READ_BYTES
