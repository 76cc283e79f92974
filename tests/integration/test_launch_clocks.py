"""Clocks that are set while machines are launched: nothing ends by it, nothing is doubled, nothing stands still."""

from __future__ import annotations

from contextlib import AsyncExitStack

import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.view import WaitFor
from tests.ec2sim.config import Fault
from tests.integration.sim_workshop import SimWorkshop, eventually, in_groups, sim_url, sim_workshop
from tests.integration.stage_world import rewrite

__all__ = ["in_groups", "sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(20)]
HOURS_2 = 7_200.0
STEPS = [HOURS_2, -HOURS_2, 86_400.0]
UNSEEN_S = 2.0


@pytest.fixture
def clocks(sim_workshop: SimWorkshop) -> SimWorkshop:
    """Workers measure Redis's clock often, and conclude from absence only after longer than EC2 lags here."""
    sim_workshop.hurry(health_s=0.2, second_look_s=2 * UNSEEN_S)
    return sim_workshop


async def looked_again(shop: SimWorkshop, times: int) -> None:
    """The machines are looked at so many times more."""
    before = len(await shop.calls("DescribeInstances"))

    async def looked() -> bool:
        return len(await shop.calls("DescribeInstances")) >= before + times

    await eventually("the machines are looked at", looked)


async def all_run(shop: SimWorkshop, *tags: str) -> bool:
    records = await shop.records(*tags)
    return len(records) == len(tags) and all(record.phase is Phase.RUNNING for record in records)


@pytest.mark.parametrize("restarted", [False, True], ids=["by the worker that saw the step", "by one that began after"])
@pytest.mark.parametrize("by_s", STEPS)
async def test_a_step_just_after_a_launch_ends_no_record_and_doubles_no_machine(
    clocks: SimWorkshop, by_s: float, restarted: bool
) -> None:
    """EC2 does not show the machines yet: to a clock that has jumped they were not seen for hours."""
    await clocks.sim.configure(id_lag_s=[UNSEEN_S, UNSEEN_S], list_lag_s=[UNSEEN_S, UNSEEN_S])
    async with AsyncExitStack() as working:
        await working.enter_async_context(clocks.working(quiet_sweep_s=0.1))
        batch = await clocks.submit(*TAGS)
        await clocks.client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.LAUNCHED, timeout_s=120)
        clocks.redis_ahead_s = by_s
        if restarted:
            await working.aclose()
            await working.enter_async_context(clocks.working(quiet_sweep_s=0.1))
        await looked_again(clocks, 4)
        phases = {record.phase for record in await clocks.records(*TAGS)}
        again = await clocks.submit(*TAGS)
        views = await clocks.client.wait(batch_id=again, tags=TAGS, wait=WaitFor.RUNNING, timeout_s=120)

    assert phases <= {Phase.PENDING, Phase.RUNNING}
    assert {view.outcome for view in views} == {Outcome.EXISTING}
    await clocks.one_each(*TAGS)


@pytest.mark.usefixtures("in_groups")
@pytest.mark.parametrize("by_s", STEPS)
async def test_a_step_in_the_middle_of_a_batch_neither_stops_nor_doubles_anything(
    clocks: SimWorkshop, by_s: float
) -> None:
    """Answers are lost, so there are doubtful launches, claims and pauses from before the step."""
    await clocks.faults(
        Fault(action="RunInstances", when="after", drop=True, times=2),
        Fault(action="CreateTags", code="ServiceUnavailable", times=3),
        Fault(action="DescribeInstances", code="ServiceUnavailable", times=2),
    )
    async with clocks.working(), clocks.working():
        await clocks.submit(*TAGS[:10])
        await eventually("EC2 was asked to launch", lambda: has_launched(clocks))
        clocks.redis_ahead_s = by_s
        await clocks.submit(*TAGS[10:])
        await eventually("all run", lambda: all_run(clocks, *TAGS))

    await clocks.one_each(*TAGS)


async def has_launched(shop: SimWorkshop) -> bool:
    return bool(await shop.calls("RunInstances"))


async def test_a_machine_that_ec2_has_forgotten_ends_after_several_looks(clocks: SimWorkshop) -> None:
    """It ended long ago, while no worker ran; EC2 does not show it any more."""
    await clocks.sim.configure(gone_s=0.1)
    async with clocks.working():
        await clocks.request("one", wait=WaitFor.RUNNING)
    (record,) = await clocks.records("one")
    (one,) = await clocks.living()
    await clocks.sim.shut_down(one.id)
    await eventually("EC2 does not know it any more", lambda: nothing_is_left(clocks))
    rewrite(clocks, PuterKey("betty", "one"), observed_at=(record.observed_at or 0.0) - HOURS_2)
    async with clocks.working(quiet_sweep_s=0.2):
        await looked_again(clocks, 2)
        (soon,) = await clocks.records("one")
        await eventually("it has ended", lambda: has_ended(clocks))

    assert soon.phase is Phase.RUNNING


async def nothing_is_left(shop: SimWorkshop) -> bool:
    return not await shop.sim.instances()


async def has_ended(shop: SimWorkshop) -> bool:
    (record,) = await shop.records("one")
    return record.phase is Phase.TERMINATED
