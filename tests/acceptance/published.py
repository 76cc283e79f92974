"""What workers have published, written by a test: so commands show states that no simulated EC2 brings about."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.health import WorkerHealth
from puter_client.contract.key import PuterKey
from puter_client.contract.record import Event, Record
from puter_client.store import names
from tests.acceptance.cli_world import CliWorld
from tests.integration.redis_servers import RedisServer

NAMESPACE = "betty"


class Published:
    """The names of one Redis that clients read.

    Attributes:
        redis: a plain client.
        world: commands of a user of this Redis.
        now: the time at which everything was published.
    """

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.redis: redis.Redis = server.client()
        self.world = CliWorld(folder, "http://127.0.0.1:1")  # no command calls AWS
        self.world.environ |= {"PUTER_REDIS_URL": server.url, "NO_COLOR": "1"}
        self.now = time.time()

    def records(self, *records: Record) -> None:
        """Records, also as they end."""
        with self.redis.pipeline(transaction=False) as pipe:
            for record in records:
                pipe.hset(names.record(record.key), mapping={"doc": msgspec.json.encode(record), "rev": 1})
                ended_at = record.ended_at or float("inf")
                pipe.zadd(names.index(record.namespace), {record.tag: ended_at})
            pipe.execute()

    def batch(self, info: BatchInfo, rows: dict[str, BatchRow]) -> None:
        """A batch."""
        fields = {names.BATCH_INFO: msgspec.json.encode(info)}
        fields |= {tag: msgspec.json.encode(row) for tag, row in rows.items()}
        self.hash(names.batch(NAMESPACE, info.batch_id), fields)
        self.redis.zadd(names.batches(NAMESPACE), {info.batch_id: info.created_at})

    def hash(self, name: str, fields: Mapping[str, bytes]) -> None:
        """Fields of a hash."""
        self.redis.hset(name, mapping=dict[Any, Any](fields))

    def events(self, tag: str, *events: Event) -> None:
        """A timeline."""
        self.redis.rpush(names.events(PuterKey(NAMESPACE, tag)), *map(msgspec.json.encode, events))

    def worker(self, health: WorkerHealth, *, ago_s: float = 0.0) -> None:
        """A worker that announced itself so long ago."""
        self.redis.zadd(names.WORKERS, {health.worker_id: time.time() - ago_s})
        self.redis.set(names.worker(health.worker_id), msgspec.json.encode(health))

    def ready_worker(self, *, ago_s: float = -3_600.0) -> None:
        """One that takes requests; by default it stays for as long as any test takes."""
        at = self.now
        self.worker(
            WorkerHealth(worker_id="h:1:a", host="h", pid=1, version="0", started_at=at, seen_at=at), ago_s=ago_s
        )


@pytest.fixture
def published(valkey: RedisServer, tmp_path: Path) -> Iterator[Published]:
    """An empty Redis that a test fills, and commands that read it."""
    world = Published(valkey, tmp_path)
    yield world
    world.redis.close()
