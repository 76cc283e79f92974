"""Orders for machines that run: tags that their agents read, and consoles that confirm them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.order import OrderKind
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.request import Origin
from puter_client.contract.result import Result
from puter_client.view import View, WaitFor
from puter_worker.ec2.tags import expiry, expiry_of
from tests.agents import Agents, running
from tests.ec2sim.config import Fault
from tests.ec2sim.reports import Seen
from tests.frames import frame
from tests.integration.sim_workshop import SimWorkshop, eventually, in_groups, no_capacity, sim_url, sim_workshop
from tests.integration.workshop import spec

__all__ = ["in_groups", "sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(30)]


@pytest.fixture(autouse=True)
def quick(sim_workshop: SimWorkshop) -> None:
    """Orders are confirmed, and ends are seen, soon."""
    sim_workshop.hurry(order_again_s=0.1, order_refused_s=0.3, order_confirm_s=0.2, result_reads_s=(0.0, 0.3, 0.6))


async def seen(shop: SimWorkshop, tag: str) -> Seen:
    """The tag's machine as it really is."""
    (record,) = await shop.records(tag)
    return next(one for one in await shop.sim.instances() if one.id == record.instance_id)


def ordered(shop: SimWorkshop, *tags: str) -> Callable[[], Awaitable[bool]]:
    """Whether the orders of all these tags were sent."""

    async def all_sent() -> bool:
        return all(record.order and record.order.sent_at for record in await shop.records(*tags))

    return all_sent


def confirmed(shop: SimWorkshop, tag: str) -> Callable[[], Awaitable[bool]]:
    """Whether the tag's machine has said that it has its order."""

    async def has_said_so() -> bool:
        (record,) = await shop.records(tag)
        return bool(record.order and record.order.confirmed_at)

    return has_said_so


async def test_an_order_to_stop_is_one_call_for_many_machines(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.request(*TAGS, run="work")
        before = len(await sim_workshop.calls("CreateTags"))
        await sim_workshop.client.stop(TAGS)
        await eventually("all are told", ordered(sim_workshop, *TAGS))
        calls = (await sim_workshop.calls("CreateTags"))[before:]

    assert {one.tags.get("puter:order") for one in await sim_workshop.living()} == {"stop"}
    stops = [call for call in calls if "puter:order" in call.params.values()]
    assert 1 <= len(stops) <= 3  # intake takes requests as they come


async def test_a_stopped_workload_has_its_result(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.request("one", run="work")
        await sim_workshop.client.stop(["one"])
        await eventually("it is told", ordered(sim_workshop, "one"))
        one = await seen(sim_workshop, "one")
        nonce = one.tags["puter:intent"]
        await sim_workshop.sim.write_console(one.id, f"\r\nputer: order {nonce} stop\r\n")
        await eventually("it is confirmed", confirmed(sim_workshop, "one"))
        await sim_workshop.sim.write_console(one.id, frame(nonce, 143, result=Result.STOPPED))
        await sim_workshop.sim.shut_down(one.id)
        (view,) = await sim_workshop.client.wait(tags=["one"], wait=WaitFor.FINISHED, timeout_s=120)
        events = [event.event for event in await sim_workshop.told("one")]

    assert view.record
    assert (view.record.result, view.record.exit_code) == (Result.STOPPED, 143)
    assert [events.count(f"order.{what}") for what in ("given", "sent", "confirmed")] == [1, 1, 1]


SELDOM_S = 600.0


async def test_an_end_that_was_ordered_is_seen_soon(sim_workshop: SimWorkshop) -> None:
    """Whoever stops a machine waits for its end: machines that were told to stop are looked at often."""
    async with sim_workshop.working(quiet_sweep_s=SELDOM_S):
        await sim_workshop.request("one")
        await sim_workshop.client.stop(["one"])
        await eventually("it is told", ordered(sim_workshop, "one"))
        await sim_workshop.sim.shut_down((await seen(sim_workshop, "one")).id)
        await sim_workshop.client.wait(tags=["one"], wait=WaitFor.TERMINATED, timeout_s=120)


async def test_whoever_leads_next_sees_an_end_that_was_ordered_as_soon(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=SELDOM_S):
        await sim_workshop.request("one")
        await sim_workshop.client.stop(["one"])
        await eventually("it is told", ordered(sim_workshop, "one"))
        one = await seen(sim_workshop, "one")
        await sim_workshop.sim.write_console(one.id, f"\r\nputer: order {one.tags['puter:intent']} stop\r\n")
        await eventually("it is confirmed", confirmed(sim_workshop, "one"))
    looks = await sim_workshop.looks()
    async with sim_workshop.working(quiet_sweep_s=SELDOM_S):

        async def is_looked_at() -> bool:
            return await sim_workshop.looks() > looks

        await eventually("its new leader has seen that it lives", is_looked_at)
        await sim_workshop.sim.shut_down((await seen(sim_workshop, "one")).id)
        await sim_workshop.client.wait(tags=["one"], wait=WaitFor.TERMINATED, timeout_s=120)


async def test_without_a_frame_an_ordered_end_is_stopped_and_not_run_again(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.request("one", run="work", retries=3)
        await sim_workshop.client.stop(["one"])
        await eventually("it is told", ordered(sim_workshop, "one"))
        await sim_workshop.sim.shut_down((await seen(sim_workshop, "one")).id)
        (view,) = await sim_workshop.client.wait(tags=["one"], wait=WaitFor.FINISHED, timeout_s=120)

    assert view.record
    assert view.record.result is Result.STOPPED
    assert len(await sim_workshop.sim.instances()) == 1


async def test_what_is_not_launched_is_cancelled(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(no_capacity())
    async with sim_workshop.working():
        await sim_workshop.submit("one")

        async def waits() -> bool:
            return bool(await sim_workshop.refused("InsufficientInstanceCapacity"))

        await eventually("it waits for capacity", waits)
        await sim_workshop.client.stop(["one"])

        async def cancelled() -> bool:
            return [record.phase for record in await sim_workshop.records("one")] == [Phase.CANCELLED]

        await eventually("it is cancelled", cancelled)

    assert await sim_workshop.sim.instances() == []


async def test_a_stop_while_the_launch_is_sent_holds(sim_workshop: SimWorkshop) -> None:
    """The machine comes into being after the order, and gets it."""
    await sim_workshop.faults(Fault(action="RunInstances", when="before", delay_s=1.0, times=1))
    async with sim_workshop.working():
        await sim_workshop.submit("one")

        async def sending() -> bool:
            return any(record.intent for record in await sim_workshop.records("one"))

        await eventually("it is being sent", sending)
        await sim_workshop.client.stop(["one"])
        await eventually("it is told", ordered(sim_workshop, "one"))

    assert (await seen(sim_workshop, "one")).tags["puter:order"] == "stop"


async def test_a_stop_while_a_launch_is_refused_cancels(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(
        Fault(action="RunInstances", code="InsufficientInstanceCapacity", when="before", delay_s=1.0)
    )
    async with sim_workshop.working():
        await sim_workshop.submit("one")

        async def sending() -> bool:
            return any(record.intent for record in await sim_workshop.records("one"))

        await eventually("it is being sent", sending)
        await sim_workshop.client.stop(["one"])

        async def cancelled() -> bool:
            return [record.phase for record in await sim_workshop.records("one")] == [Phase.CANCELLED]

        await eventually("it is cancelled", cancelled)

    assert await sim_workshop.sim.instances() == []


@pytest.mark.parametrize("to", ["later", "at", "never"])
async def test_another_deadline_is_written_and_shown_and_stays(sim_workshop: SimWorkshop, to: str) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.request("one", run="work")
        (before,) = await sim_workshop.records("one")
        assert before.expires_at
        at = before.expires_at + 7_200.0
        changes = {"later": {"add_s": 7_200}, "at": {"expires_at": at}, "never": {}}
        await sim_workshop.client.extend(["one"], **changes[to])  # type: ignore[arg-type]
        await eventually("it is told", ordered(sim_workshop, "one"))
        one = await seen(sim_workshop, "one")
        told = one.tags["puter:expires-at"]
        await sim_workshop.sim.write_console(one.id, f"\nputer: order {one.tags['puter:intent']} expires-at {told}\n")
        await eventually("it is confirmed", confirmed(sim_workshop, "one"))
        calls = len(await sim_workshop.calls("DescribeInstances"))

        async def looked() -> bool:
            return len(await sim_workshop.calls("DescribeInstances")) > calls + 2

        await eventually("it is looked at", looked)
        (record,) = await sim_workshop.records("one")

    expected = None if to == "never" else at
    assert record.expires_at == expected
    assert told == expiry(expected)
    assert record.order
    assert record.order.kind is OrderKind.EXTEND


async def test_one_machine_that_ec2_does_not_know_spoils_nobodys_order(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.sim.configure(gone_s=0.0)
    async with sim_workshop.working(quiet_sweep_s=60.0):
        await sim_workshop.request(*TAGS[:9], run="work")
        gone = await seen(sim_workshop, TAGS[4])
        await sim_workshop.sim.shut_down(gone.id)

        async def forgotten() -> bool:
            return gone.id not in [one.id for one in await sim_workshop.sim.instances()]

        await eventually("EC2 does not know it any more", forgotten)
        await sim_workshop.client.stop(TAGS[:9])
        rest = [tag for tag in TAGS[:9] if tag != TAGS[4]]
        await eventually("the others are told", ordered(sim_workshop, *rest))

    assert {one.tags.get("puter:order") for one in await sim_workshop.living()} == {"stop"}


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "InternalError", "UnauthorizedOperation", "RequestExpired"])
async def test_a_refused_order_is_written_again_and_says_why(sim_workshop: SimWorkshop, code: str) -> None:
    await sim_workshop.faults()
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.request("one", run="work")
        await sim_workshop.faults(Fault(action="CreateTags", code=code))
        await sim_workshop.client.stop(["one"])

        async def told() -> bool:
            (record,) = await sim_workshop.records("one")
            return bool(record.order and record.order.problem)

        await eventually("the record says why", told)
        await sim_workshop.faults()
        await eventually("it is told", ordered(sim_workshop, "one"))


async def test_a_stop_holds_against_what_comes_later(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.request("one", run="work")
        await sim_workshop.client.stop(["one"])
        await sim_workshop.client.extend(["one"], add_s=60)
        await eventually("it is told", ordered(sim_workshop, "one"))
        (record,) = await sim_workshop.records("one")

    assert record.order
    assert record.order.kind is OrderKind.STOP


@pytest.mark.parametrize(
    "changes",
    [
        {"expires_at": 1e300},
        {"expires_at": -1e300},
        {"expires_at": 1.0},
        {"add_s": 2**60},
        {"add_s": -(2**60)},
        {"add_s": -7_200},
    ],
)
async def test_a_time_that_nobody_can_mean_is_no_order_and_stops_nobodys(
    sim_workshop: SimWorkshop, changes: dict[str, float]
) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.request("one", "two", run="work")
        await sim_workshop.client.extend(["one"], **changes)  # type: ignore[arg-type]
        await sim_workshop.client.extend(["two"], add_s=60)
        await eventually("the other's order is carried out", ordered(sim_workshop, "two"))
        (record,) = await sim_workshop.records("one")

    assert record.order is None


# -- another ttl, asked for by a request ------------------------------------------------------------------------------


async def asked(shop: SimWorkshop, *tags: str, given: tuple[str, ...] = ("ttl",), **fields: Any) -> list[View]:
    """Request machines with a ttl that somebody has written; as they are when the requests have their answers."""
    requests = [MachineRequest(tag, spec(run="work", **fields), given) for tag in tags]
    batch = await shop.client.submit(requests, origin=Origin.UP)
    return await shop.client.wait(batch_id=batch, tags=tags, wait=WaitFor.QUEUED, timeout_s=120)


@pytest.mark.parametrize("ttl_s", [18_000, 1_800, None])
async def test_another_ttl_moves_the_deadline_of_a_machine_that_runs(
    sim_workshop: SimWorkshop, ttl_s: int | None
) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2), running(Agents(sim_workshop.sim)):
        await sim_workshop.request("one", run="work")
        (view,) = await asked(sim_workshop, "one", ttl_s=ttl_s)
        await eventually("it is confirmed", confirmed(sim_workshop, "one"))
        calls = len(await sim_workshop.calls("DescribeInstances"))

        async def looked() -> bool:
            return len(await sim_workshop.calls("DescribeInstances")) > calls + 2

        await eventually("it is looked at", looked)
        (record,) = await sim_workshop.records("one")
        (again,) = await asked(sim_workshop, "one", ttl_s=ttl_s)
        one = await seen(sim_workshop, "one")
        events = [event.event for event in await sim_workshop.told("one")]

    assert (view.outcome, view.to_json()["applied"], view.to_json()["not_applied"]) == (Outcome.EXISTING, ["ttl"], [])
    assert record.order
    expected = None if ttl_s is None else record.order.given_at + ttl_s
    assert (record.ttl_s, record.expires_at, record.overdue) == (ttl_s, expected, False)
    assert record.never_ends == (ttl_s is None)
    assert one.tags["puter:expires-at"] == expiry(expected)
    assert again.to_json()["applied"] == []
    assert [events.count(f"order.{what}") for what in ("given", "sent", "confirmed")] == [1, 1, 1]


async def test_what_waits_for_its_launch_is_launched_with_another_ttl(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(no_capacity())
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.submit("one", run="work", origin=Origin.SUBMIT)

        async def waits() -> bool:
            return bool(await sim_workshop.refused("InsufficientInstanceCapacity"))

        await eventually("it waits for capacity", waits)

        async def applied() -> bool:
            (view,) = await asked(sim_workshop, "one", ttl_s=18_000)
            return view.outcome is Outcome.JOINED

        await eventually("it joins", applied)
        await sim_workshop.faults()
        (view,) = await sim_workshop.client.wait(tags=["one"], timeout_s=120)
        one = await seen(sim_workshop, "one")

    record = view.record
    assert record
    assert record.launched_at
    assert (record.ttl_s, record.expires_at) == (18_000, record.launched_at + 18_000)
    told = expiry_of(one.tags)
    assert told == pytest.approx(record.expires_at, abs=60.0)
    assert "puter:order" not in one.tags


async def test_another_ttl_while_the_launch_is_sent_is_ordered_when_the_machine_exists(
    sim_workshop: SimWorkshop,
) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", hold=True))
    async with sim_workshop.working():
        await sim_workshop.submit("one", run="work", origin=Origin.SUBMIT)

        async def sending() -> bool:
            return any(record.intent for record in await sim_workshop.records("one"))

        await eventually("it is being sent", sending)
        (view,) = await asked(sim_workshop, "one", ttl_s=18_000)
        await sim_workshop.faults()
        await eventually("it is told", ordered(sim_workshop, "one"))
        (record,) = await sim_workshop.records("one")
        one = await seen(sim_workshop, "one")

    assert view.outcome is Outcome.JOINED
    assert record.order
    assert record.expires_at == record.order.given_at + 18_000
    assert one.tags["puter:expires-at"] == expiry(record.expires_at)


async def test_what_is_told_to_end_gets_no_other_ttl(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.request("one", run="work")
        await sim_workshop.client.stop(["one"])
        await eventually("it is told", ordered(sim_workshop, "one"))
        (view,) = await asked(sim_workshop, "one", ttl_s=18_000)
        (record,) = await sim_workshop.records("one")

    assert (view.to_json()["applied"], view.to_json()["not_applied"]) == ([], ["ttl"])
    assert record.order
    assert record.order.kind is OrderKind.STOP


@pytest.mark.parametrize("given", [("ttl",), ()])
async def test_a_machine_that_redis_had_forgotten_has_its_own_deadline_or_the_one_that_is_asked_for(
    sim_workshop: SimWorkshop, given: tuple[str, ...]
) -> None:
    async with sim_workshop.working():
        await sim_workshop.request("one", run="work")
        (before,) = await sim_workshop.records("one")
    with sim_workshop.server.client() as behind:
        behind.flushall()
    async with sim_workshop.working(quarantine_s=0.0, quiet_sweep_s=0.2):
        await asked(sim_workshop, "one", given=given, ttl_s=18_000)
        await sim_workshop.client.wait(tags=["one"], timeout_s=120)
        if given:
            await eventually("it is told", ordered(sim_workshop, "one"))
        (record,) = await sim_workshop.records("one")

    assert record.instance_id == before.instance_id
    assert before.expires_at
    if given:
        assert record.order
        assert record.expires_at == record.order.given_at + 18_000
    else:
        assert record.order is None
        assert record.expires_at == pytest.approx(before.expires_at, abs=5.0)


async def test_the_next_machine_of_a_retry_has_the_new_ttl_and_ends_as_was_requested(
    sim_workshop: SimWorkshop,
) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await asked(sim_workshop, "one", retries=1)
        (view,) = await sim_workshop.client.wait(tags=["one"], timeout_s=120)
        first = await seen(sim_workshop, "one")
        await asked(sim_workshop, "one", ttl_s=None, retries=1)
        await eventually("it is told", ordered(sim_workshop, "one"))
        await sim_workshop.sim.end(first.id, "Server.SpotInstanceTermination", "Spot")

        async def again() -> bool:
            (record,) = await sim_workshop.records("one")
            return record.phase is Phase.RUNNING and record.generation == 2

        await eventually("it runs again", again)
        (record,) = await sim_workshop.records("one")
        second = await seen(sim_workshop, "one")

    assert view.record
    assert (record.ttl_s, record.expires_at, record.order) == (None, None, None)
    assert second.tags["puter:expires-at"] == "never"
    assert record.ends_with_workload is view.record.ends_with_workload is True
