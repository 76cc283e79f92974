"""Batches that end once too many of them have failed, whenever a worker dies: all of it once, and nothing forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.request import Origin, UpRequest
from puter_client.contract.result import Result
from puter_worker.stages.draft import Draft
from puter_worker.stages.max_fails import MaxFails
from puter_worker.store import names
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from tests.frames import frame
from tests.integration.sim_workshop import SimWorkshop, eventually, sim_url, sim_workshop
from tests.integration.stage_world import Death, end, time_passes
from tests.integration.test_max_fails import machine, nothing_due, quick, submitted
from tests.integration.workshop import spec

__all__ = ["quick", "sim_url", "sim_workshop"]


@pytest.mark.parametrize("keep_running", [False, True])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_the_stage_may_die_at_any_write(sim_workshop: SimWorkshop, keep_running: bool, after: bool) -> None:
    """Whoever looks next goes on: everything is cancelled or told once, and nothing stays to be done."""
    waiting, many = [f"wait-{n}" for n in range(60)], 0
    for at in range(1, 40):
        with sim_workshop.server.client() as behind:
            behind.flushall()
        await sim_workshop.sim.reset()
        async with sim_workshop.working(quiet_sweep_s=0.2):
            await submitted(sim_workshop, "bad", "runs", *waiting, most=2, keep_running=keep_running)
            await machine(sim_workshop, "runs")
            await machine(sim_workshop, "bad")
        async with sim_workshop.idle() as worker:
            await fail_by_hand(worker.store, "bad")
            died = await dies(MaxFails(worker.store, sim_workshop.timings), worker.store, at=at, after=after)
        async with sim_workshop.idle() as worker:
            await due_now(worker.store)
            await MaxFails(worker.store, sim_workshop.timings).run_once()
            assert await worker.store.failures.items.next_due() is None
        records = {record.tag: record for record in await sim_workshop.records("runs", *waiting)}
        told = [[event.event for event in await sim_workshop.told(tag)] for tag in waiting]
        runs = [event.event for event in await sim_workshop.told("runs")]
        assert {records[tag].phase for tag in waiting} == {Phase.CANCELLED}, at
        assert {events.count("request.cancelled") for events in told} == {1}, at
        assert runs.count("order.given") == (0 if keep_running else 1), at
        assert (records["runs"].order is None) == keep_running
        many += 1
        if not died:
            break
    assert many > 3, "the stage died at hardly any write"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
# The dead leave their connections open.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
async def test_a_worker_may_die_at_any_step_between_the_failure_and_the_end(
    sim_workshop: SimWorkshop, after: bool
) -> None:
    waiting = ["wait-1", "wait-2", "wait-3"]

    async def over() -> bool:
        """One of those that wait may be launched between the end of a machine and its result."""
        bad, *rest = await sim_workshop.records("bad", "runs", *waiting)
        told = [one for one in rest if one.order is not None and one.order.sent_at is not None]
        return bad.result is not None and all(one in told or one.phase is Phase.CANCELLED for one in rest)

    step, died = 0, True
    while died:
        step += 1
        assert step < 60, "there is no end of steps"
        with sim_workshop.server.client() as behind:
            behind.flushall()
        await sim_workshop.sim.reset()
        async with sim_workshop.working(quiet_sweep_s=0.2):
            batch = await submitted(sim_workshop, "bad", "runs", *waiting, most=2)
            await machine(sim_workshop, "runs")
            one = await machine(sim_workshop, "bad")
        await sim_workshop.sim.write_console(one.id, frame(one.tags["puter:intent"], 1))
        await sim_workshop.sim.shut_down(one.id)
        death = Death(step, after=after)
        struck, done = asyncio.create_task(death.dead.wait()), asyncio.create_task(until_so(over))
        async with death.awaits(sim_workshop, quiet_sweep_s=0.2):
            await asyncio.wait({struck, done}, return_when=asyncio.FIRST_COMPLETED)
            if not death.dead.is_set():
                death.spare()
            await end([struck, done])
        died = death.dead.is_set()
        time_passes(sim_workshop)
        async with sim_workshop.working(quiet_sweep_s=0.2):
            await eventually(f"all of it has ended, after a death {death.at}", over)
            await nothing_due(sim_workshop)
        told = {tag: [event.event for event in await sim_workshop.told(tag)] for tag in ("bad", "runs", *waiting)}
        with sim_workshop.server.client() as behind:
            failed = behind.smembers(names.failed("betty", batch))
        assert failed == {b"bad"}, death.at
        assert told["bad"].count("workload.finished") == 1, death.at
        assert told["runs"].count("order.given") == 1, death.at
        ways = {tag: told[tag].count("order.given") + told[tag].count("request.cancelled") for tag in waiting}
        assert set(ways.values()) == {1}, death.at
    assert step > 8, "the worker died at hardly any step"


async def until_so(holds: Callable[[], Awaitable[bool]]) -> None:
    while not await holds():
        await asyncio.sleep(0.02)


async def dies(stage: MaxFails, store: Store, *, at: int, after: bool) -> bool:
    """Run the stage until its `at`-th write, and no further; whether it came to that."""

    class Dead(Exception):
        """The worker is gone."""

    left, commit = at, store.db.commit

    async def watched(txn: Txn) -> list[int]:
        nonlocal left
        left -= 1
        if left == 0 and not after:
            raise Dead
        broken = await commit(txn)
        if left == 0:
            raise Dead
        return broken

    store.db.commit = watched  # type: ignore[method-assign]
    try:
        await stage.run_once()
    except Dead:
        return True
    finally:
        store.db.commit = commit  # type: ignore[method-assign]
    return False


async def fail_by_hand(store: Store, tag: str) -> None:
    """The record says that the workload failed, in the one transaction that also counts it."""
    current = (await store.records.read_one(PuterKey("betty", tag))).found()
    assert current
    txn = Txn()
    store.records.put(txn, current, current.value.replace(result=Result.FAILED, exit_code=1))
    assert not await store.commit(txn)


async def due_now(store: Store) -> None:
    """The claim of the dead runs out."""
    for member in await store.db.redis.zrange(names.FAILURES, 0, -1):
        await store.db.redis.zadd(names.FAILURES, {member: 0}, xx=True)


async def test_what_no_worker_has_written_stops_no_batch_from_ending(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        batch = await submitted(sim_workshop, "bad", "waits", most=1)
        await machine(sim_workshop, "bad")
    with sim_workshop.server.client() as behind:
        behind.zadd(names.FAILURES, {b"\xff": 0, b"[]": 0, b'["betty","b-1",1e400,false,"x"]': 0})
        behind.hset(f"puter:betty:batch:{batch}", mapping={b"\xff": b"x", b"no tag": b"x", b"nobody": b"x"})
    async with sim_workshop.idle() as worker:
        await fail_by_hand(worker.store, "bad")
        await MaxFails(worker.store, sim_workshop.timings).run_once()
    (waits,) = await sim_workshop.records("waits")

    assert waits.phase is Phase.CANCELLED


# -- failures that come in between ---


async def test_a_failure_between_the_reading_of_a_request_and_its_answer_is_not_missed(
    sim_workshop: SimWorkshop,
) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        batch = await submitted(sim_workshop, "bad")
        await machine(sim_workshop, "bad")
    new = PuterKey("betty", "new")
    request = UpRequest(
        tag="new", spec=spec(run="work"), batch=batch, size=2, user="betty", origin=Origin.SUBMIT, max_fails=1
    )
    async with sim_workshop.idle() as worker:
        written = []
        for fails_meanwhile in (True, False):
            draft = Draft(worker.store, "betty", worker.rules)
            await draft.read([new], [request])
            draft.add(new, request)
            if fails_meanwhile:
                await fail_by_hand(worker.store, "bad")
            written.append(await draft.commit())
    (record,) = await sim_workshop.records("new")

    assert written == [False, True]
    assert record.phase is Phase.CANCELLED


async def test_a_failure_while_the_batch_is_looked_at_is_not_missed(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working(quiet_sweep_s=0.2):
        await submitted(sim_workshop, "bad-1", "bad-2", "waits", max_fails=2, most=2)
        await machine(sim_workshop, "bad-1")
        await machine(sim_workshop, "bad-2")
    async with sim_workshop.idle() as worker:
        await fail_by_hand(worker.store, "bad-1")
        commit, left = worker.store.db.commit, ["bad-2"]

        async def late(txn: Txn) -> list[int]:
            if left:
                await fail_by_hand(worker.store, left.pop())
            return await commit(txn)

        worker.store.db.commit = late  # type: ignore[method-assign]
        await MaxFails(worker.store, sim_workshop.timings).run_once()
    (waits,) = await sim_workshop.records("waits")

    assert waits.phase is Phase.CANCELLED
