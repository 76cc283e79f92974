"""A shared Redis as `deploy/` sets it up, with users of its rules: a worker, betty, and mallory, who attacks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from redis.asyncio import Redis

from puter_client.acl.rules import Role
from puter_client.client import PuterClient
from puter_worker.clock import Clock
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.integration.redis_servers import server_binaries
from tests.integration.shared_host import SharedHost, shared_host


class SharedRedis(NamedTuple):
    """Addresses of one server, by user."""

    worker: str
    betty: str
    mallory: str
    host: SharedHost

    def plain(self, url: str) -> redis.Redis:
        """A plain client."""
        return redis.Redis.from_url(url)

    def puter(self, user: str) -> PuterClient:
        """Puter's client of a user, in the namespace of the same name."""
        return PuterClient.connect(getattr(self, user), namespace=user, user=user)

    def as_worker(self, namespace: str) -> PuterClient:
        """A client that may read every namespace, for looking behind."""
        return PuterClient.connect(self.worker, namespace=namespace)

    def calls(self, command: str) -> int:
        """How often the server has carried this command out, also in scripts."""
        with self.host.admin() as admin:
            return int(admin.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0))

    def peak(self) -> int:
        """The most bytes that the server has ever used."""
        with self.plain(self.worker) as client:
            return int(client.info("memory")["used_memory_peak"])

    def memory(self) -> int:
        """Bytes that the server uses."""
        with self.plain(self.worker) as client:
            return int(client.info("memory")["used_memory"])


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedRedis]:
    """An empty server with the files of `deploy/`."""
    with shared_host(tmp_path, server_binaries()["valkey"]) as host:
        worker, betty, mallory = asyncio.run(_users(host))
        host.start()
        yield SharedRedis(worker, betty, mallory, host)


@pytest.fixture
async def store(shared: SharedRedis) -> AsyncIterator[Store]:
    """A worker's store, as its user."""
    async with Redis.from_url(shared.worker) as connected:
        opened = Store(connected, clock=Clock(), timings=Timings())
        await opened.db.sync_clock()
        yield opened


async def _users(host: SharedHost) -> list[str]:
    await host.add("admin", Role.ADMIN)
    return [
        (await host.add("worker", Role.WORKER)).url,
        (await host.add("betty")).url,
        (await host.add("mallory")).url,
    ]
