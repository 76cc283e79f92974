"""Every stage run twice at once, and on what it read too long ago: of two that decide, one writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.store import names as public
from puter_worker.stages.admit import admit
from puter_worker.stages.ensure import ensure
from puter_worker.stages.intake import intake
from puter_worker.stages.label import label
from puter_worker.stages.observe import observe
from puter_worker.stages.resolve import resolve
from puter_worker.store import names
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target
from puter_worker.worker import Worker
from tests.integration.stage_world import TARGET, one_machine_each, redis_keeps_its_rules, time_passes, until
from tests.integration.workshop import Workshop, spec

__all__ = ["redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")
KEY = PuterKey("betty", "one")
TAGS = [f"t-{n}" for n in range(12)]


async def test_many_leaders_launch_each_key_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lease(*_: object) -> bool:
        return True

    monkeypatch.setattr(WorkerStore, "lease", lease)
    batch = await workshop.client.submit([MachineRequest(tag, spec()) for tag in TAGS])
    async with workshop.working(), workshop.working(), workshop.working():
        await workshop.client.wait(batch_id=batch, tags=TAGS, timeout_s=40)

    await one_machine_each(workshop, "betty", TAGS)


async def test_a_job_that_runs_five_times_at_once_moves_its_key_once(hands: Hands) -> None:
    await hands.shop.client.submit([MachineRequest("one", spec())])
    await intake(hands.store, ["betty"])

    await asyncio.gather(*(ensure(hands.store, hands.worker._targets, KEY) for _ in range(5)))

    record = await hands.shop.record("one")
    assert record.phase is Phase.RESOLVING
    assert hands.sorted(names.look_ups(TARGET, "betty")) == [b"one"]


async def test_two_look_ups_put_a_key_on_its_launch_queue_once(hands: Hands) -> None:
    target = await hands.until_looked_up()

    async def again() -> None:
        time_passes(hands.shop)
        await resolve(hands.store, target, "betty")

    await asyncio.gather(*(again() for _ in range(4)))

    events = [event.event for event in await hands.shop.client.events("one")]
    assert events.count("launch.awaited") == 1
    assert hands.sorted(names.launch_queue(TARGET, "betty")) == [b"one"]
    assert hands.sorted(names.look_ups(TARGET, "betty")) == []


async def test_a_look_up_leaves_a_request_alone_that_was_withdrawn_meanwhile(hands: Hands) -> None:
    target = await hands.until_looked_up()
    look_up = target.look_up

    async def meanwhile(*args: object) -> object:
        await hands.shop.client.cancel(["one"])
        await intake(hands.store, ["betty"])
        return await look_up(*args)  # type: ignore[arg-type]

    target.look_up = meanwhile  # type: ignore[method-assign,assignment]

    await resolve(hands.store, target, "betty")

    assert (await hands.shop.record("one")).phase is Phase.CANCELLED
    assert hands.sorted(names.launch_queue(TARGET, "betty")) == []


async def test_observing_twice_at_once_tells_an_end_once(workshop: Workshop) -> None:
    async with workshop.working(quiet_sweep_s=600.0) as worker:
        (view,) = await workshop.request("one")
        assert view.record
        workshop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])
        (target,) = worker._targets._targets.values()
        await asyncio.gather(*(observe(worker.store, target, [KEY]) for _ in range(4)))
        events = [event.event for event in await workshop.client.events("one")]

    assert events.count("instance.terminated") == 1


async def test_labelling_and_admitting_twice_at_once_is_harmless(workshop: Workshop) -> None:
    async with workshop.working() as worker:
        await workshop.request("one")
        with workshop.server.client() as behind:
            behind.zadd(names.labels(TARGET), {"betty/one#1": 0})
        await asyncio.gather(*(label(worker.store, next(iter(worker._targets._targets.values()))) for _ in range(3)))
        await workshop.request("one", ssh_from=("198.51.100.0/24",))
        await asyncio.gather(*(admit(worker.store, worker._targets) for _ in range(3)))
        with workshop.server.client() as behind:
            await until("nothing is left to do", lambda: not behind.exists(names.labels(TARGET), names.ADMISSIONS))

    (instance,) = workshop.instances()
    assert workshop.tags(instance["InstanceId"])["puter:tag"] == "one"


async def test_a_label_of_an_earlier_generation_is_dropped(workshop: Workshop) -> None:
    async with workshop.working() as worker:
        await workshop.request("one")
        with workshop.server.client() as behind:
            behind.zadd(names.labels(TARGET), {"betty/one#7": 0})
        await label(worker.store, next(iter(worker._targets._targets.values())))

    (instance,) = workshop.instances()
    assert workshop.tags(instance["InstanceId"])["puter:generation"] == "1"


async def test_what_was_read_too_long_ago_is_not_written(hands: Hands) -> None:
    await hands.shop.client.submit([MachineRequest("one", spec())])
    await intake(hands.store, ["betty"])
    stale = (await hands.store.record(KEY)).kept
    assert stale
    await ensure(hands.store, hands.worker._targets, KEY)
    now, txn = hands.store.now(), Txn()
    hands.store.put_record(txn, stale, stale.value.replace(phase=Phase.FAILED), event="puter.failed")
    hands.store.put_on_launch_queue(txn, KEY, TARGET, now)

    assert await hands.store.commit(txn) == [0]

    assert (await hands.shop.record("one")).phase is Phase.RESOLVING
    assert hands.sorted(names.launch_queue(TARGET, "betty")) == []


async def test_nothing_is_launched_where_a_record_cannot_be_read(workshop: Workshop) -> None:
    """It may be of a newer version, and its machine not to be seen in EC2 yet."""
    async with workshop.working():
        await workshop.request("one")
    with workshop.server.client() as behind:
        behind.hset(public.record(KEY), "doc", b'{"v":99}')
    async with workshop.working():
        (view,) = await workshop.request("one")

    assert view.outcome is Outcome.REFUSED
    assert "use another tag, or workers of the version that wrote it" in (view.reason or "")
    assert len(workshop.instances()) == 1


# -- by hand ---------------------------------------------------------------------------------------------------------


class Hands:
    """A worker that does nothing by itself: the test runs its stages.

    Attributes:
        shop: its world.
        worker: the worker.
        store: its view of Redis.
    """

    def __init__(self, shop: Workshop, worker: Worker) -> None:
        self.shop = shop
        self.worker = worker
        self.store = worker.store

    async def until_looked_up(self) -> Target:
        """Request the key `one`, and take it as far as its look-up; its target."""
        await self.shop.client.submit([MachineRequest("one", spec())])
        await intake(self.store, ["betty"])
        await ensure(self.store, self.worker._targets, KEY)
        return await self.worker._targets.find(None, "us-east-1")

    def sorted(self, name: str) -> list[bytes]:
        """What a sorted set holds."""
        with self.shop.server.client() as behind:
            return list(behind.zrange(name, 0, -1))


@pytest.fixture
async def hands(workshop: Workshop) -> AsyncIterator[Hands]:
    """A worker whose stages the test runs."""
    worker = Worker(workshop.settings())
    await worker.store.set_clock()
    yield Hands(workshop, worker)
    await worker._sessions.aclose()
    redis: Redis = worker._redis
    await redis.aclose()
    await redis.connection_pool.disconnect()
