"""Launches that break off: lost answers, tokens that EC2 knows, an emptied Redis, a leader that dies."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from puter_client.contract.phase import Phase
from puter_client.view import View, WaitFor
from puter_worker.ec2.tags import decode_manifest
from puter_worker.stages.explain import SHUT
from puter_worker.store import names
from tests.ec2sim.config import Fault
from tests.integration.sim_workshop import (
    TARGET,
    SimWorkshop,
    doomed,
    eventually,
    in_groups,
    sim_url,
    sim_workshop,
)
from tests.integration.stage_world import wake_all
from tests.integration.test_launch_groups import by_launch

__all__ = ["in_groups", "sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(12)]
both_markets = pytest.mark.parametrize("spot", [False, True], ids=["on-demand", "spot"])
INTENTS = names.due("intents", TARGET)
FAR_S = 3_600.0  # pauses that end only because the test says so
UNLISTED_S = 60.0  # EC2 lists a launch only once the simulator's clock was moved
BREAKS = {
    "answer dropped": Fault(action="RunInstances", drop=True, when="after", times=2),
    "answer cut": Fault(action="RunInstances", cut=True, when="after", times=2),
    "5xx after the effect": Fault(action="RunInstances", code="InternalError", when="after", times=2),
    "call lost": Fault(action="RunInstances", drop=True, when="before", times=2),
    "5xx before the effect": Fault(action="RunInstances", code="ServiceUnavailable", times=2),
}


async def launches(shop: SimWorkshop, count: int) -> bool:
    """Whether so many machines were ever launched."""
    return sum(len(call.effect) for call in await shop.calls("RunInstances")) >= count


async def each_is_as_its_tags_say(shop: SimWorkshop) -> None:
    """Each machine has the tags of the key that it was launched for; a Spot machine its place by its id."""
    records = {record.instance_id: record for record in await shop.records(*TAGS)}
    for launch in by_launch(await shop.living()):
        for place, one in enumerate(sorted(launch, key=lambda one: one.id)):
            members = decode_manifest(one.tags)
            born = members[place if one.spot else one.launch_index] if members else None
            assert born in (None, (records[one.id].tag, records[one.id].generation))
            assert records[one.id].member == (place if one.spot and members else None)
            assert one.tags.get("puter:tag", records[one.id].tag) == records[one.id].tag


# -- lost answers ---


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS)
async def test_singles_whose_launch_breaks_off_are_launched_once(sim_workshop: SimWorkshop, fault: Fault) -> None:
    await sim_workshop.faults(fault)
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS[:3], wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each(*TAGS[:3])


@pytest.mark.usefixtures("in_groups")
@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS)
@both_markets
async def test_a_group_whose_launch_breaks_off_is_launched_once(
    sim_workshop: SimWorkshop, spot: bool, fault: Fault
) -> None:
    await sim_workshop.sim.configure(shuffled=True)
    await sim_workshop.faults(fault)
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS, spot=spot, wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each(*TAGS)
    await each_is_as_its_tags_say(sim_workshop)


@pytest.mark.usefixtures("in_groups")
@both_markets
async def test_a_launch_whose_answer_was_lost_and_that_ec2_does_not_show_yet_is_launched_once(
    sim_workshop: SimWorkshop,
    spot: bool,
) -> None:
    sim_workshop.hurry(second_look_s=2.0)
    await sim_workshop.sim.configure(list_lag_s=[0.3, 1.0], id_lag_s=[0.3, 1.0], flapping=0.3)
    await sim_workshop.faults(Fault(action="RunInstances", drop=True, when="after", times=2))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS, spot=spot, wait=WaitFor.RUNNING)

    await sim_workshop.one_each(*TAGS)
    await each_is_as_its_tags_say(sim_workshop)


async def test_a_refusal_after_a_lost_answer_launches_nothing_twice(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(second_look_s=1.5)
    await sim_workshop.sim.configure(list_lag_s=[0.7, 0.7])
    await sim_workshop.faults(
        Fault(action="RunInstances", drop=True, when="after", times=1),
        Fault(action="RunInstances", code="InvalidParameterValue", times=1),
    )
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each("one")


@pytest.mark.usefixtures("in_groups")
@both_markets
async def test_a_refusal_after_a_call_that_was_lost_goes_back_to_the_launch_queue(
    sim_workshop: SimWorkshop, spot: bool
) -> None:
    await sim_workshop.faults(
        Fault(action="RunInstances", drop=True, when="before", times=1),
        Fault(action="RunInstances", code="InsufficientInstanceCapacity", times=1),
    )
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS, spot=spot, wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each(*TAGS)
    await each_is_as_its_tags_say(sim_workshop)


# -- tokens that EC2 knows ---


async def test_a_token_that_a_forgotten_launch_has_used_leads_to_its_machine(
    sim_workshop: SimWorkshop,
) -> None:
    await sim_workshop.sim.configure(list_lag_s=[UNLISTED_S, UNLISTED_S])
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED)
    forget_everything(sim_workshop)
    async with sim_workshop.working():  # it remembers nothing either
        batch = await sim_workshop.submit("one")

        async def refused() -> bool:
            return await sim_workshop.refused("IdempotentParameterMismatch") >= 1

        await eventually("its token was refused", refused)
        await sim_workshop.sim.advance(UNLISTED_S)
        (view,) = await sim_workshop.client.wait(batch_id=batch, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=120)

    assert await sim_workshop.refused("IdempotentParameterMismatch") == 1
    assert view.record is not None
    assert (view.record.generation, view.record.labelled) == (1, True)
    await sim_workshop.one_each("one")


async def test_a_token_that_a_launch_in_vain_has_used_is_given_up_for_another(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.sim.configure(capacity=[{"slots": 0}])
    async with sim_workshop.working():
        await sim_workshop.submit("one")

        async def refused() -> bool:
            return await sim_workshop.refused("InsufficientInstanceCapacity") >= 1

        await eventually("its launch was refused", refused)
    forget_everything(sim_workshop)
    await sim_workshop.sim.configure(capacity=[])
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED)

    assert await sim_workshop.refused("IdempotentParameterMismatch") == 1
    await sim_workshop.one_each("one")


@pytest.mark.parametrize("dead_token", ["error", "instances"])
async def test_a_token_of_a_forgotten_machine_that_has_ended_makes_the_next_generation(
    sim_workshop: SimWorkshop, dead_token: str
) -> None:
    await sim_workshop.sim.configure(dead_token=dead_token, token_mismatch="ignore", tags_fade_s=0.0)
    async with sim_workshop.working():
        (first,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED)
        assert first.record is not None
        await sim_workshop.sim.shut_down(first.record.instance_id or "")
    forget_everything(sim_workshop)
    async with sim_workshop.working():
        (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED)

    assert view.record is not None
    assert (view.record.phase in {Phase.PENDING, Phase.RUNNING}, view.record.generation) == (True, 2)
    await sim_workshop.one_each("one")


@pytest.mark.parametrize("dead_token", ["error", "instances"])
async def test_a_machine_that_ended_before_its_launch_was_known_is_not_launched_again(
    sim_workshop: SimWorkshop, dead_token: str
) -> None:
    sim_workshop.hurry(send_again_s=FAR_S, send_again_longest_s=FAR_S)
    await sim_workshop.sim.configure(dead_token=dead_token, tags_fade_s=0.0)
    await sim_workshop.faults(Fault(action="RunInstances", drop=True, when="after", times=1))
    async with sim_workshop.working():
        batch = await sim_workshop.submit("one")
        await eventually("it was launched", lambda: launches(sim_workshop, 1))
        (one,) = await sim_workshop.living()
        await sim_workshop.sim.shut_down(one.id)
        (view,) = await seen_to(sim_workshop, sim_workshop.client.wait(batch_id=batch, tags=["one"], timeout_s=120))

    assert view.phase is Phase.TERMINATED
    assert len(await sim_workshop.sim.instances()) == 1


async def seen_to(shop: SimWorkshop, wait: Coroutine[Any, Any, list[View]]) -> list[View]:
    """What a wait gives, while intents that are put off until long after any test are due."""
    waiting = asyncio.create_task(wait)
    while not waiting.done():
        with shop.server.client() as behind:
            for intent in behind.zrange(INTENTS, 0, -1):
                behind.zadd(INTENTS, {intent: 0}, xx=True)
        wake_all(shop)
        await asyncio.wait([waiting], timeout=0.5)
    return waiting.result()


def forget_everything(shop: SimWorkshop) -> None:
    """Redis is emptied."""
    with shop.server.client() as behind:
        behind.flushall()


# -- an emptied Redis ---


@pytest.mark.usefixtures("in_groups")
@both_markets
async def test_an_emptied_redis_leads_to_no_second_launch(sim_workshop: SimWorkshop, spot: bool) -> None:
    await sim_workshop.sim.configure(list_lag_s=[2.0, 2.0])
    await sim_workshop.faults(Fault(action="CreateTags", code="InternalError"))
    async with sim_workshop.working(quarantine_s=3.0):
        await sim_workshop.request(*TAGS, spot=spot, wait=WaitFor.LAUNCHED)
        forget_everything(sim_workshop)
        await sim_workshop.request(*TAGS, spot=spot, wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each(*TAGS)
    await each_is_as_its_tags_say(sim_workshop)


@pytest.mark.usefixtures("in_groups")
@both_markets
async def test_what_lives_and_was_not_requested_again_has_its_record_back(
    sim_workshop: SimWorkshop, spot: bool
) -> None:
    async with sim_workshop.working(quarantine_s=0.5):
        before = {r.tag: r for view in await sim_workshop.request(*TAGS, spot=spot) if (r := view.record)}
        forget_everything(sim_workshop)
        await sim_workshop.request("new", wait=WaitFor.LAUNCHED)
        after = {record.tag: record for record in await sim_workshop.records(*TAGS)}

    assert {tag: (r.instance_id, r.generation, r.owner) for tag, r in after.items()} == {
        tag: (r.instance_id, r.generation, r.owner) for tag, r in before.items()
    }


@pytest.mark.usefixtures("in_groups")
@both_markets
async def test_a_worker_that_comes_back_remembers_what_redis_has_forgotten(
    sim_workshop: SimWorkshop,
    spot: bool,
    tmp_path: Path,
) -> None:
    await sim_workshop.sim.configure(list_lag_s=[1.0, 1.0])
    async with sim_workshop.working(memory_folder=tmp_path / "targets"):
        await sim_workshop.request(*TAGS, spot=spot, wait=WaitFor.LAUNCHED)
    forget_everything(sim_workshop)
    async with sim_workshop.working(quarantine_s=1.5, memory_folder=tmp_path / "targets"):
        await sim_workshop.request(*TAGS, spot=spot, wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each(*TAGS)
    await each_is_as_its_tags_say(sim_workshop)


@pytest.mark.usefixtures("in_groups")
@both_markets
async def test_a_launch_that_is_on_its_way_when_redis_is_emptied_is_not_repeated(
    sim_workshop: SimWorkshop, spot: bool
) -> None:
    await sim_workshop.sim.configure(list_lag_s=[1.0, 1.0])
    await sim_workshop.faults(Fault(action="RunInstances", when="after", delay_s=0.5, times=1))
    async with sim_workshop.working(quarantine_s=2.0):
        await sim_workshop.submit(*TAGS, spot=spot)
        await eventually("a launch is on its way", lambda: launches(sim_workshop, 1))
        forget_everything(sim_workshop)
        await sim_workshop.request(*TAGS, spot=spot, wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each(*TAGS)
    await each_is_as_its_tags_say(sim_workshop)


@pytest.mark.usefixtures("in_groups")
@both_markets
async def test_a_launch_that_reaches_ec2_long_after_redis_is_emptied_is_not_repeated(
    sim_workshop: SimWorkshop,
    spot: bool,
) -> None:
    sim_workshop.hurry(in_flight_s=4.0, explain_s=0.2, explain_after_s=0.2)
    await sim_workshop.sim.configure(list_lag_s=[0.5, 0.5])
    await sim_workshop.faults(Fault(action="RunInstances", when="before", delay_s=3.0, times=1))
    async with sim_workshop.working(quarantine_s=1.0):
        await sim_workshop.submit(*TAGS, spot=spot)
        await eventually("a launch is on its way", lambda: intents(sim_workshop))
        forget_everything(sim_workshop)
        await sim_workshop.submit(*TAGS, spot=spot)

        async def why() -> bool:
            records = await sim_workshop.records(*TAGS)
            return any(record.reason == SHUT and record.estimate_s for record in records)

        await eventually("it says what it waits for", why)
        await sim_workshop.client.wait(tags=TAGS, wait=WaitFor.LAUNCHED, timeout_s=120)

    await sim_workshop.one_each(*TAGS)
    await each_is_as_its_tags_say(sim_workshop)


async def intents(shop: SimWorkshop) -> bool:
    with shop.server.client() as behind:
        return bool(behind.zcard(INTENTS))


async def test_a_redis_put_back_learns_of_what_was_launched_since(sim_workshop: SimWorkshop, tmp_path: Path) -> None:
    async with sim_workshop.working(memory_folder=tmp_path / "targets"):
        (first,) = await sim_workshop.request("one")
        assert first.record
        assert first.record.instance_id
        await sim_workshop.sim.shut_down(first.record.instance_id)
        await eventually("it has ended", lambda: ended(sim_workshop, "one"))
    with sim_workshop.server.client() as behind:
        backup = {key: behind.dump(key) for key in behind.scan_iter()}
    async with sim_workshop.working(memory_folder=tmp_path / "targets"):
        (second,) = await sim_workshop.request("one")
    with sim_workshop.server.client() as behind:
        behind.flushall()
        for key, value in backup.items():
            behind.restore(key, 0, value or b"")
    async with sim_workshop.working(memory_folder=tmp_path / "targets"):
        await sim_workshop.request("two")
        (record,) = await sim_workshop.records("one")

    assert second.record
    assert (record.generation, record.instance_id) == (2, second.record.instance_id)
    assert record.phase in {Phase.PENDING, Phase.RUNNING}


async def ended(shop: SimWorkshop, tag: str) -> bool:
    return (await shop.records(tag))[0].phase is Phase.TERMINATED


# -- leaders that die ---


@pytest.fixture
def short_leases(sim_workshop: SimWorkshop) -> None:
    """Who dies is soon missed."""
    sim_workshop.hurry(lease_s=0.6, lease_renew_s=0.2, intent_lease_s=0.6, intent_renew_s=0.2)


@pytest.mark.usefixtures("in_groups", "short_leases")
@pytest.mark.parametrize("when", ["before", "after"])
@both_markets
async def test_a_leader_that_dies_while_it_sends_is_replaced(sim_workshop: SimWorkshop, spot: bool, when: str) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", when=when, delay_s=1.0, times=2))  # type: ignore[arg-type]
    async with doomed(sim_workshop) as victim:
        await sim_workshop.submit(*TAGS, spot=spot)

        async def sending() -> bool:
            with sim_workshop.server.client() as behind:
                return bool(list(behind.scan_iter("puter:_intent:*")))

        await eventually("an intent is being sent", sending)
        await victim.kill()
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS, spot=spot, wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each(*TAGS)
    await each_is_as_its_tags_say(sim_workshop)


@pytest.mark.usefixtures("in_groups", "short_leases")
async def test_a_living_leaders_launch_that_takes_long_is_left_to_it(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", when="before", delay_s=1.5, times=1))
    async with sim_workshop.working(), sim_workshop.working():
        await sim_workshop.request(*TAGS, wait=WaitFor.LAUNCHED)

    tokens = [call.params["ClientToken"] for call in await sim_workshop.calls("RunInstances")]
    assert len(tokens) == len(set(tokens))
    await sim_workshop.one_each(*TAGS)
