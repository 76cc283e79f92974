"""Launches where there is not room for all: dry zones, quotas, and limits of the user's own."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.phase import Phase
from puter_client.view import WaitFor
from puter_worker.ec2.tags import key_of
from puter_worker.stages import decode
from tests.ec2sim.config import Capacity, Fault
from tests.ec2sim.ledger import Entry
from tests.integration.sim_workshop import (
    SimWorkshop,
    eventually,
    in_groups,
    no_capacity,
    sim_url,
    sim_workshop,
)
from tests.integration.workshop import spec

__all__ = ["in_groups", "sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(100)]
BATCH_IS_FULL = "waiting for one of the batch's {} machines to end (max_parallel)"


async def limit(shop: SimWorkshop, **limits: object) -> None:
    """From now on there is only so much room."""
    if "capacity" in limits:
        rows = limits["capacity"]
        assert isinstance(rows, tuple)
        limits["capacity"] = [{"zone": r.zone, "instance_type": r.instance_type, "slots": r.slots} for r in rows]
    await shop.sim.configure(**limits)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request may give up sooner than a user may say."""
    monkeypatch.setattr(decode, "recheck_spec", lambda _: None)


async def counts(shop: SimWorkshop) -> list[tuple[int, str]]:
    """How many machines each call requested, and what came of it."""
    return [(int(call.params["MaxCount"]), call.code) for call in await shop.calls("RunInstances")]


async def live_count(shop: SimWorkshop) -> int:
    return len(await shop.living())


def default_subnets(shop: SimWorkshop) -> list[dict[str, Any]]:
    """Subnets of the default VPC, one a zone."""
    return list(shop.ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"])


# -- capacity ---


async def test_after_a_refusal_each_zone_is_tried_by_itself_with_a_token_of_its_own(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(no_capacity(times=3))
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED)

    calls = await sim_workshop.calls("RunInstances")
    zones = [call.params.get("Placement.AvailabilityZone") for call in calls]
    assert [call.code == "OK" for call in calls] == [False, False, False, True]
    assert zones[0] is None
    assert len(set(zones)) == 4
    assert len({call.params["ClientToken"] for call in calls}) == 4


async def test_the_next_of_several_subnets_is_tried_where_the_first_is_full(sim_workshop: SimWorkshop) -> None:
    first, second, *_ = default_subnets(sim_workshop)
    await limit(sim_workshop, capacity=(Capacity(zone=first["AvailabilityZone"], slots=0),))
    async with sim_workshop.working():
        await sim_workshop.request(
            "one", wait=WaitFor.LAUNCHED, subnet=first["SubnetId"], subnets=(second["SubnetId"],)
        )

    (one,) = await sim_workshop.living()
    assert one.subnet_id == second["SubnetId"]


async def test_the_next_of_several_types_is_tried_where_the_first_is_short_everywhere(
    sim_workshop: SimWorkshop,
) -> None:
    await limit(sim_workshop, capacity=(Capacity(instance_type="t3.micro", slots=0),))
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED, instance_types=("t3.small",))

    (one,) = await sim_workshop.living()
    (record,) = await sim_workshop.records("one")
    assert (one.instance_type, record.instance_type) == ("t3.small", "t3.small")


async def test_what_is_short_everywhere_for_too_long_fails(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    await limit(sim_workshop, capacity=(Capacity(slots=0),))
    async with sim_workshop.working():
        (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED, give_up_after_s=1)

    assert view.record is not None
    assert view.record.error is not None
    assert (view.record.phase, view.record.error.code) == (Phase.FAILED, "NoCapacity")
    assert "gave up after" in view.record.error.message


async def test_what_is_short_everywhere_says_so_while_it_waits(sim_workshop: SimWorkshop) -> None:
    await limit(sim_workshop, capacity=(Capacity(slots=0),))
    async with sim_workshop.working():
        await sim_workshop.submit("one")

        async def told() -> bool:
            return any("no capacity for t3.micro" in reason for reason in await sim_workshop.reasons("one"))

        await eventually("the reason is told", told)
        await limit(sim_workshop, capacity=())
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each("one")


@pytest.mark.usefixtures("in_groups")
async def test_a_place_that_was_dry_is_probed_with_one_and_then_with_twice_as_many(sim_workshop: SimWorkshop) -> None:
    the_only_place = default_subnets(sim_workshop)[0]["SubnetId"]
    await sim_workshop.faults(no_capacity(times=1))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS[:16], wait=WaitFor.LAUNCHED, subnet=the_only_place)

    refused, *granted = await counts(sim_workshop)
    assert refused == (16, "InsufficientInstanceCapacity")
    assert granted == [(1, "OK"), (2, "OK"), (4, "OK"), (8, "OK"), (1, "OK")]
    await sim_workshop.one_each(*TAGS[:16])


@pytest.mark.usefixtures("in_groups")
async def test_of_a_group_that_fits_partly_the_rest_is_launched_elsewhere(sim_workshop: SimWorkshop) -> None:
    await limit(sim_workshop, capacity=(Capacity(slots=7),))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS[:20], wait=WaitFor.LAUNCHED)
        await eventually("all are labelled", lambda: labelled(sim_workshop, *TAGS[:20]))

    await sim_workshop.one_each(*TAGS[:20])
    ids = {record.tag: record.instance_id for record in await sim_workshop.records(*TAGS[:20])}
    assert {one.tags["puter:tag"]: one.id for one in await sim_workshop.living()} == ids


async def test_zones_that_may_not_be_listed_do_not_stop_launches(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="DescribeSubnets", code="UnauthorizedOperation"), no_capacity(times=1))
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED)

    await sim_workshop.one_each("one")


async def test_a_key_that_ec2_never_refused_itself_gives_up_too(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every place is dry, few are sent to probe them: the others wait no longer than they."""
    impatient(monkeypatch)
    await limit(sim_workshop, capacity=(Capacity(slots=0),))
    async with sim_workshop.working():
        views = await sim_workshop.request(*TAGS[:40], wait=WaitFor.LAUNCHED, give_up_after_s=1)

    assert {view.phase for view in views} == {Phase.FAILED}
    assert max(sum(call.params["MaxCount"] == "1" for call in await sim_workshop.calls("RunInstances")), 1) < 40


@pytest.mark.usefixtures("in_groups")
async def test_a_type_that_ec2_found_nowhere_is_requested_one_by_one_in_each_zone(sim_workshop: SimWorkshop) -> None:
    """A refused group costs as many tokens as it has members."""
    await limit(sim_workshop, capacity=(Capacity(slots=0),))
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS)
        await eventually("no zone has room", lambda: refused_at_least(sim_workshop, 4))

    first, *others = await counts(sim_workshop)
    assert first[0] > 1
    assert {count for count, _ in others} == {1}


async def refused_at_least(shop: SimWorkshop, times: int) -> bool:
    return await shop.refused("InsufficientInstanceCapacity") >= times


async def labelled(shop: SimWorkshop, *tags: str) -> bool:
    return all(record.labelled for record in await shop.records(*tags))


# -- quotas ---


@pytest.mark.usefixtures("in_groups")
async def test_a_quota_is_filled_and_the_rest_waits_without_failing(sim_workshop: SimWorkshop) -> None:
    await limit(sim_workshop, vcpu_quota={"standard": 14})
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:12])
        await eventually("the rest is told why it waits", lambda: wait_for_quota(sim_workshop, 5, live=7))
        records = await sim_workshop.records(*TAGS[:12])

    assert await live_count(sim_workshop) == 7
    assert [record.error for record in records] == [None] * 12
    assert {record.phase for record in records} <= {Phase.LAUNCHING, Phase.PENDING, Phase.RUNNING}


@pytest.mark.usefixtures("in_groups")
async def test_a_refused_group_is_halved_down_to_one(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code="VcpuLimitExceeded"))
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:16])
        await eventually("all are told why they wait", lambda: wait_for_quota(sim_workshop, 16, live=0))

    asked = [count for count, _ in await counts(sim_workshop)]
    assert asked[0] in range(2, 17)
    assert asked[-1] == 1
    assert all(after == before // 2 for before, after in pairwise(asked))


@pytest.mark.usefixtures("in_groups")
async def test_under_a_quota_that_refuses_whole_groups_all_that_fits_is_launched(sim_workshop: SimWorkshop) -> None:
    await limit(sim_workshop, vcpu_quota={"standard": 14}, quota_refuses="all")
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:16])
        await eventually("the rest is told why it waits", lambda: wait_for_quota(sim_workshop, 9, live=7))

    calls = await counts(sim_workshop)
    assert await live_count(sim_workshop) == 7
    assert max(count for count, code in calls if code == "OK") > 1


@pytest.mark.parametrize("shutdown_s", [0.0, 3.0])
async def test_when_a_machine_ends_the_next_one_is_launched(sim_workshop: SimWorkshop, shutdown_s: float) -> None:
    """Also if its place under the quota is free only some time after it is seen to shut down."""
    sim_workshop.hurry(quota_s=3_600.0)  # nothing else than the end lets it try again
    await limit(sim_workshop, vcpu_quota={"standard": 4}, shutdown_s=[shutdown_s, shutdown_s])
    tags = TAGS[:4]
    async with sim_workshop.working():
        await sim_workshop.submit(*tags)
        await eventually("the rest is told why it waits", lambda: wait_for_quota(sim_workshop, 2, live=2))
        for ended in (1, 2):
            (first, *_) = await sim_workshop.living()
            await sim_workshop.sim.shut_down(first.id)

            async def replaced(so_far: int = ended) -> bool:
                seen = await sim_workshop.sim.instances()
                return len(seen) == 2 + so_far and sum(one.live for one in seen) == 2

            await eventually("another has taken its place", replaced)
    records = await sim_workshop.records(*tags)
    assert all(record.instance_id for record in records)


async def test_a_wait_for_a_quota_does_not_count_as_one_for_capacity(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    await sim_workshop.faults(no_capacity(times=1), Fault(action="RunInstances", code="VcpuLimitExceeded"))
    async with sim_workshop.working():
        await sim_workshop.submit("one", give_up_after_s=0)
        await eventually("it is told why it waits", lambda: wait_for_quota(sim_workshop, 1, live=0))
        (record,) = await sim_workshop.records("one")

    assert (record.phase, record.short_since) == (Phase.LAUNCHING, None)


async def test_nobody_gives_up_on_capacity_while_a_quota_is_what_holds_it(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    sim_workshop.hurry(no_capacity_s=20.0)
    await sim_workshop.faults(no_capacity(times=4), Fault(action="RunInstances", code="VcpuLimitExceeded"))
    async with sim_workshop.working():
        await sim_workshop.submit("one", give_up_after_s=600)
        await eventually("no zone has room", lambda: refused_times(sim_workshop, 4))
        await sim_workshop.submit("two", instance_type="t3.small")
        await eventually("a quota is in the way", lambda: wait_for_quota(sim_workshop, 1, live=0))
        (record,) = await sim_workshop.records("one")

    assert (record.phase, record.short_since) == (Phase.LAUNCHING, None)


async def refused_times(shop: SimWorkshop, times: int) -> bool:
    return await shop.refused("InsufficientInstanceCapacity") == times


async def wait_for_quota(shop: SimWorkshop, many: int, *, live: int) -> bool:
    """Whether so many of the requests say that they wait for a quota, and how many machines live."""
    reasons = await shop.reasons(*TAGS[:16], "one")
    told = [r for r in reasons if r == f"vCPU quota reached, {live} machines live; waiting for machines to end"]
    return len(told) == many


# -- max_parallel ---


@pytest.mark.parametrize("workers", [1, 2])
async def test_never_more_of_a_batch_live_than_it_says(sim_workshop: SimWorkshop, workers: int) -> None:
    tags, most = TAGS[:5], 2
    await sim_workshop.sim.configure(latency_s=[0.0, 0.15])
    async with sim_workshop.working(), sim_workshop.working() if workers == 2 else nullcontext():
        # Each is prepared by itself, some quickly and some slowly.
        asked = [MachineRequest(tag, spec(ssh_from=(f"192.0.2.{n}/32",))) for n, tag in enumerate(tags)]
        await sim_workshop.client.submit(asked, max_parallel=most)

        for ended in range(len(tags)):
            left = len(tags) - ended

            async def settled(live: int = min(most, left), wait: int = max(0, left - most)) -> bool:
                told = (await sim_workshop.reasons(*tags)).count(BATCH_IS_FULL.format(most))
                return await running(sim_workshop) >= live and told == wait

            await eventually("as many live as may, and the others wait for them", settled)
            await sim_workshop.sim.shut_down((await sim_workshop.living())[0].id)

    assert await most_at_once(sim_workshop) <= most


async def test_who_waits_for_max_parallel_is_launched_in_the_order_of_the_batch(sim_workshop: SimWorkshop) -> None:
    """Names whose order is another one than the batch's, and than the alphabet's."""
    tags = [f"job-{(n * 7) % 30}" for n in range(30)]
    async with sim_workshop.working(), sim_workshop.working():
        await sim_workshop.submit(*tags, most=5)
        for launched in range(5, 31, 5):

            async def full(count: int = launched) -> bool:
                return len(await sim_workshop.sim.instances()) == count and await running(sim_workshop) == 5

            await eventually(f"{launched} were launched", full)
            for one in await sim_workshop.living():
                await sim_workshop.sim.shut_down(one.id)
    # One that ended before it had tags of its own has its name from its launch.
    named = [key_of(one.tags, one.launch_index) for one in await sim_workshop.sim.instances()]
    launches = [name[0].tag for name in named if name]

    fives = [set(launches[start : start + 5]) for start in range(0, 30, 5)]
    assert fives == [set(tags[start : start + 5]) for start in range(0, 30, 5)]


async def running(shop: SimWorkshop) -> int:
    return sum(one.state == "running" for one in await shop.living())


async def most_at_once(shop: SimWorkshop) -> int:
    """How many machines lived at a time, at most, by the ledger and their ends."""
    calls: list[Entry] = await shop.calls("RunInstances")
    begun = [(call.at, len(call.effect)) for call in calls]
    ended = [one.ended_at for one in await shop.sim.instances() if one.ended_at is not None]
    return max(sum(count for at, count in begun if at <= now) - sum(at < now for at in ended) for now, _ in begun)


@pytest.mark.parametrize("attempt", range(3))
async def test_the_first_of_a_batch_is_the_first_to_be_launched_though_each_has_a_call(
    sim_workshop: SimWorkshop, attempt: int
) -> None:
    """Launches of one batch that begin at the same moment do not put each other back."""
    await sim_workshop.faults(Fault(action="RunInstances", when="before", delay_s=0.3))
    tags = [f"job-{n}-{attempt}" for n in range(5)]
    async with sim_workshop.working():
        await sim_workshop.submit(*tags, most=2)

        async def two_run() -> bool:
            return await running(sim_workshop) == 2

        await eventually("two run", two_run)
        told = [event.event for tag in tags[:2] for event in await sim_workshop.told(tag)]

    assert {one.tags["puter:tag"] for one in await sim_workshop.living()} == set(tags[:2])
    assert "launch.delayed" not in told
