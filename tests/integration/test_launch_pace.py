"""The pace of launches: inside EC2's budget, fair between namespaces, and honest about the wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from puter_client.client import PuterClient
from puter_client.contract.phase import Phase
from puter_client.view import WaitFor
from puter_worker import lead, pacer
from puter_worker.pacer import INSTANCES, Bucket, Pacer
from puter_worker.stages import explain, launch
from puter_worker.store import names
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target
from tests.ec2sim.config import Fault
from tests.ec2sim.ledger import Entry
from tests.integration.sim_workshop import (
    TARGET,
    SimWorkshop,
    eventually,
    in_groups,
    no_capacity,
    sim_url,
    sim_workshop,
)

__all__ = ["in_groups", "sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(100)]


def tokens(shop: SimWorkshop, name: str) -> float:
    """What a bucket was left with when it was last looked at."""
    with shop.server.client() as behind:
        return float(behind.hget(names.bucket(TARGET[:12], "us-east-1", name), "tokens") or "nan")


async def launches_between(shop: SimWorkshop, client: PuterClient, tag: str) -> list[Entry]:
    """Calls by which others were launched while a key stood in the launch queue, by its timeline and the ledger."""
    (awaited,) = [event.at for event in await client.events(tag) if event.event == "launch.awaited"]
    (record,) = await shop.records(tag, client=client)
    calls = await shop.calls("RunInstances")
    (own,) = [call for call in calls if record.instance_id in call.effect]
    return [call for call in calls if awaited < call.at and call.number < own.number]


async def test_launches_that_take_long_to_be_sent_ask_no_more_than_ec2_allows(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EC2's bucket is full until the first of them arrives: what comes back here meanwhile does not there."""
    in_time = launch.open_intent

    async def late(*args: Any) -> Any:
        await asyncio.sleep(0.3)  # a dozen tokens' time, with the workshop's hurry
        return await in_time(*args)

    monkeypatch.setattr(launch, "open_intent", late)
    async with sim_workshop.working(max_group=10):
        batch = await sim_workshop.submit(*TAGS)
        await sim_workshop.client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.LAUNCHED, timeout_s=60)

    assert len(await sim_workshop.calls("RunInstances")) == 10
    assert await sim_workshop.refused("RequestLimitExceeded") == 0


# -- fairness ---


@pytest.fixture
def the_many_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis lists namespaces in any order; here in the one that is worst for who comes later."""
    launch_queues = WorkerStore.launch_queues

    async def by_name(store: WorkerStore, target: str) -> list[str]:
        return sorted(await launch_queues(store, target))

    monkeypatch.setattr(WorkerStore, "launch_queues", by_name)


async def launched_before_the_one(shop: SimWorkshop, *, max_group: int = 100, **fields: Any) -> list[Entry]:
    """Request many machines, then in another namespace for one; the calls that were made while the one waited."""
    carol = shop.client_of("carol")
    async with shop.working(max_group=max_group):
        await shop.submit(*TAGS)
        await eventually("the many are being launched", lambda: some_launch(shop))
        theirs = await shop.submit("one", client=carol, **fields)
        await carol.wait(batch_id=theirs, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=30)
    return await launches_between(shop, carol, "one")


@pytest.mark.usefixtures("the_many_first")
@pytest.mark.parametrize("spot", [False, True], ids=["in a group", "singly"])
async def test_one_namespaces_many_groups_do_not_hold_up_anothers_one_key(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch, *, spot: bool
) -> None:
    monkeypatch.setitem(pacer.BUCKETS, "RunInstances", Bucket(1, 5))

    assert len(await launched_before_the_one(sim_workshop, max_group=5, spot=spot)) <= 2


@pytest.mark.usefixtures("the_many_first")
async def test_one_namespaces_many_machines_do_not_hold_up_anothers_one(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pacer.BUCKETS, INSTANCES, Bucket(20, 5))

    before = await launched_before_the_one(sim_workshop)
    assert sum(len(call.effect) for call in before) <= 3


async def test_a_look_up_that_takes_long_holds_up_no_other_namespace(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answered, in_time = asyncio.Event(), asyncio.Event(), Target.look_up

    async def look_up(target: Target, namespace: str, tags: Any) -> Any:
        if namespace == "betty":
            begun.set()
            await answered.wait()
        return await in_time(target, namespace, tags)

    monkeypatch.setattr(Target, "look_up", look_up)
    carol = sim_workshop.client_of("carol")
    async with sim_workshop.working():
        await sim_workshop.submit("slow")
        await begun.wait()
        theirs = await sim_workshop.submit("one", client=carol)
        (view,) = await carol.wait(batch_id=theirs, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=30)
        (slow,) = await sim_workshop.records("slow")
        answered.set()
        await sim_workshop.client.wait(tags=["slow"], wait=WaitFor.LAUNCHED, timeout_s=30)

    assert view.record
    assert slow.phase is Phase.RESOLVING


async def some_launch(shop: SimWorkshop) -> bool:
    return bool(await shop.calls("RunInstances"))


# -- the budget ---


async def test_who_waits_for_the_budget_is_told_so_with_an_estimate(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explain, "AFTER_S", 0.2)
    monkeypatch.setattr(explain, "EVERY_S", 0.2)
    monkeypatch.setitem(pacer.BUCKETS, "RunInstances", Bucket(1, 0.01))  # one call in 100 s
    async with sim_workshop.working(max_group=5):
        await sim_workshop.submit(*TAGS[:20])

        async def told() -> bool:
            return sum("API rate limit" in reason for reason in await sim_workshop.reasons(*TAGS[:20])) == 15

        await eventually("all are told who are not of the first call", told)
        reasons = Counter(reason for reason in await sim_workshop.reasons(*TAGS[:20]) if "rate limit" in reason)

    # The second, third and fourth call are due in 100, 200 and 300 s; told is what they are in coarse steps.
    about = {"2m": 5, "3m30s": 5, "5m": 5}
    assert reasons == {f"waiting for EC2's API rate limit, about {told}": many for told, many in about.items()}


@pytest.mark.usefixtures("in_groups")
async def test_who_waits_for_something_else_is_not_told_that_it_is_the_budget(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One machine is requested, to see whether there is capacity again; the others wait for what comes of it."""
    explained: list[float] = []

    async def watched(*args: Any, **kwargs: Any) -> float:
        pause_s = await explain.explain(*args, **kwargs)
        explained.append(pause_s)
        return pause_s

    monkeypatch.setattr(lead, "explain", watched)
    monkeypatch.setattr(explain, "AFTER_S", 0.1)
    monkeypatch.setattr(explain, "EVERY_S", 0.1)
    await sim_workshop.faults(no_capacity(times=1), Fault(action="RunInstances", delay_s=3.0, skip=1))
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:20])
        await eventually("there is no capacity", lambda: refused(sim_workshop))
        explained.clear()
        await eventually("what they wait for has been looked at", lambda: several(explained))
        reasons = await sim_workshop.reasons(*TAGS[:20])
        await sim_workshop.faults()
        await sim_workshop.request(*TAGS[:20], wait=WaitFor.LAUNCHED)

    assert not [reason for reason in reasons if "rate limit" in reason]


async def refused(shop: SimWorkshop) -> bool:
    return bool(await shop.refused("InsufficientInstanceCapacity"))


async def several(of: list[float]) -> bool:
    return len(of) >= 5


async def test_what_was_refused_as_too_much_is_slowed_down_and_comes_through(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code="RequestLimitExceeded", times=3))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS, wait=WaitFor.LAUNCHED)

    with sim_workshop.server.client() as behind:
        assert behind.hexists(names.bucket(TARGET[:12], "us-east-1", "RunInstances"), "slow_until")
    assert await sim_workshop.refused("RequestLimitExceeded") == 3
    await sim_workshop.one_each(*TAGS)


async def test_a_launch_that_is_repeated_takes_its_machines_from_the_budget_once(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, INSTANCES, 500)
    await sim_workshop.faults(Fault(action="RunInstances", code="RequestLimitExceeded", times=4))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS, wait=WaitFor.LAUNCHED)

    assert tokens(sim_workshop, INSTANCES) >= 400


async def test_a_launch_that_cannot_be_prepared_costs_nothing_of_the_budget(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    once(monkeypatch, INSTANCES, 500)
    once(monkeypatch, "RunInstances", 3)
    await sim_workshop.faults(Fault(action="DescribeKeyPairs", code="ExpiredToken"))
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:20])

        async def tried() -> bool:
            return len(await sim_workshop.calls("DescribeKeyPairs")) >= 6

        await eventually("it was tried some times", tried)

        async def all_wait() -> bool:
            records = await sim_workshop.records(*TAGS[:20])
            return len(records) == 20 and all(record.phase is Phase.LAUNCHING for record in records)

        await eventually("all wait", all_wait)
    assert (tokens(sim_workshop, "RunInstances"), tokens(sim_workshop, INSTANCES)) == pytest.approx((3, 500), abs=0.1)


def once(monkeypatch: pytest.MonkeyPatch, name: str, amount: int) -> None:
    """A bucket holds just so many tokens, and hardly any comes back."""
    monkeypatch.setitem(pacer.BUCKETS, name, Bucket(amount, 0.001))


# -- the pacer by itself ---


async def test_two_workers_never_take_more_than_the_bucket_holds(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sim_workshop.working() as one, sim_workshop.working() as other:
        once(monkeypatch, "CreateTags", 10)
        pacers = [Pacer(worker.store, TARGET[:12], "us-east-1") for worker in (one, other)]
        granted = await asyncio.gather(*(pacers[n % 2].take([("CreateTags", 1)]) for n in range(40)))

    assert sum(one.wait_s == 0 for one in granted) == 10


async def test_several_buckets_give_together_or_not_at_all(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with sim_workshop.working() as worker:
        once(monkeypatch, "RunInstances", 3)
        once(monkeypatch, INSTANCES, 100)
        shared = Pacer(worker.store, TARGET[:12], "us-east-1")
        await shared.take([(INSTANCES, 60)])
        granted = await shared.take([("RunInstances", 1), (INSTANCES, 50)])

    assert granted.wait_s > 0
    assert (tokens(sim_workshop, "RunInstances"), tokens(sim_workshop, INSTANCES)) == pytest.approx((3, 40), abs=0.1)


async def test_a_bucket_that_was_slowed_down_recovers(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacer, "SLOW_FOR_S", 0.2)
    async with sim_workshop.working() as worker:
        slowed = Pacer(worker.store, TARGET[:12], "us-east-1")
        await slowed.slow_down("RunInstances")
        slow = await slowed.take([("RunInstances", 4)])

        async def full_again() -> bool:
            return (await slowed.take([("RunInstances", 4)])).wait_s == 0

        await eventually("it gives as much as before", full_again)
    assert slow.wait_s > 0
