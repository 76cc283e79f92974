"""Groups, their user data and their labels."""

from __future__ import annotations

import time

from puter_client.view import WaitFor
from tests.integration.sim_workshop import SimWorkshop, sim_url, sim_workshop

__all__ = ["sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(200)]


async def test_two_hundred(sim_workshop: SimWorkshop) -> None:
    shop = sim_workshop
    async with shop.working():
        t = time.monotonic()
        batch = await shop.submit(*TAGS)
        await shop.client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.LAUNCHED, timeout_s=30)
        print("launched", time.monotonic() - t)
        await shop.client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.RUNNING, timeout_s=30)
        print("running", time.monotonic() - t)
        while not all(r.labelled for r in await shop.records(*TAGS)):
            assert time.monotonic() - t < 30
        print("labelled", time.monotonic() - t)
    await shop.one_each(*TAGS)
    print((await shop.sim.summary()).counts)
