"""Fixture: a client, a real Valkey and moto, with workers that run inside the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import boto3
import msgspec
import pytest

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.record import Record
from puter_client.contract.request import Origin
from puter_client.contract.spec import Spec
from puter_client.store.clientstore import ClientStore
from puter_client.timings import ClientTimings
from puter_client.view import View, WaitFor
from puter_worker.clock import Clock
from puter_worker.rates import Bucket, Rates
from puter_worker.settings import WorkerSettings
from puter_worker.timings import Timings
from puter_worker.worker import Worker
from tests.integration.redis_servers import RedisServer

PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx8Tn8wJmVvLq1uwRWhGtg5zT8p7xyk8vJ4k8jVvq3Z me"
PATIENCE_S = 120.0
SPEC = Spec(public_key=PUBLIC_KEY, ssh_from=("192.0.2.7/32",), region="us-east-1")


def spec(**changes: Any) -> Spec:
    """A spec that moto can launch, with some fields changed."""
    return msgspec.structs.replace(SPEC, **changes)


class RedisClock(Clock):
    """A worker's clock, in a world where the clock of Redis's host is set by the test."""

    def __init__(self, shop: Workshop) -> None:
        super().__init__()
        self._shop = shop

    def learn(self, redis_time: float, *, sent_at: float, answered_at: float) -> float | None:
        """Learn what Redis TIME would be if its host's clock had been set."""
        return super().learn(redis_time + self._shop.redis_ahead_s, sent_at=sent_at, answered_at=answered_at)


class Workshop:
    """What a test of the whole way of a request works with.

    Attributes:
        server: the Redis.
        client: a client in namespace `betty`.
        timings: of workers.
        rates: that their pacers keep to.
        ec2: a plain boto3 client, for looking at what EC2 holds.
        redis_ahead_s: by how much the clock of Redis's host was set.
    """

    def __init__(self, server: RedisServer, endpoint: str) -> None:
        self.server = server
        self.endpoint = endpoint
        self.client = self.client_of("betty")
        self.ec2: Any = boto3.client("ec2", region_name="us-east-1", endpoint_url=endpoint)
        self._workers = 0
        self.redis_ahead_s = 0.0
        self.timings = Timings()
        self.rates = Rates()

    def hurry(self, **changes: Any) -> None:
        """Workers that are started from now on have these timings instead."""
        self.timings = msgspec.structs.replace(self.timings, **changes)

    def set_bucket(self, action: str, bucket: Bucket) -> None:
        """Pacers of workers that are started from now on have this bucket instead."""
        self.rates = msgspec.structs.replace(self.rates, buckets={**self.rates.buckets, action: bucket})

    def worker(self, *, on_ready: Callable[[], None] = lambda: None, **changes: Any) -> Worker:
        """A worker with the workshop's timings and rates, and these settings."""
        clock = RedisClock(self)
        return Worker(self.settings(**changes), timings=self.timings, rates=self.rates, clock=clock, on_ready=on_ready)

    def client_of(self, namespace: str) -> PuterClient:
        """A client in another namespace; it shares the loop of the workers, which a busy machine may hold for long."""
        timings = ClientTimings(answer_s=PATIENCE_S)
        return PuterClient(ClientStore.connect(self.server.url, timings=timings), namespace=namespace, user="betty")

    def settings(self, **changes: Any) -> WorkerSettings:
        """A worker's settings; moto has no rates to pace for, and of a group's call it grants one machine."""
        self._workers += 1
        name = f"here:{self._workers}:test"
        calm = WorkerSettings(
            # The workers share the loop of the test, and a busy machine may hold it for long.
            redis_url=f"{self.server.url}?socket_timeout={PATIENCE_S:.0f}&socket_connect_timeout={PATIENCE_S:.0f}",
            worker_id=name,
            host="here",
            pace=False,
            max_group=1,
            drain_s=5.0,
            quiet_sweep_s=0.5,
        )
        return msgspec.structs.replace(calm, **changes)

    @asynccontextmanager
    async def working(self, **changes: Any) -> AsyncIterator[Worker]:
        """A worker runs while inside."""
        ready = asyncio.Event()
        worker = self.worker(on_ready=ready.set, **changes)
        running = asyncio.create_task(worker.run())
        await asyncio.wait({running, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        try:
            yield worker
        finally:
            worker.stop()
            await running

    @asynccontextmanager
    async def idle(self, **changes: Any) -> AsyncIterator[Worker]:
        """A worker that does nothing: its stages run when the test says so."""
        worker = self.worker(**changes)
        await worker.store.db.sync_clock()
        try:
            yield worker
        finally:
            await worker.targets.sessions.aclose()
            await worker.store.db.redis.aclose()
            await worker.store.db.redis.connection_pool.disconnect()

    async def request(
        self,
        *tags: str,
        wait: WaitFor = WaitFor.RUNNING,
        client: PuterClient | None = None,
        origin: Origin = Origin.UP,
        again: bool = False,
        retry_failed: bool = False,
        **fields: Any,
    ) -> list[View]:
        """Request machines and wait; the views in the order of the tags."""
        client = client or self.client
        asked = [MachineRequest(tag, spec(**fields)) for tag in tags]
        batch = await client.submit(asked, origin=origin, again=again, retry_failed=retry_failed)
        return await client.wait(batch_id=batch, tags=tags, wait=wait, timeout_s=PATIENCE_S)

    async def record(self, tag: str) -> Record:
        """A tag's record."""
        (view,) = await self.client.views([tag])
        assert view.record is not None, f"nothing is known of {tag}"
        return view.record

    def instances(self, *states: str) -> list[dict[str, Any]]:
        """Every instance that EC2 holds, in some states or in all."""
        filters: Sequence[Any] = [{"Name": "instance-state-name", "Values": list(states)}] if states else []
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=filters)
        return [
            dict(instance)
            for page in pages
            for reservation in page["Reservations"]
            for instance in reservation["Instances"]
        ]

    def tags(self, instance_id: str) -> dict[str, str]:
        """The tags that EC2 holds of a resource."""
        found = self.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [instance_id]}])["Tags"]
        return {tag["Key"]: tag["Value"] for tag in found}


@pytest.fixture
async def workshop(valkey: RedisServer, moto: str) -> AsyncIterator[Workshop]:
    """A client, a Valkey and moto; workers are started by the test."""
    shop = Workshop(valkey, moto)
    yield shop
    await shop.client.aclose()
    shop.ec2.close()
