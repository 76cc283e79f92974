"""How workloads ended, read from consoles: real Valkey, simulated EC2, a real worker."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.request import Origin
from puter_client.contract.result import Result
from puter_client.view import View, WaitFor
from tests.ec2sim.config import Fault
from tests.ec2sim.reports import Seen
from tests.frames import frame
from tests.integration.sim_workshop import SimWorkshop, eventually, sim_url, sim_workshop
from tests.integration.workshop import PATIENCE_S

__all__ = ["sim_url", "sim_workshop"]


@pytest.fixture(autouse=True)
def quick(sim_workshop: SimWorkshop) -> None:
    """Ends are seen soon, and consoles are read often."""
    sim_workshop.hurry(result_again_s=0.2, starting_s=0.2, result_reads_s=(0.0, 0.3, 0.6))


async def launched(shop: SimWorkshop, *tags: str, **fields: Any) -> dict[str, Seen]:
    """The running machines of these tags."""
    await shop.request(*tags, **({"run": "work"} | fields))
    by_id = {one.id: one for one in await shop.living()}
    return {record.tag: by_id[record.instance_id or ""] for record in await shop.records(*tags)}


async def ends(shop: SimWorkshop, one: Seen, exit_code: int = 0, output: str = "", **said: object) -> None:
    """The machine's workload ends as its agent says it, and then the machine."""
    await shop.sim.write_console(one.id, frame(one.tags["puter:intent"], exit_code, output, **said))  # type: ignore[arg-type]
    await shop.sim.shut_down(one.id)


async def finished(shop: SimWorkshop, *tags: str) -> list[View]:
    """The machines as they are when their results are known."""
    return await shop.client.wait(tags=tags, wait=WaitFor.FINISHED, timeout_s=120)


async def test_a_frame_on_the_console_is_the_result(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        machines = await launched(sim_workshop, "good", "bad")
        await ends(sim_workshop, machines["good"], 0, "fine\n")
        await ends(sim_workshop, machines["bad"], 3, "line\n" * 30 + "oops\n")
        bad, good = await finished(sim_workshop, "good", "bad")
        events = [event.event for event in await sim_workshop.told("bad")]

    assert good.record
    assert bad.record
    assert (good.record.result, good.record.exit_code, good.record.log_tail) == (Result.SUCCEEDED, 0, "fine")
    assert (bad.record.result, bad.record.exit_code, bad.reason) == (Result.FAILED, 3, "workload failed, exit code 3")
    assert bad.record.log_tail == "line\n" * 9 + "oops"
    assert events.count("workload.finished") == 1
    assert bad.record.finished_at is not None


@pytest.mark.parametrize(
    ("end", "result"),
    [
        (("Server.SpotInstanceTermination", "Spot"), Result.INTERRUPTED),
        (("Client.UserInitiatedShutdown", "User initiated"), Result.STOPPED),
        (("Client.InstanceInitiatedShutdown", "itself"), Result.LOST),
        (("Client.VolumeLimitExceeded", "whatever"), Result.LOST),
    ],
)
async def test_a_machine_that_ended_without_a_frame(
    sim_workshop: SimWorkshop, end: tuple[str, str], result: Result
) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        one = (await launched(sim_workshop, "one"))["one"]
        await sim_workshop.sim.end(one.id, *end)
        (view,) = await finished(sim_workshop, "one")

    assert view.record
    assert (view.record.result, view.record.exit_code) == (result, None)


async def test_a_console_that_comes_late_is_waited_for(sim_workshop: SimWorkshop) -> None:
    """EC2 shows what was written before the end only some time after it."""
    await sim_workshop.sim.configure(console_delay_s=40.0)
    sim_workshop.hurry(result_reads_s=(0.0, 0.5, 1.0, 1.5, 2.0, 30.0, 60.0), result_live_s=0.0)
    async with sim_workshop.working(quiet_sweep_s=0.2):
        one = (await launched(sim_workshop, "one"))["one"]
        await ends(sim_workshop, one, 3)

        async def waits() -> bool:
            return any(
                "how the workload did is not known yet" in reason for reason in await sim_workshop.reasons("one")
            )

        await eventually("it says what it waits for", waits)
        again = await sim_workshop.submit("one", run="work", origin=Origin.SUBMIT)
        await sim_workshop.sim.advance(41.0)
        (view,) = await sim_workshop.client.wait(
            batch_id=again, tags=["one"], wait=WaitFor.FINISHED, timeout_s=PATIENCE_S
        )

    assert view.record
    assert (view.outcome, view.record.result, view.record.generation) == (Outcome.EXISTING, Result.FAILED, 1)


@pytest.mark.parametrize("by_s", [43_200.0, -43_200.0])
async def test_a_clock_that_is_set_while_a_console_is_waited_for_loses_no_result_and_asks_no_more_often(
    sim_workshop: SimWorkshop, by_s: float
) -> None:
    reads_s = tuple(0.5 * n for n in range(40))
    await sim_workshop.sim.configure(console_delay_s=40.0)
    sim_workshop.hurry(health_s=0.2, result_reads_s=reads_s, result_live_s=0.0)

    def read_after(count: int) -> Callable[[], Awaitable[bool]]:
        async def was_read() -> bool:
            return len(await sim_workshop.calls("GetConsoleOutput")) > count

        return was_read

    async with sim_workshop.working(quiet_sweep_s=0.2):
        one = (await launched(sim_workshop, "one"))["one"]
        await ends(sim_workshop, one, 0)
        await eventually("its console is read", read_after(0))
        sim_workshop.redis_ahead_s = by_s
        await eventually("it is read some times more", read_after(4))
        await sim_workshop.sim.advance(41.0)
        (view,) = await finished(sim_workshop, "one")
        calls, (record,) = await sim_workshop.calls("GetConsoleOutput"), await sim_workshop.records("one")

    assert view.record
    assert view.record.result is Result.SUCCEEDED
    assert len(calls) == record.console_reads + 1


async def test_a_machine_that_stays_is_read_while_it_runs(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        one = (await launched(sim_workshop, "one", on_exit="keep"))["one"]
        await sim_workshop.sim.write_console(one.id, frame(one.tags["puter:intent"], 3, "oops\n"))
        (view,) = await finished(sim_workshop, "one")
        assert view.record
        assert (view.phase, view.record.result) == (Phase.RUNNING, Result.FAILED)
        await sim_workshop.sim.shut_down(one.id)
        await eventually("it has ended", lambda: has_ended(sim_workshop, "one"))
        (record,) = await sim_workshop.records("one")

    assert (record.result, record.reason) == (Result.FAILED, "workload failed, exit code 3")


@pytest.mark.parametrize("nonce", ["0" * 16, "another"])
async def test_a_frame_of_another_launch_is_none(sim_workshop: SimWorkshop, nonce: str) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        one = (await launched(sim_workshop, "one"))["one"]
        await sim_workshop.sim.write_console(one.id, frame(nonce, 0))
        await sim_workshop.sim.shut_down(one.id)
        (view,) = await finished(sim_workshop, "one")

    assert view.record
    assert view.record.result is Result.LOST


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "RequestExpired", "InternalError"])
async def test_an_error_of_ec2_is_waited_for(sim_workshop: SimWorkshop, code: str) -> None:
    await sim_workshop.faults(Fault(action="GetConsoleOutput", code=code, times=3))
    async with sim_workshop.working(quiet_sweep_s=0.2):
        one = (await launched(sim_workshop, "one"))["one"]
        await ends(sim_workshop, one, 0)
        (view,) = await finished(sim_workshop, "one")

    assert view.record
    assert view.record.result is Result.SUCCEEDED


async def test_a_console_that_may_not_be_read_is_a_lost_result_with_its_reason(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="GetConsoleOutput", code="UnauthorizedOperation"))
    async with sim_workshop.working(quiet_sweep_s=0.2):
        one = (await launched(sim_workshop, "one"))["one"]
        await ends(sim_workshop, one, 0)
        (view,) = await finished(sim_workshop, "one")

    assert view.record
    assert view.record.result is Result.LOST
    assert "console cannot be read" in (view.reason or "")


async def test_many_ends_at_once_each_have_one_result(sim_workshop: SimWorkshop) -> None:
    tags = [f"job-{n}" for n in range(60)]
    async with sim_workshop.working(quiet_sweep_s=0.2), sim_workshop.working(quiet_sweep_s=0.2):
        machines = await launched(sim_workshop, *tags)
        for n, tag in enumerate(tags):
            await ends(sim_workshop, machines[tag], n % 3)
        views = await finished(sim_workshop, *tags)
        told = [[event.event for event in await sim_workshop.told(tag)] for tag in tags]

    assert [view.record and view.record.exit_code for view in views] == [n % 3 for n in range(60)]
    assert [events.count("workload.finished") for events in told] == [1] * 60


async def test_a_workload_that_has_succeeded_is_done_and_one_that_has_not_is_skipped(
    sim_workshop: SimWorkshop,
) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        machines = await launched(sim_workshop, "good", "bad")
        await ends(sim_workshop, machines["good"], 0)
        await ends(sim_workshop, machines["bad"], 3)
        await finished(sim_workshop, "good", "bad")
        again = await sim_workshop.submit("good", "bad", run="work", origin=Origin.SUBMIT)
        views = await sim_workshop.client.wait(
            batch_id=again, tags=["good", "bad"], wait=WaitFor.FINISHED, timeout_s=120
        )

    assert {view.tag: view.outcome for view in views} == {"good": Outcome.DONE, "bad": Outcome.SKIPPED}
    assert "exit code 3; --retry-failed" in (views[0].reason or "")


async def test_an_interrupted_workload_is_run_again_on_the_next_machine(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        first = (await launched(sim_workshop, "one", retries=1))["one"]
        await sim_workshop.sim.end(first.id, "Server.SpotInstanceTermination", "Spot")
        second = await next_of(sim_workshop, "one", first)
        await ends(sim_workshop, second, 0)
        (view,) = await finished(sim_workshop, "one")
        events = [event.event for event in await sim_workshop.told("one")]

    assert view.record
    assert (view.record.generation, view.record.result) == (2, Result.SUCCEEDED)
    assert [(one.generation, one.instance_id, one.result) for one in view.record.attempts] == [
        (1, first.id, Result.INTERRUPTED)
    ]
    assert view.record.attempts[0].ended_at
    assert (events.count("workload.retried"), events.count("workload.finished")) == (1, 1)
    assert len(await sim_workshop.sim.instances()) == 2


@pytest.mark.parametrize(
    ("retry_on", "exit_code", "again"),
    [
        ((), 75, False),
        (("failed",), 1, True),
        (("75",), 75, True),
        (("75",), 1, False),
        (("75", "failed"), 1, True),
        (("failed",), 0, False),
    ],
)
async def test_what_else_is_run_again(
    sim_workshop: SimWorkshop, retry_on: tuple[str, ...], exit_code: int, again: bool
) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        first = (await launched(sim_workshop, "one", retries=1, retry_on=retry_on))["one"]
        await ends(sim_workshop, first, exit_code)
        if again:
            await ends(sim_workshop, await next_of(sim_workshop, "one", first), 9)
        (view,) = await finished(sim_workshop, "one")

    assert view.record
    assert (view.record.generation, view.record.exit_code) == ((2, 9) if again else (1, exit_code))
    assert len(await sim_workshop.sim.instances()) == (2 if again else 1)


async def test_retries_end(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2), sim_workshop.working(quiet_sweep_s=0.2):
        machine = (await launched(sim_workshop, "one", retries=2, retry_on=("failed",)))["one"]
        for number in range(2):
            await ends(sim_workshop, machine, number + 1)
            machine = await next_of(sim_workshop, "one", machine)
        await ends(sim_workshop, machine, 3)
        (view,) = await finished(sim_workshop, "one")

    assert view.record
    assert [one.exit_code for one in view.record.attempts] == [1, 2]
    assert (view.record.generation, view.record.exit_code) == (3, 3)
    assert len(await sim_workshop.sim.instances()) == 3


async def next_of(shop: SimWorkshop, tag: str, before: Seen) -> Seen:
    """The machine that runs the workload of this one again."""

    async def runs() -> bool:
        (record,) = await shop.records(tag)
        return record.phase is Phase.RUNNING and record.instance_id != before.id

    await eventually("the next machine runs", runs)
    (record,) = await shop.records(tag)
    return next(one for one in await shop.living() if one.id == record.instance_id)


async def has_ended(shop: SimWorkshop, tag: str) -> bool:
    return [record.phase for record in await shop.records(tag)] == [Phase.TERMINATED]


@pytest.mark.parametrize("known", [True, False], ids=["seen to have ended", "not yet seen to have ended"])
async def test_what_was_ordered_to_stop_is_not_run_again(sim_workshop: SimWorkshop, known: bool) -> None:
    """The order comes when the machine has ended already, and nobody knows yet how its workload did."""
    sim_workshop.hurry(result_reads_s=(0.0, 2.0, 2.5))
    async with sim_workshop.working(quiet_sweep_s=0.2 if known else 5.0):
        one = (await launched(sim_workshop, "one", retries=2))["one"]
        await sim_workshop.sim.end(one.id, "Server.SpotInstanceTermination", "Spot")
        if known:
            await eventually("its end is seen", lambda: has_ended(sim_workshop, "one"))
        await sim_workshop.client.stop(["one"])
        (view,) = await finished(sim_workshop, "one")

    assert view.record
    assert (view.record.result, view.record.attempts) == (Result.INTERRUPTED, ())
    assert view.record.order
    assert len(await sim_workshop.sim.instances()) == 1
