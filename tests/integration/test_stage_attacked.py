"""One client, or bad luck, against everybody: what must not stop, lose or forget anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NoReturn

import arq.worker
import msgspec
import pytest
from redis.asyncio import Redis
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
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.stages import resolve as stage
from puter_worker.stages.ensure import ensure, refused
from puter_worker.stages.intake import intake
from puter_worker.stages.observe import observe
from puter_worker.stages.resolve import resolve
from puter_worker.store import names
from puter_worker.store.base import Kept, Stored
from puter_worker.store.inboxes import TAKE_REQUESTS
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target, Targets
from puter_worker.worker import Worker
from tests.integration.stage_world import TARGET, keys_for_good, until
from tests.integration.workshop import Workshop, spec

KEY = PuterKey("betty", "one")


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look-up does not wait for others."""
    monkeypatch.setattr(stage, "IDLE_S", 0.0)


@pytest.fixture
async def store(workshop: Workshop) -> AsyncIterator[WorkerStore]:
    redis = Redis.from_url(workshop.server.url)
    opened = WorkerStore(redis)
    await opened.set_clock()
    yield opened
    await redis.aclose()


def rewrite(shop: Workshop, **changes: Any) -> None:
    with shop.server.client() as behind:
        raw = behind.hget(public.record(KEY), "doc")
        assert raw
        changed = msgspec.json.decode(raw, type=Record).replace(**changes)
        behind.hset(public.record(KEY), "doc", msgspec.json.encode(changed))
        behind.hincrby(public.record(KEY), "rev", 1)


async def test_a_parked_request_is_settled_also_if_observe_sees_the_end_first(workshop: Workshop) -> None:
    async with workshop.working():
        (view,) = await workshop.request("one")
    assert view.record
    workshop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])
    rewrite(workshop, observed_at=0.0)
    batch = await workshop.client.submit([MachineRequest("one", spec())], origin=Origin.UP)
    async with workshop.working():
        (second,) = await workshop.client.wait(batch_id=batch, tags=["one"], timeout_s=30)

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
            await until("the ready set is a set again", lambda: behind.type(public.READY) != b"list", for_s=10)
            (view,) = await workshop.request("one")

    assert view.phase is Phase.RUNNING


async def test_a_bell_for_what_is_no_text_falls_silent(workshop: Workshop, store: WorkerStore) -> None:
    with workshop.server.client() as behind:
        behind.sadd(public.READY, b"\xff\xfe")
        await intake(store, await store.ready_namespaces())

        assert behind.smembers(public.READY) == set()


async def test_a_backlog_that_is_put_back_keeps_its_end(workshop: Workshop, store: WorkerStore) -> None:
    await workshop.client.submit([MachineRequest("one", spec())])
    await intake(store, ["betty"])
    with workshop.server.client() as behind:
        behind.set("arq:in-progress:betty/one", "1", px=20_000)  # its job runs elsewhere
        await store.feed()

        assert keys_for_good(behind) == []


async def test_a_targets_list_of_the_living_lives_as_long_as_they_do(workshop: Workshop, store: WorkerStore) -> None:
    async with workshop.working() as worker:
        await workshop.request("one", ttl_s=None)
        with workshop.server.client() as behind:
            for name in (names.live(TARGET), public.index("betty")):
                behind.expire(name, 60)
        targets: Targets = worker._targets
        (target,) = targets._targets.values()
        await observe(store, target, [PuterKey("betty", "one")])
        with workshop.server.client() as behind:
            assert [behind.ttl(name) > 60 for name in (names.live(TARGET), public.index("betty"))] == [True, True]


async def test_no_text_of_an_error_of_redis_is_logged(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def commit_durably(*_: Any) -> Any:
        raise ResponseError("ERR in 'EVALSHA' with args beginning with: 'PASSWORD=hunter2'")

    monkeypatch.setattr(WorkerStore, "commit_durably", commit_durably)
    with capture_logs() as logs:
        async with workshop.working():
            await workshop.client.submit([MachineRequest("one", spec())])
            await until("it is tried", lambda: any(line["event"] == "launch.interrupted" for line in logs))

    assert not [line for line in logs if "hunter2" in str(line) or "hunter2" in repr(line.get("exc_info"))]


async def test_a_wait_for_a_batch_that_no_worker_has_taken_waits(workshop: Workshop) -> None:
    batch = await workshop.client.submit([MachineRequest("one", spec())])
    waiting = asyncio.create_task(workshop.client.wait(batch_id=batch, wait=WaitFor.RUNNING, timeout_s=30))
    async with workshop.working():
        views = await waiting

    assert [(view.tag, view.phase) for view in views] == [("one", Phase.RUNNING)]


@pytest.mark.parametrize("count", [TAKE_REQUESTS, TAKE_REQUESTS + 1])
async def test_as_many_requests_as_are_read_at_once_are_settled_and_more_too(
    workshop: Workshop, store: WorkerStore, count: int
) -> None:
    async with workshop.working():
        await workshop.request("one")
    rewrite(workshop, observed_at=0.0)
    batches = [await workshop.client.submit([MachineRequest("one", spec())]) for _ in range(count)]
    async with workshop.working(quiet_sweep_s=600.0):
        (view,) = await workshop.client.wait(batch_id=batches[-1], tags=["one"], timeout_s=20)

    assert view.outcome is Outcome.EXISTING
    assert await store.unfinished() == 0


async def test_a_key_of_which_nothing_is_known_is_not_moved_for_ever(workshop: Workshop, store: WorkerStore) -> None:
    with workshop.server.client() as behind:
        behind.zadd(names.MOVING, {"betty/ghost": 0})
        async with workshop.working():
            await until("it is let go", lambda: not behind.zcard(names.MOVING))


@pytest.mark.usefixtures("at_once")
async def test_a_cancel_reaches_a_request_that_waits_for_ec2s_word(
    workshop: Workshop, store: WorkerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workshop.working() as worker:
        (view,) = await workshop.request("one")
        targets: Targets = worker._targets
        target = await targets.find(None, "us-east-1")
    assert view.record
    workshop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])
    rewrite(workshop, observed_at=0.0, phase=Phase.RUNNING)
    batch = await workshop.client.submit([MachineRequest("one", spec())], origin=Origin.UP)
    await intake(store, ["betty"])
    await workshop.client.cancel(["one"], batch_id=batch)
    await intake(store, ["betty"])
    await ensure(store, targets, KEY)
    await resolve(store, target, "betty")
    await targets.sessions.aclose()
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
    await Worker(workshop.settings(burst=True)).run()

    groups = workshop.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["puter-v1"]}])
    assert "198.51.100.9/32" in str(groups["SecurityGroups"])


async def test_a_launch_that_is_put_off_does_not_go_back_to_its_look_up(workshop: Workshop, store: WorkerStore) -> None:
    async with workshop.working():
        await workshop.request("one")
    rewrite(workshop, phase=Phase.LAUNCHING, intent=None, instance_id=None)
    kept = (await store.record(KEY)).kept
    assert kept
    await refused(store, kept, Ec2Error("ServiceUnavailable", "not now", handling=Handling.AGAIN))

    assert (await workshop.record("one")).phase is Phase.LAUNCHING


async def test_a_look_up_of_a_request_that_was_withdrawn_does_not_swallow_the_next_ones(
    workshop: Workshop, store: WorkerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is read as queued, comes into its look-up, and is taken off it by the look-up of the request before."""
    await workshop.client.submit([MachineRequest("one", spec())])
    await intake(store, ["betty"])
    async with workshop.working() as worker:  # lends its targets
        worker.stop()
        targets: Targets = worker._targets
        target = await targets.find(None, "us-east-1")
        with workshop.server.client() as behind:
            behind.zadd(names.look_ups(TARGET, "betty"), {"one": 0})  # left by a request that was withdrawn
        real = store.records

        async def records(keys: Any) -> Any:
            answer = await real(keys)
            monkeypatch.undo()
            await ensure(store, targets, KEY)
            return answer

        monkeypatch.setattr(store, "records", records)
        await resolve(store, target, "betty")
        with workshop.server.client() as behind:
            assert behind.zrange(names.look_ups(TARGET, "betty"), 0, -1) == [b"one"]


@pytest.mark.usefixtures("at_once")
async def test_a_living_machine_that_ec2_does_not_tell_of_is_not_among_what_must_move(
    workshop: Workshop, store: WorkerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would take it off there: it would be looked up for as long as it lives."""
    async with workshop.working() as worker:
        await workshop.request("one")
        targets: Targets = worker._targets
        target = await targets.find(None, "us-east-1")

    async def describe(*_: Any) -> NoReturn:
        raise Ec2Error("ServiceUnavailable", "not now", handling=Handling.AGAIN)

    rewrite(workshop, observed_at=0.0)
    batch = await workshop.client.submit([MachineRequest("one", spec())])
    monkeypatch.setattr(Target, "describe", describe)
    await intake(store, ["betty"])
    await ensure(store, targets, KEY)
    await resolve(store, target, "betty")
    with workshop.server.client() as behind:
        assert behind.zrange(names.MOVING, 0, -1) == []
        again = behind.zscore(names.PARKED, str(KEY))
        assert again
        assert 4 < again - store.now() <= 5, "it is looked up again soon, for its request's sake"
        assert behind.zrange(names.look_ups(TARGET, "betty"), 0, -1) == []
    _, (told,) = await workshop.client.batch(batch)

    assert "ServiceUnavailable" in (told.reason or "")


async def test_a_launch_that_ends_while_it_is_seen_to_is_not_among_what_must_move(
    workshop: Workshop, store: WorkerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with workshop.working() as worker:
        await workshop.request("one")
        targets: Targets = worker._targets
    now = (await store.record(KEY)).kept
    assert now
    before = Kept(now.value.replace(phase=Phase.LAUNCHING, intent="abc"), now.rev)

    async def record(_: PuterKey) -> Stored[Record]:
        return Stored(before.value, before.rev)

    async def intent(_: str) -> Stored[str]:
        return Stored("open", b"1")

    monkeypatch.setattr(store, "record", record)
    monkeypatch.setattr(store, "intent", intent)
    await ensure(store, targets, KEY)
    with workshop.server.client() as behind:
        assert behind.zrange(names.MOVING, 0, -1) == []
