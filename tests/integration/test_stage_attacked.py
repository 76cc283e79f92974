"""One client, or bad luck, against everybody: what must not stop, lose or forget anything."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import arq.worker
import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.request import Origin
from puter_client.store import names as public
from puter_client.view import WaitFor
from puter_worker.errors import Ec2Error, Handling
from puter_worker.stages.ensure import refused
from puter_worker.store import names
from puter_worker.store.arq_adapter import LOCK_PREFIX
from puter_worker.store.database import Database
from puter_worker.store.requests import TAKE_REQUESTS
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from tests.integration.sim_workshop import eventually
from tests.integration.stage_world import TARGET, Hands, hands, keys_for_good, rewrite, until
from tests.integration.workshop import Workshop, spec

__all__ = ["hands"]
KEY = PuterKey("betty", "one")


async def test_a_parked_request_is_settled_also_if_observe_sees_the_end_first(workshop: Workshop) -> None:
    async with workshop.working():
        (view,) = await workshop.request("one")
    assert view.record
    workshop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])
    rewrite(workshop, KEY, observed_at=0.0)
    batch = await workshop.client.submit([MachineRequest("one", spec())], origin=Origin.UP)
    async with workshop.working():
        (second,) = await workshop.client.wait(batch_id=batch, tags=["one"], timeout_s=120)

    assert second.outcome is Outcome.CREATED
    assert second.record
    assert second.record.generation == 2


@pytest.mark.parametrize("command", ["SET", "SADD"])
async def test_an_inbox_of_another_type_stops_nobody_else(workshop: Workshop, command: str) -> None:
    with workshop.server.client() as behind:
        behind.execute_command(command, public.inbox("mallory"), "x")
        behind.sadd(public.READY, "mallory")
    anna = workshop.client_of("anna")
    try:
        async with workshop.working():
            (view,) = await workshop.request("one", client=anna)
    finally:
        await anna.aclose()

    assert view.phase is Phase.RUNNING


async def test_a_bell_of_another_type_stops_nobody_for_good(workshop: Workshop) -> None:
    """Whoever may RPUSH and SADD can make the ready set a list while it is silent."""
    with workshop.server.client() as behind:
        behind.rpush(public.READY, "mallory")
        async with workshop.working():
            await until("the ready set is a set again", lambda: behind.type(public.READY) != b"list", for_s=120)
            (view,) = await workshop.request("one")

    assert view.phase is Phase.RUNNING


async def test_a_bell_for_what_is_no_text_falls_silent(workshop: Workshop, hands: Hands) -> None:
    with workshop.server.client() as behind:
        behind.sadd(public.READY, b"\xff\xfe")
        await hands.take_requests()

        assert behind.smembers(public.READY) == set()


async def test_a_backlog_that_is_put_back_keeps_its_end(workshop: Workshop, hands: Hands) -> None:
    await workshop.client.submit([MachineRequest("one", spec())])
    await hands.take_requests()
    with workshop.server.client() as behind:
        behind.set(f"{LOCK_PREFIX}betty/one", "1", px=20_000)  # its job runs elsewhere
        await hands.store.jobs.feed()

        assert keys_for_good(behind) == []


async def test_a_targets_list_of_the_living_lives_as_long_as_they_do(workshop: Workshop, hands: Hands) -> None:
    async with workshop.working(quiet_sweep_s=600.0):
        await workshop.request("one", ttl_s=None)
        with workshop.server.client() as behind:
            for name in (names.live(TARGET), public.index("betty")):
                behind.expire(name, 60)
        await hands.observer(await hands.target()).look_at([KEY])
        with workshop.server.client() as behind:
            assert [behind.ttl(name) > 60 for name in (names.live(TARGET), public.index("betty"))] == [True, True]


async def test_no_text_of_an_error_of_redis_is_logged(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def commit_durably(*_: Any) -> Any:
        raise ResponseError("ERR in 'EVALSHA' with args beginning with: 'PASSWORD=hunter2'")

    monkeypatch.setattr(Database, "commit_durably", commit_durably)
    with capture_logs() as logs:
        async with workshop.working():
            await workshop.client.submit([MachineRequest("one", spec())])
            await until("it is tried", lambda: any(line["event"] == "launch.interrupted" for line in logs))

    assert not [line for line in logs if "hunter2" in str(line) or "hunter2" in repr(line.get("exc_info"))]


async def test_a_wait_for_a_batch_that_no_worker_has_taken_waits(workshop: Workshop) -> None:
    batch = await workshop.client.submit([MachineRequest("one", spec())])
    waiting = asyncio.create_task(workshop.client.wait(batch_id=batch, wait=WaitFor.RUNNING, timeout_s=120))
    async with workshop.working():
        views = await waiting

    assert [(view.tag, view.phase) for view in views] == [("one", Phase.RUNNING)]


@pytest.mark.parametrize("count", [TAKE_REQUESTS, TAKE_REQUESTS + 1])
async def test_as_many_requests_as_are_read_at_once_are_settled_and_more_too(
    workshop: Workshop, hands: Hands, count: int
) -> None:
    async with workshop.working():
        await workshop.request("one")
    rewrite(workshop, KEY, observed_at=0.0)
    batches = [await workshop.client.submit([MachineRequest("one", spec())]) for _ in range(count)]
    async with workshop.working(quiet_sweep_s=600.0):
        for batch in (batches[0], batches[-1]):
            (view,) = await workshop.client.wait(batch_id=batch, tags=["one"], timeout_s=120)
            assert view.outcome is Outcome.EXISTING

        async def finished() -> bool:
            return await hands.store.activity.unfinished() == 0

        await eventually("nothing is left to do", finished)


async def test_a_key_of_which_nothing_is_known_is_not_moved_for_ever(workshop: Workshop, hands: Hands) -> None:
    with workshop.server.client() as behind:
        behind.sadd(names.in_phase(Phase.LAUNCHING), "betty/ghost")
        behind.zadd(names.MOVING, {"betty/ghost": 0})
        async with workshop.working():
            await until("it is let go", lambda: not behind.zcard(names.MOVING))
        assert behind.smembers(names.in_phase(Phase.LAUNCHING)) == set()


async def test_a_cancel_reaches_a_request_that_waits_for_ec2s_word(workshop: Workshop, hands: Hands) -> None:
    async with workshop.working():
        (view,) = await workshop.request("one")
    assert view.record
    workshop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])
    rewrite(workshop, KEY, observed_at=0.0, phase=Phase.RUNNING)
    batch = await workshop.client.submit([MachineRequest("one", spec())], origin=Origin.UP)
    await hands.take_requests()
    await workshop.client.cancel(["one"], batch_id=batch)
    await hands.take_requests()
    await hands.ensure(KEY)
    await hands.look_up(await hands.target())
    _, (told,) = await workshop.client.batch(batch)

    assert told.outcome is Outcome.CANCELLED
    assert told.phase is Phase.CANCELLED


async def test_a_worker_whose_clock_is_behind_begins_jobs_in_time(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arq.worker, "timestamp_ms", lambda: 0)
    async with workshop.working():
        (view,) = await workshop.request("one")

    assert view.phase is Phase.RUNNING


async def test_a_burst_ends_when_everybody_is_let_in(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one")
    await workshop.client.submit([MachineRequest("one", spec(ssh_from=("198.51.100.9/32",)))], origin=Origin.UP)
    await workshop.worker(burst=True).run()

    groups = workshop.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["puter-v1-betty"]}])
    assert "198.51.100.9/32" in str(groups["SecurityGroups"])


async def test_a_launch_that_is_put_off_does_not_go_back_to_its_look_up(workshop: Workshop, hands: Hands) -> None:
    async with workshop.working():
        await workshop.request("one")
    rewrite(workshop, KEY, phase=Phase.LAUNCHING, intent=None, instance_id=None)
    found = (await hands.store.records.read_one(KEY)).found()
    assert found
    await refused(hands.store, found, Ec2Error("ServiceUnavailable", "not now", handling=Handling.AGAIN))

    assert (await workshop.record("one")).phase is Phase.LAUNCHING


async def test_a_look_up_of_a_request_that_was_cancelled_does_not_swallow_the_next_ones(
    workshop: Workshop, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is read as queued, comes into its look-up, and is taken off it by the look-up of the request before."""
    await workshop.client.submit([MachineRequest("one", spec())])
    await hands.take_requests()
    target = await hands.target()
    with workshop.server.client() as behind:
        behind.zadd(names.look_ups(TARGET, "betty"), {"one": 0})  # left by a request that was cancelled
    real = hands.store.records.read

    async def read(keys: Any) -> Any:
        answer = await real(keys)
        monkeypatch.undo()
        await hands.ensure(KEY)
        return answer

    monkeypatch.setattr(hands.store.records, "read", read)
    await hands.look_up(target)

    assert (await workshop.record("one")).phase is Phase.RESOLVING
    assert hands.sorted(names.look_ups(TARGET, "betty")) == [b"one"]


@pytest.mark.parametrize("answers", [True, False], ids=["EC2 answers", "EC2 does not answer"])
async def test_a_look_at_a_machine_that_ends_meanwhile_does_not_swallow_that_of_its_next_one(
    workshop: Workshop, hands: Hands, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """A workload that failed is run again while a request of its key waits for EC2's word on the old machine."""
    async with workshop.working():
        await workshop.request("one")
    await workshop.client.submit([MachineRequest("one", spec())], origin=Origin.UP)
    await hands.take_requests()
    target = await hands.target()
    real = target.describe

    async def describe(ids: Any) -> Any:
        shown = await real(ids) if answers else None
        rewrite(workshop, KEY, phase=Phase.QUEUED, generation=2, instance_id=None)
        await hands.ensure(KEY)
        if shown is None:
            raise Ec2Error("ServiceUnavailable", "not now", handling=Handling.AGAIN)
        return shown

    monkeypatch.setattr(target, "describe", describe)
    await hands.look_up(target)

    record = await workshop.record("one")
    assert (record.phase, record.generation) == (Phase.RESOLVING, 2)
    assert hands.sorted(names.look_ups(TARGET, "betty")) == [b"one"]


async def test_a_living_machine_that_ec2_does_not_tell_of_is_not_among_what_must_move(
    workshop: Workshop, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would take it off there: it would be looked up for as long as it lives."""
    async with workshop.working():
        await workshop.request("one")

    async def describe(*_: Any) -> NoReturn:
        raise Ec2Error("ServiceUnavailable", "not now", handling=Handling.AGAIN)

    rewrite(workshop, KEY, observed_at=0.0)
    batch = await workshop.client.submit([MachineRequest("one", spec())])
    monkeypatch.setattr(Target, "describe", describe)
    await hands.take_requests()
    await hands.ensure(KEY)
    before = hands.store.now()
    await hands.look_up(await hands.target())
    after = hands.store.now()
    with workshop.server.client() as behind:
        again = behind.zscore(names.PARKED, str(KEY))
    _, (told,) = await workshop.client.batch(batch)

    assert hands.sorted(names.MOVING) == []
    assert again
    assert before + 5 <= again <= after + 5, "it is looked up again soon, for its request's sake"
    assert hands.sorted(names.look_ups(TARGET, "betty")) == []
    assert "ServiceUnavailable" in (told.reason or "")


async def test_a_launch_that_ends_while_it_is_seen_to_is_not_among_what_must_move(
    workshop: Workshop, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workshop.working():
        await workshop.request("one")
    now = (await hands.store.records.read_one(KEY)).found()
    assert now
    before = Versioned(now.value.replace(phase=Phase.LAUNCHING, intent="abc"), now.rev)

    async def record(_: PuterKey) -> Versioned[Record]:
        return before

    async def intent(_: str) -> Versioned[str]:
        return Versioned("open", b"1")

    monkeypatch.setattr(hands.store.records, "read_one", record)
    monkeypatch.setattr(hands.store.intents, "read", intent)
    await hands.ensure(KEY)

    assert hands.sorted(names.MOVING) == []
