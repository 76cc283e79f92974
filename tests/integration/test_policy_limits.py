"""Limits of a policy hold: with workers that race, that are killed at any step, and after Redis was emptied."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.view import WaitFor
from puter_worker.store import names
from tests.ec2sim.config import Fault
from tests.integration.sim_workshop import (
    TARGET,
    SimWorkshop,
    doomed,
    eventually,
    in_groups,
    no_capacity,
    sim_url,
    sim_workshop,
)
from tests.integration.stage_world import time_passes
from tests.integration.workshop import spec

__all__ = ["in_groups", "sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(12)]
WAITS = {
    "most_machines": "waiting for one of the namespace's {} machines to end (policy rule most_machines)",
    "most_vcpus": "waiting for room under the namespace's {} vCPUs (policy rule most_vcpus)",
    "most_machines_an_hour": (
        "waiting for the next of the namespace's {} launches in an hour (policy rule most_machines_an_hour)"
    ),
}
ALL = """[namespaces."*"]
default_credentials = true
regions = ["*"]
instance_types = ["*"]
images = ["*"]
ssh_from_ipv4_prefix = 32
ssh_from_count = 5
longest_ttl = "unlimited"
no_shutdown = true
disk = "unlimited"
"""
COUNTS = ["most_machines", "most_vcpus", "most_machines_an_hour", "most_requests", "most_records"]


@pytest.fixture
def limited(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A worker's setting: a policy with these limits, and no others."""

    def made(more: str = "", **limits: int) -> dict[str, Any]:
        values: dict[str, Any] = dict.fromkeys(COUNTS, '"unlimited"') | limits
        lines = [f"{name} = {value}" for name, value in values.items()]
        path = tmp_path / "policy.toml"
        path.write_text(ALL + "\n".join(lines) + f"\n{more}")
        return {"policy_file": path}

    return made


async def told_to_wait(shop: SimWorkshop, why: str, count: int) -> bool:
    return Counter(await shop.reasons(*TAGS))[why] == count


async def alive(shop: SimWorkshop) -> int:
    return len(await shop.living())


async def are_alive(shop: SimWorkshop, count: int) -> bool:
    """Whether so many machines live, and their records name them."""
    named = [one for one in await shop.records(*TAGS) if one.instance_id]
    return await alive(shop) == len(named) == count


async def most_ever(shop: SimWorkshop) -> int:
    """How many machines were launched in all."""
    return len(await shop.sim.instances())


@pytest.mark.parametrize(
    ("rule", "value", "fit"),
    [("most_machines", 5, 5), ("most_vcpus", 11, 5), ("most_machines_an_hour", 5, 5)],
)
@pytest.mark.parametrize("grouped", [False, True], ids=["singly", "in groups"])
async def test_two_workers_that_race_launch_what_fits_and_the_rest_says_why_it_waits(
    request: pytest.FixtureRequest,
    sim_workshop: SimWorkshop,
    limited: Any,
    rule: str,
    value: int,
    fit: int,
    grouped: bool,
) -> None:
    if grouped:
        request.getfixturevalue("in_groups")
    settings = limited(**{rule: value})
    async with sim_workshop.working(**settings), sim_workshop.working(**settings):
        await sim_workshop.submit(*TAGS)
        why = WAITS[rule].format(value)
        await eventually("the rest says why it waits", lambda: told_to_wait(sim_workshop, why, len(TAGS) - fit))

    assert await most_ever(sim_workshop) == fit
    assert {record.error for record in await sim_workshop.records(*TAGS)} == {None}


@pytest.mark.parametrize(("rule", "value"), [("most_machines", 2), ("most_vcpus", 4)])
async def test_when_a_machine_ends_the_next_one_is_launched(
    sim_workshop: SimWorkshop, limited: Any, rule: str, value: int
) -> None:
    async with sim_workshop.working(**limited(**{rule: value})):
        await sim_workshop.submit(*TAGS[:4])
        why = WAITS[rule].format(value)
        await eventually("the rest waits", lambda: told_to_wait(sim_workshop, why, 2))
        await eventually("two live", lambda: are_alive(sim_workshop, 2))
        for ended in (1, 2):
            (first, *_) = await sim_workshop.living()
            await sim_workshop.sim.shut_down(first.id)

            async def replaced(so_far: int = ended) -> bool:
                return await most_ever(sim_workshop) == 2 + so_far and await alive(sim_workshop) == 2

            await eventually("another has taken its place", replaced)


async def test_launches_of_an_hour_ago_do_not_count_any_more(sim_workshop: SimWorkshop, limited: Any) -> None:
    async with sim_workshop.working(**limited(most_machines_an_hour=2)):
        await sim_workshop.submit(*TAGS[:3])
        why = WAITS["most_machines_an_hour"].format(2)
        await eventually("the rest waits", lambda: told_to_wait(sim_workshop, why, 1))
        await eventually("two live", lambda: are_alive(sim_workshop, 2))
        with sim_workshop.server.client() as behind:
            name = names.launched("betty")
            for launch, at in behind.zrange(name, 0, -1, withscores=True):
                behind.zadd(name, {launch: float(at) - 3_601})
        time_passes(sim_workshop)
        await eventually("the third is launched", lambda: are_alive(sim_workshop, 3))


async def test_the_guards_hold_where_two_leaders_have_read_the_same(sim_workshop: SimWorkshop, limited: Any) -> None:
    """Two targets of one namespace are led by different workers, and neither sees what the other has begun."""
    settings = limited(most_machines=3)
    async with sim_workshop.working(**settings), sim_workshop.working(**settings):
        requests = [MachineRequest(tag, spec(region="us-east-1")) for tag in TAGS[:6]]
        requests += [MachineRequest(tag, spec(region="eu-central-1")) for tag in TAGS[6:]]
        await sim_workshop.client.submit(requests)
        why = WAITS["most_machines"].format(3)
        await eventually("the rest waits", lambda: told_to_wait(sim_workshop, why, 9))

    assert await most_ever(sim_workshop) == 3


async def test_limits_are_each_namespaces_own(sim_workshop: SimWorkshop, limited: Any) -> None:
    ann = sim_workshop.client_of("ann")
    async with sim_workshop.working(**limited(most_machines=1, more="[namespaces.ann]\nmost_machines = 3\n")):
        await sim_workshop.submit(*TAGS[:5])
        await sim_workshop.submit(*TAGS[:5], client=ann)

        async def all_that_fit() -> bool:
            return await alive(sim_workshop) == 4

        await eventually("all that fit are launched", all_that_fit)
        await eventually("the rest waits", lambda: told_to_wait(sim_workshop, WAITS["most_machines"].format(1), 4))
    assert len([one for one in await sim_workshop.records(*TAGS[:5], client=ann) if one.instance_id]) == 3


async def test_one_machine_that_never_fits_fails_and_another_of_its_types_is_taken(
    sim_workshop: SimWorkshop, limited: Any
) -> None:
    async with sim_workshop.working(**limited(most_vcpus=4)):
        (big,) = await sim_workshop.request("big", wait=WaitFor.LAUNCHED, instance_type="c7i.48xlarge")
        (some,) = await sim_workshop.request(
            "some", wait=WaitFor.LAUNCHED, instance_type="c7i.48xlarge", instance_types=("t3.small",)
        )

    assert big.record is not None
    assert some.record is not None
    assert big.record.error is not None
    assert (big.record.phase, big.record.error.code) == (Phase.FAILED, "PolicyRefused")
    assert "a machine with 192 vCPUs (rule most_vcpus; allowed: 4)" in big.record.error.message
    assert (some.record.instance_type, some.record.vcpus) == ("t3.small", 2)


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "InternalError"])
async def test_a_type_whose_vcpus_are_not_known_is_not_launched_under_a_limit_of_them(
    sim_workshop: SimWorkshop, limited: Any, code: str
) -> None:
    async with sim_workshop.working(**limited(most_vcpus=4)):
        await sim_workshop.request("first", wait=WaitFor.LAUNCHED, instance_type="t3.small")
        await sim_workshop.faults(Fault(action="DescribeInstanceTypes", code=code))
        (view,) = await sim_workshop.request(
            "some", wait=WaitFor.LAUNCHED, instance_type="c7i.48xlarge", instance_types=("t3.small",)
        )

    assert view.record is not None
    assert (view.record.instance_type, view.record.vcpus) == ("t3.small", 2)


async def test_types_that_ec2_does_not_tell_of_hold_up_nobody_else_and_their_keys_say_so(
    sim_workshop: SimWorkshop, limited: Any
) -> None:
    sim_workshop.hurry(explain_after_s=0.1, sdk_read_s=300.0)
    made_up: dict[str, Any] = {"instance_type": "t3.none", "instance_types": ("t3.small", "t9.none")}
    mallory = sim_workshop.client_of("mallory")
    async with sim_workshop.working(**limited(more="[namespaces.mallory]\nmost_vcpus = 100\n")):
        await sim_workshop.request("first", wait=WaitFor.LAUNCHED)
        await sim_workshop.faults(Fault(action="DescribeInstanceTypes", delay_s=120.0))
        await sim_workshop.submit(*TAGS[:3], client=mallory, **made_up)

        async def told() -> bool:
            reasons = [record.reason for record in await sim_workshop.records(*TAGS[:3], client=mallory)]
            why = "waiting until EC2 has told how many vCPUs its instance types have (policy rule most_vcpus)"
            return reasons == [why] * 3

        await eventually("they say why they wait", told)
        (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED)
        assert await told()
    assert view.record is not None
    assert view.record.instance_id


async def test_made_up_types_take_few_calls_and_fail_with_what_ec2_says(
    sim_workshop: SimWorkshop, limited: Any
) -> None:
    asked = [
        MachineRequest(f"t-{n}", spec(instance_type=f"t3.a{n}x0", instance_types=tuple(f"t3.a{n}x{k}" for k in (1, 2))))
        for n in range(60)
    ]
    async with sim_workshop.working(**limited(most_vcpus=100)):
        batch = await sim_workshop.client.submit(asked)
        views = await sim_workshop.client.wait(batch_id=batch, wait=WaitFor.LAUNCHED, timeout_s=120)
        calls = len(await sim_workshop.calls("DescribeInstanceTypes"))
        (again,) = await sim_workshop.request("again", wait=WaitFor.LAUNCHED, instance_type="t3.a7x0")
        assert len(await sim_workshop.calls("DescribeInstanceTypes")) == calls

    errors = {view.tag: view.record.error for view in (*views, again) if view.record}
    assert calls < len(asked)
    assert {error.code for error in errors.values() if error} == {"InvalidInstanceType"}
    for tag in ("t-7", "again"):
        error = errors[tag]
        assert error is not None
        assert error.message == "The following supplied instance types do not exist: [t3.a7x0]"
    assert await sim_workshop.calls("RunInstances") == []


async def test_a_key_waits_whose_next_type_needs_more_than_is_free(sim_workshop: SimWorkshop, limited: Any) -> None:
    """Its first type would fit, but has no capacity: only the transaction sees that the other one does not fit."""
    await sim_workshop.faults(no_capacity(params=(("InstanceType", "t2.micro"),)))
    async with sim_workshop.working(**limited(most_vcpus=3)):
        await sim_workshop.request("first", wait=WaitFor.LAUNCHED)
        await sim_workshop.submit("job-0", instance_type="t2.micro", instance_types=("t3.small",))
        why = WAITS["most_vcpus"].format(3)
        await eventually("it says why it waits", lambda: told_to_wait(sim_workshop, why, 1))
        assert await most_ever(sim_workshop) == 1
        (first,) = await sim_workshop.living()
        await sim_workshop.sim.shut_down(first.id)

        async def launched() -> bool:
            return [one.instance_type for one in await sim_workshop.records("job-0") if one.instance_id] == ["t3.small"]

        await eventually("it is launched when there is room", launched)


@pytest.mark.usefixtures("in_groups")
@pytest.mark.parametrize("emptied", [False, True], ids=["killed", "killed-and-redis-emptied"])
async def test_a_worker_that_is_killed_while_it_launches_leaves_no_place_and_takes_none_twice(
    sim_workshop: SimWorkshop, limited: Any, emptied: bool, tmp_path: Path
) -> None:
    settings = limited(most_machines=4) | {"memory_folder": tmp_path / "memory"}
    async with doomed(sim_workshop, **settings) as victim:
        await sim_workshop.submit(*TAGS)

        async def begun() -> bool:
            return await alive(sim_workshop) >= 1

        await eventually("it launches", begun)
        await victim.kill()
    if emptied:
        with sim_workshop.server.client() as behind:
            behind.flushall()
        await sim_workshop.submit(*TAGS)
    else:
        time_passes(sim_workshop)
    async with sim_workshop.working(**settings):
        why = WAITS["most_machines"].format(4)
        await eventually("the rest waits", lambda: told_to_wait(sim_workshop, why, len(TAGS) - 4))

        async def full() -> bool:
            return await alive(sim_workshop) == 4

        await eventually("what fits lives", full)
    assert await most_ever(sim_workshop) == 4


async def test_machines_that_redis_forgot_count_before_others_are_launched(
    sim_workshop: SimWorkshop, limited: Any, tmp_path: Path
) -> None:
    settings = limited(most_vcpus=8, most_machines_an_hour=4) | {"memory_folder": tmp_path / "memory"}
    async with sim_workshop.working(**settings):
        await sim_workshop.request(*TAGS[:3], wait=WaitFor.LAUNCHED)
    with sim_workshop.server.client() as behind:
        behind.flushall()
    others = TAGS[6:]
    async with sim_workshop.working(**settings):
        await sim_workshop.submit(*others)

        async def one_more() -> bool:
            waiting = [one for one in await sim_workshop.records(*others) if one.reason and "policy rule" in one.reason]
            return await alive(sim_workshop) == 4 and len(waiting) == len(others) - 1

        await eventually("one more fits", one_more)
    assert await most_ever(sim_workshop) == 4


@pytest.mark.parametrize("emptied", [1, 2], ids=["once", "twice"])
async def test_launches_of_the_hour_that_redis_forgot_count_though_their_machines_have_ended(
    sim_workshop: SimWorkshop, limited: Any, tmp_path: Path, emptied: int
) -> None:
    settings = limited(most_machines_an_hour=4) | {"memory_folder": tmp_path / "memory"}
    why = WAITS["most_machines_an_hour"].format(4)
    async with sim_workshop.working(**settings):
        await sim_workshop.request(*TAGS[:3], wait=WaitFor.LAUNCHED)
        for one in await sim_workshop.living():
            await sim_workshop.sim.shut_down(one.id)

        async def ended() -> bool:
            return all(one.ended_at for one in await sim_workshop.records(*TAGS[:3]))

        await eventually("all have ended", ended)
    launched = {one.id: one.launched_at for one in await sim_workshop.sim.instances()}
    for _ in range(emptied):
        with sim_workshop.server.client() as behind:
            behind.flushall()
        async with sim_workshop.working(**settings):
            await sim_workshop.submit(*TAGS[6:])

            async def one_more() -> bool:
                reasons = await sim_workshop.reasons(*TAGS[6:])
                return await alive(sim_workshop) == 1 and reasons.count(why) == len(TAGS[6:]) - 1

            await eventually("one more fits", one_more)
            assert {record.tag for record in await sim_workshop.records(*TAGS)} == set(TAGS[6:])  # none is adopted
    assert await most_ever(sim_workshop) == len(launched) + 1 == 4


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("most_requests", "one more than 3 requests that wait for their machine (rule most_requests; allowed: 3)"),
        ("most_records", "one more than 3 tags of which a record is kept (rule most_records; allowed: 3)"),
    ],
)
async def test_what_is_over_a_limit_of_requests_is_refused_at_intake(
    sim_workshop: SimWorkshop, limited: Any, rule: str, told: str
) -> None:
    # Nothing is launched meanwhile: what was taken waits.
    settings = limited(**{rule: 3, "most_machines": 1})
    async with sim_workshop.working(**settings):
        await sim_workshop.request("held", wait=WaitFor.LAUNCHED)
        batch = await sim_workshop.submit(*TAGS)

        async def answered() -> bool:
            _, views = await sim_workshop.client.batch(batch)
            return len(views) == len(TAGS) and all(view.outcome is not None for view in views)

        await eventually("all are answered", answered)
        _, views = await sim_workshop.client.batch(batch)

    taken = 3 if rule == "most_requests" else 2
    assert Counter(view.outcome for view in views) == {Outcome.CREATED: taken, Outcome.REFUSED: len(TAGS) - taken}
    (message,) = {view.row.message for view in views if view.row and view.outcome is Outcome.REFUSED}
    assert message == f"not allowed by the workers' policy for namespace betty: {told}"


async def test_intakes_that_race_let_no_more_requests_in_than_fit(sim_workshop: SimWorkshop, limited: Any) -> None:
    settings = limited(most_requests=5, most_machines=1)
    async with (
        sim_workshop.working(**settings),
        sim_workshop.working(**settings),
        sim_workshop.working(**settings),
    ):
        batches = await asyncio.gather(*(sim_workshop.submit(tag) for tag in TAGS))

        async def answered() -> bool:
            views = [view for batch in batches for view in (await sim_workshop.client.batch(batch))[1]]
            return len(views) == len(TAGS) and all(view.outcome is not None for view in views)

        await eventually("all are answered", answered)
    with sim_workshop.server.client() as behind:
        assert behind.scard(names.waiting("betty")) <= 5


async def test_what_is_counted_follows_from_the_records(sim_workshop: SimWorkshop, limited: Any) -> None:
    """Whatever happens to a request, its places are free when its record has ended."""
    async with sim_workshop.working(**limited(most_machines=2)):
        await sim_workshop.submit(*TAGS[:5])
        why = WAITS["most_machines"].format(2)
        await eventually("the rest waits", lambda: told_to_wait(sim_workshop, why, 3))
        await eventually("two live", lambda: are_alive(sim_workshop, 2))
        unlaunched = [one.tag for one in await sim_workshop.records(*TAGS[:5]) if not one.instance_id]
        await sim_workshop.client.cancel(unlaunched)

        async def cancelled() -> bool:
            return {one.phase for one in await sim_workshop.records(*unlaunched)} == {Phase.CANCELLED}

        await eventually("they are cancelled", cancelled)
        for one in await sim_workshop.living():
            await sim_workshop.sim.shut_down(one.id)

        async def ended() -> bool:
            return all(one.phase in (Phase.CANCELLED, Phase.TERMINATED, Phase.FAILED) for one in await records())

        async def records() -> list[Record]:
            return await sim_workshop.records(*TAGS[:5])

        await eventually("all have ended", ended)
    with sim_workshop.server.client() as behind:
        assert behind.hlen(names.machines("betty")) == 0
        assert behind.scard(names.waiting("betty")) == 0
        assert behind.zcard(names.launched("betty")) == 2
        assert behind.zcard(names.live(TARGET)) == 0
