"""Messages wake stages, and a lost one is made up for: a request gets through with either alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_worker.store.wakeups import Wakeups
from tests.ec2sim.config import Fault
from tests.integration.sim_workshop import SimWorkshop, eventually, in_groups, no_capacity, sim_url, sim_workshop
from tests.integration.test_launch_errors import HOME, let_in

__all__ = ["in_groups", "sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(12)]
OFFICE = "198.51.100.0/24"
HURDLES = {
    "its account is not known at once": Fault(action="GetCallerIdentity", code="ExpiredToken", times=1),
    "its look-up fails": Fault(action="DescribeInstances", code="InternalError", times=1),
    "it cannot be prepared at once": Fault(action="DescribeKeyPairs", code="InternalError", times=1),
    "there is no capacity at first": no_capacity(times=1),
    "its answer is lost": Fault(action="RunInstances", drop=True, when="after", times=1),
    "it cannot be labelled at once": Fault(action="CreateTags", code="InternalError", times=3),
}
NEVER_S = 3_600.0
SOON_S = 0.2


@pytest.fixture
def only_messages(sim_workshop: SimWorkshop) -> None:
    """No stage looks by itself whether there is something that no message has told of."""
    sim_workshop.hurry(
        sweep_s=NEVER_S, restart_s=NEVER_S, unclaimed_s=NEVER_S, job_timeout_s=NEVER_S, job_lock_s=NEVER_S
    )


@pytest.fixture
def only_looking(sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message reaches a worker; its stages look by themselves."""

    async def silence(_: Wakeups) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield "never"

    monkeypatch.setattr(Wakeups, "topics", silence)
    monkeypatch.setattr(Wakeups, "requests", silence)
    sim_workshop.hurry(sweep_s=SOON_S)


async def complete(shop: SimWorkshop, *tags: str) -> bool:
    """Whether the machine of each tag runs and has its own tags."""
    records = await shop.records(*tags)
    return len(records) == len(tags) and all(one.phase is Phase.RUNNING and one.labelled for one in records)


async def decided(shop: SimWorkshop, batch: str) -> bool:
    """Whether the batch's one tag was found to be there already."""
    _, views = await shop.client.batch(batch)
    return [view.outcome for view in views] == [Outcome.EXISTING]


async def was_met(shop: SimWorkshop, hurdle: Fault) -> bool:
    """Whether the first call that it is for went wrong."""
    first = (await shop.calls(hurdle.action))[0]
    return (first.code, first.answer) != ("OK", "whole")


async def let_in_is(shop: SimWorkshop, *cidrs: str) -> bool:
    """Whether these addresses, and no others, reach the machines."""
    return let_in(shop) == sorted(cidrs)


def cut_off(shop: SimWorkshop) -> int:
    """The server ends every subscription; how many there were."""
    with shop.server.client() as behind:
        return int(behind.client_kill_filter(_type="pubsub"))


@asynccontextmanager
async def cut_off_again_and_again(shop: SimWorkshop) -> AsyncIterator[list[int]]:
    """While inside, the server ends every subscription soon after it is made; how many each time."""
    counts = [cut_off(shop)]

    async def go_on() -> None:
        while True:
            await asyncio.sleep(0.01)
            counts.append(cut_off(shop))

    cutting = asyncio.create_task(go_on())
    try:
        yield counts
    finally:
        cutting.cancel()
        await asyncio.gather(cutting, return_exceptions=True)


# -- messages alone ---


@pytest.mark.usefixtures("only_messages")
async def test_one_machine_gets_from_its_request_to_running_by_messages_alone(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S), sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit("one")
        await eventually("it runs", lambda: complete(sim_workshop, "one"))

    await sim_workshop.one_each("one")


@pytest.mark.usefixtures("only_messages", "in_groups")
async def test_a_group_gets_from_its_request_to_running_and_labelled_by_messages_alone(
    sim_workshop: SimWorkshop,
) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S), sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit(*TAGS)
        await eventually("all run and are labelled", lambda: complete(sim_workshop, *TAGS))

    assert await sim_workshop.calls("CreateTags")
    await sim_workshop.one_each(*TAGS)


@pytest.mark.usefixtures("only_messages", "in_groups")
@pytest.mark.parametrize("hurdle", HURDLES.values(), ids=HURDLES)
async def test_what_is_put_off_goes_on_by_messages_alone(sim_workshop: SimWorkshop, hurdle: Fault) -> None:
    await sim_workshop.faults(hurdle)
    async with sim_workshop.working(quiet_sweep_s=NEVER_S), sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit(*TAGS)
        await eventually("all run and are labelled", lambda: complete(sim_workshop, *TAGS))

    assert await was_met(sim_workshop, hurdle)
    await sim_workshop.one_each(*TAGS)


@pytest.mark.usefixtures("only_messages")
async def test_what_was_requested_before_there_was_a_worker_is_seen_to_at_once(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.submit("one")
    async with sim_workshop.working(quiet_sweep_s=NEVER_S):
        await eventually("it runs", lambda: complete(sim_workshop, "one"))


@pytest.mark.usefixtures("only_messages")
async def test_a_further_address_is_let_in_by_messages_alone(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S), sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit("one")
        await eventually("it runs", lambda: complete(sim_workshop, "one"))
        await sim_workshop.submit("one", ssh_from=(OFFICE,))
        await eventually("both addresses are let in", lambda: let_in_is(sim_workshop, HOME, OFFICE))


@pytest.mark.usefixtures("only_messages")
async def test_a_request_that_waits_for_ec2s_word_is_decided_by_messages_alone(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S), sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit("one")
        await eventually("it runs", lambda: complete(sim_workshop, "one"))
        batch = await sim_workshop.submit("one")
        await eventually("it is decided", lambda: decided(sim_workshop, batch))

    await sim_workshop.one_each("one")


@pytest.mark.usefixtures("only_messages")
async def test_keys_that_find_no_job_free_get_through_by_messages_alone(sim_workshop: SimWorkshop) -> None:
    few: dict[str, Any] = {"max_jobs": 1, "quiet_sweep_s": NEVER_S}
    async with sim_workshop.working(**few), sim_workshop.working(**few):
        await sim_workshop.submit(*TAGS)
        await eventually("all run and are labelled", lambda: complete(sim_workshop, *TAGS))

    await sim_workshop.one_each(*TAGS)


@pytest.mark.usefixtures("only_messages")
async def test_what_comes_while_the_subscription_is_lost_is_seen_when_it_is_there_again(
    sim_workshop: SimWorkshop,
) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S):
        async with cut_off_again_and_again(sim_workshop):
            await sim_workshop.submit(*TAGS)
        await eventually("all run", lambda: complete(sim_workshop, *TAGS))

    await sim_workshop.one_each(*TAGS)


# -- no messages ---


@pytest.mark.usefixtures("only_looking")
async def test_one_machine_gets_from_its_request_to_running_without_messages(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S), sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit("one")
        await eventually("it runs", lambda: complete(sim_workshop, "one"))

    await sim_workshop.one_each("one")


@pytest.mark.usefixtures("only_looking", "in_groups")
async def test_a_group_gets_from_its_request_to_running_and_labelled_without_messages(
    sim_workshop: SimWorkshop,
) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S), sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit(*TAGS)
        await eventually("all run and are labelled", lambda: complete(sim_workshop, *TAGS))

    assert await sim_workshop.calls("CreateTags")
    await sim_workshop.one_each(*TAGS)


@pytest.mark.usefixtures("only_looking", "in_groups")
@pytest.mark.parametrize("hurdle", HURDLES.values(), ids=HURDLES)
async def test_what_is_put_off_goes_on_without_messages(sim_workshop: SimWorkshop, hurdle: Fault) -> None:
    sim_workshop.hurry(restart_s=SOON_S)  # a key whose job put itself off is looked at no later
    await sim_workshop.faults(hurdle)
    async with sim_workshop.working(quiet_sweep_s=NEVER_S), sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit(*TAGS)
        await eventually("all run and are labelled", lambda: complete(sim_workshop, *TAGS))

    assert await was_met(sim_workshop, hurdle)
    await sim_workshop.one_each(*TAGS)


@pytest.mark.usefixtures("only_looking")
async def test_a_request_that_waits_for_ec2s_word_is_decided_without_messages(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit("one")
        await eventually("it runs", lambda: complete(sim_workshop, "one"))
        batch = await sim_workshop.submit("one")
        await eventually("it is decided", lambda: decided(sim_workshop, batch))

    await sim_workshop.one_each("one")


@pytest.mark.usefixtures("only_looking")
async def test_a_further_address_is_let_in_without_messages(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=NEVER_S):
        await sim_workshop.submit("one")
        await eventually("it runs", lambda: complete(sim_workshop, "one"))
        await sim_workshop.submit("one", ssh_from=(OFFICE,))
        await eventually("both addresses are let in", lambda: let_in_is(sim_workshop, HOME, OFFICE))


@pytest.mark.usefixtures("in_groups")
async def test_a_subscription_that_is_cut_off_again_and_again_stops_nobody(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(sweep_s=SOON_S)
    async with sim_workshop.working(), sim_workshop.working(), cut_off_again_and_again(sim_workshop) as counts:
        await sim_workshop.submit(*TAGS)
        await eventually("all run and are labelled", lambda: complete(sim_workshop, *TAGS))

    assert sum(counts) >= 2
    await sim_workshop.one_each(*TAGS)
