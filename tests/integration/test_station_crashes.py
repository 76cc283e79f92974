"""Workers that die at any step: whoever comes next grants every wish, each exactly once."""

from __future__ import annotations

import asyncio

import pytest

from puter_client.client import Asked
from puter_client.contract.phase import Origin
from puter_client.view import WaitFor
from tests.integration.station_world import FLEET, Death, one_machine_each, redis_keeps_its_rules, time_passes
from tests.integration.workshop import PATIENCE_S, Workshop, spec

__all__ = ["redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")

TAGS = ["one", "two", "three"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("grouped", [False, True], ids=["singly", "grouped"])
async def test_a_worker_may_die_at_any_step(workshop: Workshop, after: bool, grouped: bool) -> None:
    step, died = 0, True
    while died:
        step += 1
        namespace = f"life-{step}"
        death = Death(step, after=after)
        died = await _a_life(workshop, namespace, death, grouped=grouped)

        assert step < 100, "there is no end of steps"
    assert step > 8, "the worker died at hardly any step"


async def _a_life(shop: Workshop, namespace: str, death: Death, *, grouped: bool) -> bool:
    """One way of three wishes with a worker that dies on it and one that goes on; whether the first one died."""
    with shop.server.client() as behind:
        behind.flushall()
        if grouped:  # one call is all that may be made at once
            bucket = f"puter:_public:bucket:{FLEET}RunInstances"
            seconds, _ = behind.time()
            behind.hset(bucket, mapping={"tokens": "1", "at": str(seconds)})
    client = shop.client_of(namespace)
    try:
        batch = await client.submit([Asked(tag, spec()) for tag in TAGS], origin=Origin.UP)
        async with death.awaits(shop, pace=grouped):
            granted = asyncio.create_task(client.wait(batch_id=batch, tags=TAGS, timeout_s=PATIENCE_S))
            struck = asyncio.create_task(death.dead.wait())
            await asyncio.wait({granted, struck}, return_when=asyncio.FIRST_COMPLETED)
            struck.cancel()
            granted.cancel()
            await asyncio.gather(granted, struck, return_exceptions=True)
        time_passes(shop)
        async with shop.working(pace=grouped):
            views = await client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.RUNNING, timeout_s=PATIENCE_S)
        assert [view.record and view.record.error for view in views] == [None, None, None], death.at
        await one_machine_each(shop, namespace, TAGS)
    except BaseException as error:
        error.add_note(f"the worker had died {death.at}")
        raise
    finally:
        await client.aclose()
    return death.dead.is_set()
