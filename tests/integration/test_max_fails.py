"""Batches that end once too many of them have failed: real Valkey, simulated EC2, real workers, nobody who waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import Record
from puter_client.contract.request import Origin
from puter_client.contract.result import Result
from puter_client.view import View, WaitFor
from puter_worker.stages.launch import Launch
from puter_worker.stages.max_fails import MaxFails
from puter_worker.stages.plan import Waiting
from puter_worker.store import names
from tests.agents import Agents, End, running
from tests.ec2sim.config import Fault
from tests.ec2sim.reports import Seen
from tests.frames import frame
from tests.integration.sim_workshop import SimWorkshop, eventually, no_capacity, sim_url, sim_workshop
from tests.integration.stage_world import wake_all
from tests.integration.workshop import PATIENCE_S, spec

__all__ = ["sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(12)]
SPOT = ("Server.SpotInstanceTermination", "Spot")
ITSELF = ("Client.InstanceInitiatedShutdown", "itself")


@pytest.fixture(autouse=True)
def quick(sim_workshop: SimWorkshop) -> None:
    """Orders are carried out, and ends are seen, soon."""
    sim_workshop.hurry(
        order_again_s=0.1,
        order_confirm_s=0.2,
        failures_again_s=0.1,
        result_again_s=0.2,
        result_reads_s=(0.0, 0.3, 0.6),
        starting_s=0.2,
        batch_longest_s=3.0,  # the first of a batch are launched first
    )


async def submitted(
    shop: SimWorkshop,
    *tags: str,
    max_fails: int | None = 1,
    keep_running: bool = False,
    most: int | None = None,
    batch_id: str | None = None,
    retry_failed: bool = False,
    **fields: Any,
) -> str:
    """Request a batch; its id. Nobody waits for it."""
    return await shop.client.submit(
        [MachineRequest(tag, spec(**({"run": "work"} | fields))) for tag in tags],
        origin=Origin.SUBMIT,
        max_fails=max_fails,
        keep_running=keep_running,
        max_parallel=most,
        batch_id=batch_id,
        retry_failed=retry_failed,
    )


def failing(*tags: str, code: int = 1) -> Callable[[Seen], End | None]:
    """What agents do: the workloads of these tags fail, the others go on."""
    return lambda one: End.exits(code) if one.tags.get("puter:tag") in tags else None


async def machine(shop: SimWorkshop, tag: str) -> Seen:
    """The tag's machine, as soon as it runs."""

    async def runs() -> bool:
        return any(record.phase is Phase.RUNNING for record in await shop.records(tag))

    await eventually(f"{tag} runs", runs)
    (record,) = await shop.records(tag)
    return next(one for one in await shop.living() if one.id == record.instance_id)


async def fails(shop: SimWorkshop, tag: str, code: int = 1, **said: Any) -> None:
    """The tag's workload ends as its agent says it, and then its machine."""
    one = await machine(shop, tag)
    await shop.sim.write_console(one.id, frame(one.tags["puter:intent"], code, **said))
    await shop.sim.shut_down(one.id)


async def ends(
    shop: SimWorkshop, tag: str, *, ordered: bool = False, end: tuple[str, str] | None = None, **said: Any
) -> None:
    """The tag's machine ends: with a frame, or as EC2 says; perhaps because its owner has ordered it."""
    one = await machine(shop, tag)
    if ordered:
        await shop.client.stop([tag])
        await eventually(f"{tag} is told", becomes(shop, tag, lambda one: bool(one.order and one.order.sent_at)))
    if end is None:
        await fails(shop, tag, said.pop("frame"), **said)
    else:
        await shop.sim.end(one.id, *end)


async def all_over(shop: SimWorkshop, batch: str, tags: list[str]) -> dict[str, View]:
    """The batch when nothing of it runs or waits any more."""
    views = await shop.client.wait(batch_id=batch, tags=tags, wait=WaitFor.FINISHED, timeout_s=PATIENCE_S)
    return {view.tag: view for view in views}


def states(views: Mapping[str, View]) -> Counter[str]:
    return Counter(view.state for view in views.values())


def becomes(shop: SimWorkshop, tag: str, holds: Callable[[Record], bool]) -> Callable[[], Awaitable[bool]]:
    async def is_so() -> bool:
        return any(map(holds, await shop.records(tag)))

    return is_so


async def test_the_rest_is_cancelled_and_stopped_once_so_many_have_failed(sim_workshop: SimWorkshop) -> None:
    agents = Agents(sim_workshop.sim, failing("job-0", "job-1", "job-2"))
    async with sim_workshop.working(quiet_sweep_s=0.2), sim_workshop.working(quiet_sweep_s=0.2), running(agents):
        batch = await submitted(sim_workshop, *TAGS, max_fails=3, most=6)
        views = await all_over(sim_workshop, batch, TAGS)
        told = {tag: [event.event for event in await sim_workshop.told(tag)] for tag in TAGS}
        stops = [call for call in await sim_workshop.calls("CreateTags") if "stop" in call.params.values()]

    why = f"3 of batch {batch} failed (max_fails)"
    seen = states(views)
    assert {tag for tag, view in views.items() if view.state == "failed"} == {"job-0", "job-1", "job-2"}
    assert set(seen) == {"failed", "stopped", "cancelled"}
    for tag, view in views.items():
        assert view.record
        if view.state == "stopped":
            assert (view.reason, view.outcome) == (f"workload stopped, exit code 143: {why}", Outcome.CREATED)
            assert view.record.order
            assert (view.record.order.reason, view.record.order.user) == (why, "betty")
            assert told[tag].count("order.given") == 1
        elif view.state == "cancelled":
            assert (view.outcome, view.reason, view.record.reason) == (Outcome.CANCELLED, why, f"cancelled: {why}")
            assert told[tag].count("request.cancelled") == 1
            assert view.record.instance_id is None
    assert 1 <= len(stops) <= 6
    assert len(await sim_workshop.sim.instances()) == 12 - seen["cancelled"]
    assert seen["cancelled"] >= 1


async def test_what_runs_may_be_left_running(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        batch = await submitted(sim_workshop, *TAGS, most=3, keep_running=True)
        await fails(sim_workshop, "job-1")
        # Another one may be launched after the machine of the first has ended, and before it is known how.
        async with running(Agents(sim_workshop.sim, lambda _: End.exits(0))):
            views = await all_over(sim_workshop, batch, TAGS)

    assert views["job-1"].state == "failed"
    assert {views[tag].state for tag in ("job-0", "job-2")} == {"succeeded"}
    assert states(views)["cancelled"] >= 8
    assert all(one.tags.get("puter:order") is None for one in await sim_workshop.sim.instances())


@pytest.mark.parametrize("looked", [True, False], ids=["looked", "by its guard alone"])
async def test_nothing_is_launched_any_more_also_while_nobody_cancels_it(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch, looked: bool
) -> None:
    """The worker that had claimed the batch has died: for seconds nobody cancels what waits."""

    async def never(_: MaxFails) -> float:
        return 60.0

    async def all_of_them(_: Launch, waiting: Sequence[Waiting]) -> list[Waiting]:
        return list(waiting)

    monkeypatch.setattr(MaxFails, "run_once", never)
    if not looked:
        monkeypatch.setattr(Launch, "_of_open_batches", all_of_them)
    await sim_workshop.sim.configure(capacity=[{"market": "spot", "slots": 0}])
    async with sim_workshop.working(quiet_sweep_s=0.2):
        requests = [MachineRequest(tag, spec(run="work", spot=tag != "bad")) for tag in ("bad", *TAGS[:3])]
        await sim_workshop.client.submit(requests, origin=Origin.SUBMIT, max_fails=1)
        await fails(sim_workshop, "bad")
        await eventually("its failure is known", becomes(sim_workshop, "bad", lambda one: one.result is not None))
        await sim_workshop.sim.configure(capacity=[])
        await sim_workshop.request("later", spot=True, instance_type="t3.small", wait=WaitFor.RUNNING)
        phases = {record.phase for record in await sim_workshop.records(*TAGS[:3])}

    assert phases == {Phase.LAUNCHING}
    assert len(await sim_workshop.sim.instances()) == 2


@pytest.mark.parametrize(
    "end",
    [
        pytest.param({"frame": 1}, id="failed"),
        pytest.param({"frame": 143, "result": Result.TIMED_OUT}, id="timed-out"),
        pytest.param({"end": SPOT}, id="interrupted"),
        pytest.param({"end": ITSELF}, id="lost"),
    ],
)
async def test_what_counts_as_failed(sim_workshop: SimWorkshop, end: dict[str, Any]) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await submitted(sim_workshop, "bad", "other")
        await machine(sim_workshop, "other")
        await ends(sim_workshop, "bad", **end)
        await eventually("the other is told", becomes(sim_workshop, "other", lambda one: one.order is not None))


@pytest.mark.parametrize("code", ["InvalidParameterValue", "UnauthorizedOperation"])
async def test_a_launch_that_fails_counts(sim_workshop: SimWorkshop, code: str) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        batch = await submitted(sim_workshop, "runs", most=1)
        await machine(sim_workshop, "runs")
        await sim_workshop.faults(Fault(action="RunInstances", code=code))
        await submitted(sim_workshop, "bad", batch_id=batch)
        await eventually("it fails", becomes(sim_workshop, "bad", lambda one: one.phase is Phase.FAILED))
        await eventually("the other is told", becomes(sim_workshop, "runs", lambda one: one.order is not None))


@pytest.mark.parametrize(
    "end",
    [
        pytest.param({"frame": 0}, id="succeeded"),
        pytest.param({"end": ("Client.UserInitiatedShutdown", "User initiated")}, id="terminated-by-a-person"),
        pytest.param({"ordered": True, "frame": 143, "result": Result.STOPPED}, id="stopped-by-its-owner"),
        pytest.param({"ordered": True, "end": ITSELF}, id="stopped-without-a-frame"),
        pytest.param({"end": SPOT, "again": True}, id="interrupted-and-run-again"),
    ],
)
async def test_what_does_not_count(sim_workshop: SimWorkshop, end: dict[str, Any]) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        again = end.pop("again", False)
        await submitted(sim_workshop, "one", "other", retries=1 if again else 0)
        await machine(sim_workshop, "other")
        await ends(sim_workshop, "one", **end)
        if again:
            await eventually("it is run again", becomes(sim_workshop, "one", lambda one: one.generation == 2))
            await fails(sim_workshop, "one", 0)
        await sim_workshop.client.wait(tags=["one"], wait=WaitFor.FINISHED, timeout_s=120)
        await nothing_due(sim_workshop)
        (other,) = await sim_workshop.records("other")

    assert (other.phase, other.order) == (Phase.RUNNING, None)


async def test_what_is_cancelled_does_not_count(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await submitted(sim_workshop, "one", "two", most=1)
        await machine(sim_workshop, "one")
        await sim_workshop.client.cancel(["two"])
        await eventually("it is cancelled", becomes(sim_workshop, "two", lambda one: one.phase is Phase.CANCELLED))
        await nothing_due(sim_workshop)
        (one,) = await sim_workshop.records("one")

    assert one.order is None


async def test_retries_come_first(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await submitted(sim_workshop, "one", "other", retries=1, retry_on=("failed",))
        await machine(sim_workshop, "other")
        await fails(sim_workshop, "one")
        await eventually("it is run again", becomes(sim_workshop, "one", lambda one: one.generation == 2))
        (before,) = await sim_workshop.records("other")
        await fails(sim_workshop, "one", 9)
        await eventually("the other is told", becomes(sim_workshop, "other", lambda one: one.order is not None))
        (one,) = await sim_workshop.records("one")

    assert before.order is None
    assert ([attempt.exit_code for attempt in one.attempts], one.exit_code) == ([1], 9)


async def test_a_workload_that_would_be_run_again_is_not(sim_workshop: SimWorkshop) -> None:
    """One that was left running is interrupted after the batch has ended: that would be a launch."""
    async with sim_workshop.working(quiet_sweep_s=0.2):
        batch = await submitted(sim_workshop, "bad", "late", "more", keep_running=True, retries=3, most=2)
        late = await machine(sim_workshop, "late")
        await machine(sim_workshop, "bad")
        # Its room is free when its machine has ended, which is before it is known how.
        await sim_workshop.faults(no_capacity())
        await fails(sim_workshop, "bad")
        await eventually(
            "the rest is cancelled", becomes(sim_workshop, "more", lambda one: one.phase is Phase.CANCELLED)
        )
        await sim_workshop.sim.end(late.id, *SPOT)
        await eventually("it has ended", becomes(sim_workshop, "late", lambda one: one.phase is Phase.CANCELLED))
        (record,) = await sim_workshop.records("late")
        _, rows = await sim_workshop.client.batch(batch)

    assert [attempt.result for attempt in record.attempts] == [Result.INTERRUPTED]
    assert record.reason == f"cancelled: 1 of batch {batch} failed (max_fails)"
    assert {view.tag: view.outcome for view in rows}["late"] is Outcome.CANCELLED
    assert len(await sim_workshop.sim.instances()) == 2


async def test_what_is_told_to_end_is_not_run_again(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await submitted(sim_workshop, "bad", "late", retries=3)
        late = await machine(sim_workshop, "late")
        await fails(sim_workshop, "bad")
        await eventually("it is told", becomes(sim_workshop, "late", lambda one: one.order is not None))
        await sim_workshop.sim.end(late.id, *SPOT)
        await eventually("its result is known", becomes(sim_workshop, "late", lambda one: one.result is not None))
        (record,) = await sim_workshop.records("late")

    assert (record.phase, record.result, record.attempts) == (Phase.TERMINATED, Result.INTERRUPTED, ())


async def test_requests_of_the_batch_that_come_later_are_cancelled(sim_workshop: SimWorkshop) -> None:
    """New ones, and one that is parked because its name has a machine, which turns out to have ended."""
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await sim_workshop.request("parked")
        batch = await submitted(sim_workshop, "bad")
        await fails(sim_workshop, "bad")
        await eventually("it has failed", becomes(sim_workshop, "bad", lambda one: one.result is Result.FAILED))
    await sim_workshop.sim.shut_down((await sim_workshop.living())[0].id)
    later = ["new-1", "new-2", "parked"]
    await submitted(sim_workshop, *later, batch_id=batch)
    async with sim_workshop.working(quiet_sweep_s=60.0):
        views = await sim_workshop.client.wait(batch_id=batch, tags=later, wait=WaitFor.QUEUED, timeout_s=120)
        records = {record.tag: record for record in await sim_workshop.records(*later)}

    why = f"1 of batch {batch} failed (max_fails)"
    assert {view.tag for view in views if view.outcome is Outcome.CANCELLED} == set(later)
    assert {(record.phase, record.reason) for record in records.values()} == {(Phase.CANCELLED, f"cancelled: {why}")}
    assert records["parked"].generation == 2
    assert len(await sim_workshop.sim.instances()) == 2


async def test_a_launch_that_is_being_sent_is_stopped_when_its_machine_exists(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        batch = await submitted(sim_workshop, "bad")
        await machine(sim_workshop, "bad")
        await sim_workshop.faults(Fault(action="RunInstances", when="before", delay_s=3.0, times=1))
        await submitted(sim_workshop, "sent", batch_id=batch)
        await eventually("it is being sent", becomes(sim_workshop, "sent", lambda one: one.intent is not None))
        await fails(sim_workshop, "bad")
        await eventually(
            "it is told",
            becomes(sim_workshop, "sent", lambda one: bool(one.order and one.order.sent_at)),
        )
        (one,) = await sim_workshop.living()

    assert one.tags["puter:order"] == "stop"


@pytest.mark.parametrize("keep_running", [False, True])
async def test_a_launch_that_is_being_sent_and_refused_is_cancelled(
    sim_workshop: SimWorkshop, keep_running: bool
) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        batch = await submitted(sim_workshop, "bad", keep_running=keep_running)
        await machine(sim_workshop, "bad")
        await sim_workshop.faults(
            Fault(action="RunInstances", code="InsufficientInstanceCapacity", when="before", delay_s=3.0)
        )
        await submitted(sim_workshop, "sent", batch_id=batch, keep_running=keep_running)
        await eventually("it is being sent", becomes(sim_workshop, "sent", lambda one: one.intent is not None))
        await fails(sim_workshop, "bad")
        await eventually("it is cancelled", becomes(sim_workshop, "sent", lambda one: one.phase is Phase.CANCELLED))
        (record,) = await sim_workshop.records("sent")
        await nothing_due(sim_workshop)

    assert record.reason == f"cancelled: 1 of batch {batch} failed (max_fails)"


async def test_other_batches_go_on(sim_workshop: SimWorkshop) -> None:
    """Also where the batch that ends has joined them: who requested a machine has the say over it."""
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await submitted(sim_workshop, "theirs", max_fails=None)
        await submitted(sim_workshop, "first", "second", most=1)
        await machine(sim_workshop, "theirs")
        await machine(sim_workshop, "first")
        batch = await submitted(sim_workshop, "bad", "theirs")
        await fails(sim_workshop, "bad")
        await eventually("it has failed", becomes(sim_workshop, "bad", lambda one: one.result is Result.FAILED))
        await nothing_due(sim_workshop)
        records = await sim_workshop.records("theirs", "first", "second")
        _, rows = await sim_workshop.client.batch(batch)

    assert [record.order for record in records] == [None, None, None]
    assert [record.phase in LIVE for record in records] == [True, True, False]
    assert records[2].phase in ON_ITS_WAY
    assert {view.tag: view.outcome for view in rows}["theirs"] is Outcome.EXISTING


@pytest.mark.parametrize("retry_failed", [False, True])
async def test_submitted_again_all_that_did_not_have_its_chance_runs(
    sim_workshop: SimWorkshop, retry_failed: bool
) -> None:
    """Another submission counts anew."""
    async with sim_workshop.working(quiet_sweep_s=0.2):
        async with running(Agents(sim_workshop.sim, failing("job-0", "job-1"))):
            first = await submitted(sim_workshop, *TAGS, max_fails=2, most=5)
            views = await all_over(sim_workshop, first, TAGS)
        stopped = [tag for tag, view in views.items() if view.state == "stopped"]
        cancelled = [tag for tag, view in views.items() if view.state == "cancelled"]
        async with running(Agents(sim_workshop.sim, lambda _: End.exits(0))):
            second = await submitted(sim_workshop, *TAGS, max_fails=2, most=5, retry_failed=retry_failed)
            again = await all_over(sim_workshop, second, TAGS)

    assert stopped
    assert cancelled
    assert {again[tag].state for tag in (*stopped, *cancelled)} == {"succeeded"}
    failed = {again[tag].outcome for tag in ("job-0", "job-1")}
    assert failed == {Outcome.CREATED if retry_failed else Outcome.SKIPPED}


async def nothing_due(shop: SimWorkshop) -> None:
    """No batch is to be looked at any more."""
    wake_all(shop)

    async def empty() -> bool:
        with shop.server.client() as client:
            return not client.exists(names.FAILURES)

    await eventually("no batch is to be looked at", empty)
