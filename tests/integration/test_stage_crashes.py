"""Workers that die at any step: whoever comes next grants every request, each exactly once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.request import Origin
from puter_worker import lead, pacer, worker
from puter_worker.ec2.session import Sessions
from puter_worker.pacer import Bucket
from puter_worker.stages import send
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
async def test_a_worker_may_die_at_any_step(
    workshop: Workshop, one_session: Sessions, grouped: bool, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "Sessions", lambda version: one_session)
    monkeypatch.setitem(pacer.BUCKETS, "RunInstances", Bucket(1, 20))  # paced, two are launched with one call
    # moto launches but one of a group: the others are looked for twice, and then launched anew.
    monkeypatch.setattr(send, "SECOND_LOOK_AFTER_S", 0.1)
    monkeypatch.setattr(send, "RETRY_S", 0.1)
    monkeypatch.setattr(lead, "REPLAY_EVERY_S", 0.1)
    step, died = 0, True
    while died:
        step += 1
        assert step < MANY, "there is no end of steps"
        died = await _a_life(workshop, f"life-{step}", Death(step, after=after), grouped=grouped)
    assert step > FEW, "the worker died at hardly any step"


@pytest.fixture
async def one_session(moto: str) -> AsyncIterator[Sessions]:
    """Sessions that all workers of a test share: making them takes most of a short life."""

    class Shared(Sessions):
        async def aclose(self) -> None:
            """Nobody's to close."""

    shared = Shared(version="0")
    yield shared
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
