"""Every stage run twice at once, and on what it read too long ago: of two that decide, one writes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract import transitions
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import Attempt, ErrorInfo, EventKind
from puter_client.contract.result import Result
from puter_client.store import names as public
from puter_worker.stages.quarantine import Adopter
from puter_worker.store import names
from puter_worker.store.targets import Leases
from puter_worker.store.txn import Txn
from tests.integration.stage_world import (
    TARGET,
    Hands,
    hands,
    one_machine_each,
    redis_keeps_its_rules,
    rewrite,
    until,
)
from tests.integration.workshop import PATIENCE_S, Workshop, spec

__all__ = ["hands", "redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")
KEY = PuterKey("betty", "one")
TAGS = [f"t-{n}" for n in range(12)]


async def test_many_leaders_launch_each_key_once(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def acquire(*_: object) -> float:
        return 0.0

    monkeypatch.setattr(Leases, "acquire", acquire)
    batch = await workshop.client.submit([MachineRequest(tag, spec()) for tag in TAGS])
    async with workshop.working(), workshop.working(), workshop.working():
        await workshop.client.wait(batch_id=batch, tags=TAGS, timeout_s=PATIENCE_S)

    await one_machine_each(workshop, "betty", TAGS)


async def test_a_job_that_runs_five_times_at_once_moves_its_key_once(hands: Hands) -> None:
    await hands.shop.client.submit([MachineRequest("one", spec())])
    await hands.take_requests()

    await asyncio.gather(*(hands.ensure(KEY) for _ in range(5)))

    record = await hands.shop.record("one")
    assert record.phase is Phase.RESOLVING
    assert hands.sorted(names.look_ups(TARGET, "betty")) == [b"one"]


async def test_two_look_ups_put_a_key_on_its_launch_queue_once(hands: Hands) -> None:
    target = await hands.until_looked_up()

    due = await hands.due_look_ups(target)

    await asyncio.gather(*(hands.look_up(target, due) for _ in range(4)))

    events = [event.event for event in await hands.shop.client.events("one")]
    assert events.count("launch.awaited") == 1
    assert hands.sorted(names.launch_queue(TARGET, "betty")) == [b"one"]
    assert hands.sorted(names.look_ups(TARGET, "betty")) == []


async def test_a_look_up_leaves_a_request_alone_that_was_withdrawn_meanwhile(hands: Hands) -> None:
    target = await hands.until_looked_up()
    look_up = target.look_up

    async def meanwhile(*args: object) -> object:
        await hands.shop.client.cancel(["one"])
        await hands.take_requests()
        return await look_up(*args)  # type: ignore[arg-type]

    target.look_up = meanwhile  # type: ignore[method-assign,assignment]

    await hands.look_up(target)

    assert (await hands.shop.record("one")).phase is Phase.CANCELLED
    assert hands.sorted(names.launch_queue(TARGET, "betty")) == []


@pytest.mark.parametrize(
    ("requested_s_ago", "ended_s_ago", "stale"),
    [(1.0, None, True), (7_200.0, 1.0, True), (7_200.0, 7_200.0, False), (7_200.0, None, False)],
)
async def test_a_machine_that_ended_a_moment_ago_is_not_adopted_though_ec2_still_shows_it(
    workshop: Workshop, hands: Hands, requested_s_ago: float, ended_s_ago: float | None, stale: bool
) -> None:
    """The key is at its second generation: by another request, or because its workload is run again."""
    async with workshop.working():
        await workshop.request("one")
    now = hands.store.now()
    attempt = Attempt(generation=1, result=Result.INTERRUPTED, ended_at=now - (ended_s_ago or 0.0))
    attempts = () if ended_s_ago is None else (attempt,)
    changes = {"instance_id": None, "created_at": now - requested_s_ago, "attempts": attempts}
    rewrite(workshop, KEY, phase=Phase.RESOLVING, generation=2, **changes)

    await hands.look_up(await hands.target(), [KEY])

    record = await workshop.record("one")
    assert ("EC2 still shows" in (record.reason or "")) is stale
    assert (record.phase, record.generation) == ((Phase.RESOLVING, 2) if stale else (Phase.RUNNING, 1))


async def test_observing_twice_at_once_tells_an_end_once(workshop: Workshop, hands: Hands) -> None:
    async with workshop.working(quiet_sweep_s=600.0):
        (view,) = await workshop.request("one")
        assert view.record
        workshop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])
        target = await hands.target()
        await asyncio.gather(*(hands.observer(target).look_at([KEY]) for _ in range(4)))
        events = [event.event for event in await workshop.client.events("one")]

    assert events.count("instance.terminated") == 1


async def test_an_observer_that_saw_a_machine_end_looks_at_the_next_one_of_its_key(
    workshop: Workshop, hands: Hands
) -> None:
    observer = hands.observer(await hands.target())
    for generation in (1, 2):
        async with workshop.working():
            (view,) = await workshop.request("one")
        assert view.record
        workshop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])

        await observer.look_at([KEY])

        record = await workshop.record("one")
        assert (record.phase, record.generation) == (Phase.TERMINATED, generation)


async def test_labelling_and_letting_in_twice_at_once_is_harmless(workshop: Workshop, hands: Hands) -> None:
    async with workshop.working():
        await workshop.request("one")
        with workshop.server.client() as behind:
            behind.zadd(names.due("labels", TARGET), {"betty/one#1": 0})
        target = await hands.target()
        await asyncio.gather(*(hands.write_labels(target) for _ in range(3)))
        await workshop.request("one", ssh_from=("198.51.100.0/24",))
        await asyncio.gather(*(hands.open_ingress() for _ in range(3)))
        with workshop.server.client() as behind:
            await until("nothing is left to do", lambda: not behind.exists(names.due("labels", TARGET), names.INGRESS))

    (instance,) = workshop.instances()
    assert workshop.tags(instance["InstanceId"])["puter:tag"] == "one"


async def test_a_label_of_an_earlier_generation_is_dropped(workshop: Workshop, hands: Hands) -> None:
    async with workshop.working():
        await workshop.request("one")
        with workshop.server.client() as behind:
            behind.zadd(names.due("labels", TARGET), {"betty/one#7": 0})
        await hands.write_labels(await hands.target())

    (instance,) = workshop.instances()
    assert workshop.tags(instance["InstanceId"])["puter:generation"] == "1"


async def test_what_was_read_too_long_ago_is_not_written(hands: Hands) -> None:
    await hands.shop.client.submit([MachineRequest("one", spec())])
    await hands.take_requests()
    stale = (await hands.store.records.read_one(KEY)).found()
    assert stale
    await hands.ensure(KEY)
    now, txn = hands.store.now(), Txn()
    failed = transitions.failed(
        stale.value, ErrorInfo(code="Old", message="decided on what was read too long ago"), now
    )
    hands.store.records.put(txn, stale, failed, event=EventKind.PUTER_FAILED)
    hands.store.launch_queue.add(txn, TARGET, KEY, now)

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
    assert "use another tag, or run workers of the version that wrote it" in (view.reason or "")
    assert len(workshop.instances()) == 1


async def test_a_machine_is_adopted_though_its_record_changes_at_that_moment(
    workshop: Workshop, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Redis has forgotten it; meanwhile the key is requested again, for another region, and its reason is written."""
    async with workshop.working():
        await workshop.request("one")
    with workshop.server.client() as behind:
        behind.flushall()
    await workshop.client.submit([MachineRequest("one", spec(region="us-west-2"))])
    await hands.take_requests()
    real, changes = hands.store.records.read_one, iter(["first", "second"])

    async def read_one(key: PuterKey) -> Any:
        stored = await real(key)
        for reason in changes:
            rewrite(workshop, key, reason=reason)
            break
        return stored

    monkeypatch.setattr(hands.store.records, "read_one", read_one)
    await Adopter(hands.store, await hands.target(), workshop.timings).adopt_living()

    (instance,) = workshop.instances("running")
    record = await workshop.record("one")
    assert (record.phase, record.instance_id) == (Phase.RUNNING, instance["InstanceId"])
