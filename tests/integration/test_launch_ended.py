"""A machine that has ended is not found: requests rest on what EC2 shows after they were made."""

from __future__ import annotations

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.request import Origin
from puter_client.view import View, WaitFor
from tests.ec2sim.config import Fault
from tests.integration.sim_workshop import SimWorkshop, eventually, sim_url, sim_workshop
from tests.integration.stage_world import rewrite
from tests.integration.workshop import spec

__all__ = ["sim_url", "sim_workshop"]

NEVER_S = 3_600.0


async def asked(shop: SimWorkshop, origin: Origin, *, retry_failed: bool = False, **fields: object) -> View:
    """Request `one`, and wait until it runs."""
    requests = [MachineRequest("one", spec(**fields))]
    batch = await shop.client.submit(requests, origin=origin, retry_failed=retry_failed)
    (view,) = await shop.client.wait(batch_id=batch, tags=["one"], wait=WaitFor.RUNNING, timeout_s=120)
    return view


@pytest.mark.parametrize(
    ("origin", "run", "retry_failed", "outcome", "generation"),
    [
        (Origin.UP, None, False, Outcome.CREATED, 2),
        (Origin.UP, "true", False, Outcome.CREATED, 2),
        (Origin.SUBMIT, None, False, Outcome.CREATED, 2),
        (Origin.SUBMIT, "true", False, Outcome.EXISTING, 1),  # its console is still to be read
        (Origin.SUBMIT, "true", True, Outcome.EXISTING, 1),
    ],
)
async def test_what_was_terminated_a_moment_ago_does_not_exist(
    sim_workshop: SimWorkshop, origin: Origin, run: str | None, retry_failed: bool, outcome: Outcome, generation: int
) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S):
        await asked(sim_workshop, origin, run=run)
        await eventually("nobody looks at it any more", lambda: is_quiet(sim_workshop))
        (first,) = await sim_workshop.living()
        await sim_workshop.sim.shut_down(first.id)
        view = await asked(sim_workshop, origin, run=run, retry_failed=retry_failed)

    assert (view.outcome, view.record and view.record.generation) == (outcome, generation)
    assert len(await sim_workshop.living()) == generation - 1


async def is_quiet(shop: SimWorkshop) -> bool:
    """Whether the machine has started, so that only the sweep, which never comes, would look at it."""
    with shop.server.client() as client:
        return not client.exists("puter:_starting:123456789012:us-east-1:")


async def test_a_request_that_comes_during_a_look_waits_for_the_next_one(sim_workshop: SimWorkshop) -> None:
    """EC2 has already said that the machine runs when it ends, and only then the second request is made."""
    async with sim_workshop.working(quiet_sweep_s=NEVER_S):
        await asked(sim_workshop, Origin.UP)
        await eventually("nobody looks at it any more", lambda: is_quiet(sim_workshop))
        (first,) = await sim_workshop.living()
        looks = len(await sim_workshop.calls("DescribeInstances"))
        await sim_workshop.faults(Fault(action="DescribeInstances", when="after", delay_s=1.0, times=1))
        early = await sim_workshop.submit("one")

        async def looked_at() -> bool:
            return len(await sim_workshop.calls("DescribeInstances")) > looks

        await eventually("EC2 was asked for the first request", looked_at)
        await sim_workshop.sim.shut_down(first.id)
        late = await sim_workshop.submit("one")
        await sim_workshop.client.wait(batch_id=late, tags=["one"], wait=WaitFor.RUNNING, timeout_s=120)
        outcomes = [(await sim_workshop.client.batch(batch))[1][0].outcome for batch in (early, late)]

    assert outcomes == [Outcome.EXISTING, Outcome.CREATED]
    await sim_workshop.one_each("one")


async def test_a_machine_that_ended_while_nobody_looked_is_not_said_to_exist(sim_workshop: SimWorkshop) -> None:
    """EC2 has forgotten it meanwhile, and a first look cannot tell that from a lag."""
    await sim_workshop.sim.configure(gone_s=0.01)
    async with sim_workshop.working():
        await asked(sim_workshop, Origin.UP)
    (first,) = await sim_workshop.living()
    await sim_workshop.sim.shut_down(first.id)
    await eventually("EC2 has forgotten it", lambda: nothing_is_left(sim_workshop))
    (record,) = await sim_workshop.records("one")
    rewrite(sim_workshop, PuterKey("betty", "one"), observed_at=(record.observed_at or 0.0) - 9 * 3_600)
    async with sim_workshop.working():
        view = await asked(sim_workshop, Origin.UP)

    assert (view.outcome, view.record and view.record.generation) == (Outcome.CREATED, 2)
    await sim_workshop.one_each("one")


async def nothing_is_left(shop: SimWorkshop) -> bool:
    return not await shop.sim.instances()


async def test_a_request_that_comes_during_the_look_that_shows_the_end_joins_what_comes_of_it(
    sim_workshop: SimWorkshop,
) -> None:
    """The next machine cannot be launched for a while: nothing else decides the request."""
    async with sim_workshop.working(quiet_sweep_s=NEVER_S):
        await asked(sim_workshop, Origin.UP)
        await eventually("nobody looks at it any more", lambda: is_quiet(sim_workshop))
        (first,) = await sim_workshop.living()
        await sim_workshop.sim.shut_down(first.id)
        looks = len(await sim_workshop.calls("DescribeInstances"))
        await sim_workshop.faults(
            Fault(action="DescribeInstances", when="after", delay_s=1.0, times=1),
            Fault(action="RunInstances", code="InsufficientInstanceCapacity"),
        )
        early = await sim_workshop.submit("one")

        async def looked_at() -> bool:
            return len(await sim_workshop.calls("DescribeInstances")) > looks

        await eventually("EC2 was asked for the first request", looked_at)
        late = await sim_workshop.submit("one")

        async def both_decided() -> bool:
            rows = [(await sim_workshop.client.batch(batch))[1] for batch in (early, late)]
            return [row and row[0].outcome for row in rows] == [Outcome.CREATED, Outcome.JOINED]

        await eventually("both are decided", both_decided, for_s=120)
