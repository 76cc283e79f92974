"""A key whose requests name one target after another: it is launched only where its record says, and once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import boto3
import pytest

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.view import WaitFor
from puter_worker.errors import Ec2Error, Handling, PrepareTimedOut
from puter_worker.memory import Memory
from puter_worker.stages import launch_unit
from puter_worker.stages.backoffs import capacity_name
from puter_worker.stages.launch import Launch
from puter_worker.stages.quarantine import Quarantine
from puter_worker.store import names
from puter_worker.store.backoff import Backoff
from puter_worker.store.intent import Place
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from tests.integration.stage_world import TARGET, Hands, hands, redis_keeps_its_rules, until
from tests.integration.workshop import Workshop, spec

__all__ = ["hands", "redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")
KEY = PuterKey("betty", "one")
EAST, WEST = "us-east-1", "us-west-2"
WEST_TARGET = f"123456789012:{WEST}:"
Meanwhile = Callable[[], Awaitable[None]]


@pytest.fixture
def west(workshop: Workshop) -> Iterator[Any]:
    """A plain boto3 client of the second region."""
    client: Any = boto3.client("ec2", region_name=WEST, endpoint_url=workshop.endpoint)
    yield client
    client.close()


def held(ec2: Any) -> list[str]:
    """The ids of every instance that a region holds."""
    answer = ec2.describe_instances()
    return [one["InstanceId"] for reservation in answer["Reservations"] for one in reservation["Instances"]]


def launch_queue(hands: Hands, target: str = TARGET) -> list[bytes]:
    return hands.sorted(names.launch_queue(target, "betty"))


def look_ups(hands: Hands, target: str = TARGET) -> list[bytes]:
    return hands.sorted(names.look_ups(target, "betty"))


def all_due(hands: Hands, target: str = TARGET) -> None:
    """What waits in a launch queue has waited long enough."""
    with hands.shop.server.client() as behind:
        name = names.launch_queue(target, "betty")
        for tag in behind.zrange(name, 0, -1):
            behind.zadd(name, {tag: 0}, xx=True)


async def request(hands: Hands, *, most: int | None = None, **fields: Any) -> str:
    """Request the key and have the request taken; the id of its batch."""
    batch = await hands.shop.client.submit([MachineRequest("one", spec(**fields))], max_parallel=most)
    await hands.take_requests()
    return batch


async def cancel(hands: Hands) -> None:
    """Cancel the key's request, and have that taken."""
    await hands.shop.client.cancel(["one"])
    await hands.take_requests()
    assert (await hands.shop.record("one")).phase is Phase.CANCELLED


async def moved_west(hands: Hands) -> tuple[Target, Target]:
    """The key was requested in the east, cancelled before its look-up, and requested in the west; both targets."""
    await request(hands, region=EAST)
    await hands.ensure(KEY)
    await cancel(hands)
    await request(hands, region=WEST)
    await hands.ensure(KEY)
    east, west = [await hands.targets.find(None, region) for region in (EAST, WEST)]
    assert (str(east), str(west)) == (TARGET, WEST_TARGET)
    assert look_ups(hands, WEST_TARGET) == [b"one"]
    return east, west


def launcher(hands: Hands, target: Target) -> Launch:
    """launch, as a leader has it."""
    store, timings = hands.store, hands.shop.timings
    gate = Quarantine(
        store, target, Memory(None, clock=store.db.clock), clock=store.db.clock, timings=timings, quarantine_s=0.0
    )
    return Launch(store, target, gate, timings, most=1)


async def launch(hands: Hands, target: Target, stage: Launch | None = None) -> None:
    """One run of launch, and of the launches that it begins."""
    all_due(hands, str(target))
    stage = stage or launcher(hands, target)
    await stage.run_once()
    await stage.drain()


async def look_up_left(hands: Hands, target: Target) -> None:
    """resolve runs by itself, with a look-up of the key that is due for long, until all that it begins has ended."""
    txn = Txn()
    hands.store.look_ups.add(txn, str(target), KEY, 0)
    await hands.store.commit(txn)
    stage = hands.resolver(target)
    await stage.run_once()
    await stage.drain()
    await stage.run_once()  # raises what has failed


# -- another target ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_itself", [False, True])
async def test_a_look_up_that_a_cancelled_request_left_launches_nothing_there(
    hands: Hands, west: Any, by_itself: bool
) -> None:
    first, second = await moved_west(hands)

    if by_itself:
        await look_up_left(hands, first)
    else:
        await hands.look_up(first, [KEY])  # by a leader that saw it due before it was cancelled

    assert launch_queue(hands, TARGET) == []
    assert look_ups(hands, TARGET) == []
    assert look_ups(hands, WEST_TARGET) == [b"one"]
    await launch(hands, first)
    assert held(hands.shop.ec2) == []

    await hands.look_up(second)
    assert launch_queue(hands, WEST_TARGET) == [b"one"]
    await launch(hands, second)

    record = await hands.shop.record("one")
    assert held(west) == [record.instance_id]
    assert record.target == WEST_TARGET
    assert held(hands.shop.ec2) == []


async def test_what_another_targets_launch_queue_holds_of_a_key_is_not_launched_there(hands: Hands, west: Any) -> None:
    first, second = await moved_west(hands)
    await hands.look_up(second)
    now, txn = hands.store.now(), Txn()
    hands.store.launch_queue.add(txn, TARGET, KEY, now)  # left by a request that was cancelled
    await hands.store.commit(txn)

    await launch(hands, first)

    assert held(hands.shop.ec2) == []
    assert launch_queue(hands, TARGET) == []
    assert launch_queue(hands, WEST_TARGET) == [b"one"]
    await launch(hands, second)
    assert len(held(west)) == 1


async def test_a_launch_that_has_begun_ends_where_its_key_is_requested_for_another_target(
    hands: Hands, monkeypatch: pytest.MonkeyPatch, west: Any
) -> None:
    await request(hands, region=EAST)
    await hands.ensure(KEY)
    first = await hands.target()
    await hands.look_up(first)

    async def move() -> None:
        await cancel(hands)
        await request(hands, region=WEST)
        await hands.ensure(KEY)

    moved = after_the_next_read(hands, monkeypatch, move)
    await launch(hands, first)

    assert moved
    assert held(hands.shop.ec2) == []
    second = await hands.targets.find(None, WEST)
    await hands.look_up(second)
    for target in (first, second):
        await launch(hands, target)
    assert held(hands.shop.ec2) == []
    assert len(held(west)) == 1
    assert launch_queue(hands, TARGET) == launch_queue(hands, WEST_TARGET) == []


async def test_workers_launch_a_key_that_moved_only_where_it_is_requested_now(hands: Hands, west: Any) -> None:
    await moved_west(hands)
    async with hands.shop.working(), hands.shop.working():
        (view,) = await hands.shop.client.wait(tags=["one"], wait=WaitFor.RUNNING, timeout_s=120)
        await until("nothing is left to look up in the east", lambda: not look_ups(hands, TARGET))

    assert view.record
    assert held(west) == [view.record.instance_id]
    assert held(hands.shop.ec2) == []


# -- a record that ensure has delayed ---------------------------------------------------------------------------------


async def delayed_once(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> Target:
    """The key's job was delayed, for its account could not be read, then its look-up was done; its target."""

    async def find(*_: object) -> Target:
        raise Ec2Error("ServiceUnavailable", "not now", handling=Handling.AGAIN)

    await request(hands)
    with monkeypatch.context() as broken:
        broken.setattr(hands.targets, "find", find)
        await hands.ensure(KEY)
    delayed = await hands.shop.record("one")
    assert (delayed.phase, delayed.target) == (Phase.RESOLVING, None)
    await hands.ensure(KEY)
    target = await hands.target()
    await hands.look_up(target)
    return target


async def test_a_record_that_was_delayed_names_its_target_when_it_waits_for_its_launch(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    await delayed_once(hands, monkeypatch)

    record = await hands.shop.record("one")
    assert (record.phase, record.target) == (Phase.LAUNCHING, TARGET)
    assert launch_queue(hands) == [b"one"]


async def test_a_cancel_takes_a_key_that_was_delayed_off_its_launch_queue(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    await delayed_once(hands, monkeypatch)

    await cancel(hands)

    assert launch_queue(hands) == []


async def test_a_key_that_was_delayed_is_launched(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> None:
    target = await delayed_once(hands, monkeypatch)

    await launch(hands, target)

    assert held(hands.shop.ec2) == [(await hands.shop.record("one")).instance_id]


# -- a cancel while launch puts a key off -----------------------------------------------------------------------------


async def put_off_in_parallel(hands: Hands, _: pytest.MonkeyPatch) -> str:
    """The key's batch is full; the reason that the key is told."""
    batch = await request(hands, most=1)
    with hands.shop.server.client() as behind:
        behind.sadd(names.parallel("betty", batch), "another")
        behind.expire(names.parallel("betty", batch), 600)
    return "waiting for one of the batch's 1 machines to end (max_parallel)"


async def put_off_for_capacity(hands: Hands, _: pytest.MonkeyPatch) -> str:
    """The only place that the key may be launched in is dry; the reason that the key is told."""
    subnet = hands.shop.ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    await request(hands, subnet=subnet)
    why, now, txn = "no capacity here", hands.store.now(), Txn()
    dry = Backoff(now + hands.shop.timings.no_capacity_s, 1, why, since=now)
    place = Place(spec().instance_type, subnet=subnet)
    hands.store.backoffs.put(txn, TARGET, capacity_name(place), dry)
    await hands.store.commit(txn)
    return why


async def put_off_unprepared(hands: Hands, monkeypatch: pytest.MonkeyPatch) -> str:
    """The key's launch cannot be prepared now; a part of the reason that the key is told."""

    async def prepare(*_: object) -> object:
        raise PrepareTimedOut("EC2 did not answer in time")

    await request(hands)
    monkeypatch.setattr(launch_unit, "prepare", prepare)
    return "EC2 did not answer in time"


def after_the_next_read(hands: Hands, monkeypatch: pytest.MonkeyPatch, meanwhile: Meanwhile) -> list[str]:
    """Once the key's record has been read next, something happens before the reader goes on; told when it has."""
    real, done = hands.store.records.read, list[str]()

    async def read(keys: Sequence[PuterKey]) -> list[Versioned[Record | None]]:
        answer = await real(keys)
        if KEY in keys and not done:
            done.append("done")
            await meanwhile()
        return answer

    monkeypatch.setattr(hands.store.records, "read", read)
    return done


@pytest.mark.parametrize("told_before", [False, True])
@pytest.mark.parametrize("put_off", [put_off_in_parallel, put_off_for_capacity, put_off_unprepared])
async def test_a_key_that_is_cancelled_while_launch_puts_it_off_stays_off_its_launch_queue(
    hands: Hands,
    monkeypatch: pytest.MonkeyPatch,
    put_off: Callable[[Hands, pytest.MonkeyPatch], Awaitable[str]],
    told_before: bool,
) -> None:
    """Also if its record says already why it waits, so that nothing of it is to be written."""
    reason = await put_off(hands, monkeypatch)
    await hands.ensure(KEY)
    target = await hands.target()
    await hands.look_up(target)
    stage = launcher(hands, target)
    if told_before:
        await launch(hands, target, stage)
        assert reason in ((await hands.shop.record("one")).reason or "")
    assert launch_queue(hands) == [b"one"]

    cancelled = after_the_next_read(hands, monkeypatch, lambda: cancel(hands))
    await launch(hands, target, stage)

    assert cancelled
    assert (await hands.shop.record("one")).phase is Phase.CANCELLED
    assert launch_queue(hands) == []


@pytest.mark.parametrize("put_off", [put_off_in_parallel, put_off_for_capacity, put_off_unprepared])
async def test_a_key_that_launch_puts_off_stays_in_its_launch_queue(
    hands: Hands,
    monkeypatch: pytest.MonkeyPatch,
    put_off: Callable[[Hands, pytest.MonkeyPatch], Awaitable[str]],
) -> None:
    hands.shop.hurry(parallel_again_s=3_600.0, launch_again_s=3_600.0)
    reason = await put_off(hands, monkeypatch)
    await hands.ensure(KEY)
    target = await hands.target()
    await hands.look_up(target)
    for _ in range(3):
        await launch(hands, target)

        assert reason in ((await hands.shop.record("one")).reason or "")
        assert launch_queue(hands) == [b"one"]
        with hands.shop.server.client() as behind:
            at = behind.zscore(names.launch_queue(TARGET, "betty"), "one")
        assert at
        assert at > hands.store.now(), "it is looked at again later"


# -- ensure, a second time --------------------------------------------------------------------------------------------


async def test_a_job_that_runs_again_does_not_look_up_what_waits_for_its_launch(hands: Hands) -> None:
    target = await hands.until_looked_up()
    await hands.look_up(target)

    await hands.ensure(KEY)

    assert (await hands.shop.record("one")).phase is Phase.LAUNCHING
    assert look_ups(hands) == []
    assert launch_queue(hands) == [b"one"]


@pytest.mark.parametrize("taken_up", [False, True])
async def test_a_job_that_read_a_record_too_long_ago_looks_nothing_up(
    hands: Hands, monkeypatch: pytest.MonkeyPatch, taken_up: bool
) -> None:
    """`taken_up`: whether the job finds the key resolving, not queued."""
    await request(hands)
    target = await hands.target()
    if taken_up:
        await hands.ensure(KEY)
    real = hands.targets.find

    async def find(profile: str | None, region: str | None) -> Target:
        slow.undo()
        await hands.ensure(KEY)
        await hands.look_up(target)
        assert (await hands.shop.record("one")).phase is Phase.LAUNCHING
        return await real(profile, region)

    with monkeypatch.context() as slow:
        slow.setattr(hands.targets, "find", find)
        await hands.ensure(KEY)

    assert look_ups(hands) == []
    assert launch_queue(hands) == [b"one"]
    assert (await hands.shop.record("one")).phase is Phase.LAUNCHING


async def test_a_job_that_read_a_request_before_it_was_cancelled_looks_nothing_up(
    hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    await request(hands, region=EAST)
    await hands.ensure(KEY)
    target = await hands.target()
    real = hands.targets.find

    async def find(profile: str | None, region: str | None) -> Target:
        slow.undo()
        await cancel(hands)
        if look_ups(hands):
            await hands.look_up(target)
        assert look_ups(hands) == []
        return await real(profile, region)

    with monkeypatch.context() as slow:
        slow.setattr(hands.targets, "find", find)
        await hands.ensure(KEY)

    assert look_ups(hands) == []
