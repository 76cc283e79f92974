"""Workers that die at any step: whoever comes next grants every request, each exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from puter_client.client import MachineRequest
from puter_client.contract.request import Origin
from puter_worker.ec2.session import Sessions
from puter_worker.rates import RUN_INSTANCES, Bucket
from puter_worker.timings import Timings
from puter_worker.worker import Worker
from tests.integration.redis_servers import RedisServer
from tests.integration.stage_world import Death, end, one_machine_each, redis_keeps_its_rules, time_passes
from tests.integration.workshop import PATIENCE_S, Workshop, spec

__all__ = ["redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")

TAGS = ["one", "two"]
FEW = 10
MANY = 80


# What is left behind just before a step is what is left just after the one before: each way needs but one of them.
@pytest.mark.parametrize(("grouped", "after"), [(False, True), (True, False)], ids=["singly-after", "grouped-before"])
# The dead leave their connections open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_worker_may_die_at_any_step(workshop: Workshop, grouped: bool, after: bool) -> None:
    buckets = {**workshop.rates.buckets, RUN_INSTANCES: Bucket(1, 20)}  # paced, two are launched with one call
    workshop.rates = msgspec.structs.replace(workshop.rates, buckets=buckets)
    # moto launches but one of a group: the others are looked for twice, and then launched anew.
    workshop.hurry(second_look_s=0.1, send_again_s=0.1, shut_s=0.1)
    step, died = 0, True
    while died:
        step += 1
        assert step < MANY, "there is no end of steps"
        died = await _a_life(workshop, f"life-{step}", Death(step, after=after), grouped=grouped)
    assert step > FEW, "the worker died at hardly any step"


class SharingWorkshop(Workshop):
    """A workshop whose workers share their sessions: making them takes most of a short life."""

    def __init__(self, server: RedisServer, endpoint: str, sessions: Sessions) -> None:
        super().__init__(server, endpoint)
        self._sessions = sessions

    def worker(self, *, on_ready: Callable[[], None] = lambda: None, **changes: Any) -> Worker:
        settings = self.settings(**changes)
        return Worker(settings, timings=self.timings, rates=self.rates, sessions=self._sessions, on_ready=on_ready)


@pytest.fixture
async def workshop(valkey: RedisServer, moto: str) -> AsyncIterator[Workshop]:
    """As everywhere, with sessions that all workers of a test share."""

    class Shared(Sessions):
        async def aclose(self) -> None:
            """Nobody's to close."""

    shared = Shared(Timings(), version="0")
    shop = SharingWorkshop(valkey, moto, shared)
    yield shop
    await shop.client.aclose()
    shop.ec2.close()
    await Sessions.aclose(shared)


async def _a_life(shop: Workshop, namespace: str, death: Death, *, grouped: bool) -> bool:
    """One way of two requests, with a worker that dies on it and one that goes on; whether the first one died."""
    with shop.server.client() as behind:
        behind.flushall()
    client = shop.client_of(namespace)
    batch = await client.submit([MachineRequest(tag, spec()) for tag in TAGS], origin=Origin.UP)
    granted = asyncio.create_task(client.wait(batch_id=batch, tags=TAGS, timeout_s=PATIENCE_S))
    struck = asyncio.create_task(death.dead.wait())
    try:
        async with death.awaits(shop, pace=grouped):
            await asyncio.wait({granted, struck}, return_when=asyncio.FIRST_COMPLETED)
            await end([granted, struck])
        time_passes(shop)
        async with shop.working(pace=grouped):
            views = await client.wait(batch_id=batch, tags=TAGS, timeout_s=PATIENCE_S)
        assert [view.record and view.record.error for view in views] == [None, None]
        await one_machine_each(shop, namespace, TAGS)
    except BaseException as error:
        error.add_note(f"the worker had died {death.at}")
        raise
    finally:
        await end([granted, struck])
        await client.aclose()
    return death.dead.is_set()
