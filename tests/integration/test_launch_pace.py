"""The pace of launches: inside EC2's budget, fair between namespaces, and honest about the wait."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.phase import Phase
from puter_client.view import WaitFor
from puter_worker.pacer import Pacer
from puter_worker.rates import CREATE_TAGS, INSTANCES, RUN_INSTANCES, Bucket
from puter_worker.stages.explain import RATE_LIMIT
from puter_worker.stages.launch import READ_FROM_QUEUE, Launch
from puter_worker.stages.launch_unit import UnitLauncher
from puter_worker.store import names
from puter_worker.store.due_items import DueByNamespace
from puter_worker.store.token_buckets import TokenBuckets
from puter_worker.target import Target
from puter_worker.worker import Worker
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
from tests.integration.workshop import spec

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
    in_time = UnitLauncher.open_intent

    async def late(*args: Any) -> Any:
        await asyncio.sleep(0.3)  # a dozen tokens' time, with the workshop's hurry
        return await in_time(*args)

    monkeypatch.setattr(UnitLauncher, "open_intent", late)
    sim_workshop.hurry(arrives_s=50.0)  # however long this process stands still
    async with sim_workshop.working(max_group=10):
        batch = await sim_workshop.submit(*TAGS)
        await sim_workshop.client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.LAUNCHED, timeout_s=120)

    assert len(await sim_workshop.calls("RunInstances")) == 10
    assert await sim_workshop.refused("RequestLimitExceeded") == 0


# -- fairness ---


@pytest.fixture
def the_many_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis lists namespaces in any order; here in the one that is worst for who comes later."""
    namespaces = DueByNamespace.namespaces

    async def by_name(of: DueByNamespace, target: str) -> dict[str, float]:
        return dict(sorted((await namespaces(of, target)).items()))

    monkeypatch.setattr(DueByNamespace, "namespaces", by_name)


async def launched_before_the_one(shop: SimWorkshop, *, max_group: int = 100, **fields: Any) -> list[Entry]:
    """Request many machines, then in another namespace for one; the calls that were made while the one waited."""
    carol = shop.client_of("carol")
    async with shop.working(max_group=max_group):
        await shop.submit(*TAGS)
        await eventually("the many are being launched", lambda: some_launch(shop))
        theirs = await shop.submit("one", client=carol, **fields)
        await carol.wait(batch_id=theirs, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=120)
    return await launches_between(shop, carol, "one")


@pytest.mark.usefixtures("the_many_first")
@pytest.mark.parametrize("spot", [False, True], ids=["in a group", "singly"])
async def test_one_namespaces_many_groups_do_not_hold_up_anothers_one_key(
    sim_workshop: SimWorkshop, *, spot: bool
) -> None:
    sim_workshop.set_bucket(RUN_INSTANCES, Bucket(1, 5))

    assert len(await launched_before_the_one(sim_workshop, max_group=5, spot=spot)) <= 2


@pytest.mark.usefixtures("the_many_first")
async def test_who_waits_for_more_of_a_batch_keeps_its_turn(sim_workshop: SimWorkshop) -> None:
    """The one stands in the launch queue for as long as ten calls take, in case that others come who share its call."""
    sim_workshop.hurry(batch_idle_s=0.5, batch_longest_s=0.5)
    sim_workshop.set_bucket(RUN_INSTANCES, Bucket(1, 20))

    assert len(await launched_before_the_one(sim_workshop, max_group=2)) <= 2


@pytest.mark.usefixtures("the_many_first")
async def test_one_namespaces_many_machines_do_not_hold_up_anothers_one(sim_workshop: SimWorkshop) -> None:
    sim_workshop.set_bucket(INSTANCES, Bucket(20, 1))

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
        (view,) = await carol.wait(batch_id=theirs, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=120)
        (slow,) = await sim_workshop.records("slow")
        answered.set()
        await sim_workshop.client.wait(tags=["slow"], wait=WaitFor.LAUNCHED, timeout_s=120)

    assert view.record
    assert slow.phase is Phase.RESOLVING


async def some_launch(shop: SimWorkshop) -> bool:
    return bool(await shop.calls("RunInstances"))


# -- the budget ---


async def test_who_waits_for_the_budget_is_told_so_with_an_estimate(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(explain_after_s=0.2, explain_s=0.2)
    sim_workshop.set_bucket(RUN_INSTANCES, Bucket(1, 0.01))  # one call in 100 s
    async with sim_workshop.working(max_group=5):
        await sim_workshop.submit(*TAGS[:20])

        async def told() -> bool:
            return (await sim_workshop.reasons(*TAGS[:20])).count(RATE_LIMIT) == 15

        await eventually("all are told who are not of the first call", told)
        records = await sim_workshop.records(*TAGS[:20])

    # The second, third and fourth call are due in 100, 200 and 300 s; told is what they are in coarse steps.
    assert RATE_LIMIT == "waiting for EC2's API rate limit"
    assert Counter(r.estimate_s for r in records if r.reason == RATE_LIMIT) == {120: 5, 210: 5, 300: 5}


@pytest.mark.parametrize("awaited", ["the budget", "an end"])
async def test_machines_are_read_often_only_while_others_wait_for_one_of_them_to_end(
    sim_workshop: SimWorkshop, awaited: str
) -> None:
    sim_workshop.hurry(explain_s=0.2, health_s=0.05, awaited_s=0.05, starting_s=0.05)
    if awaited == "the budget":
        once(sim_workshop, RUN_INSTANCES, 1)
    async with sim_workshop.working(max_group=5, quiet_sweep_s=3_600.0):
        requests = [MachineRequest(tag, spec()) for tag in TAGS[:20]]
        await sim_workshop.client.submit(requests, max_parallel=5 if awaited == "an end" else None)

        async def all_started() -> bool:
            with sim_workshop.server.client() as behind:
                started = not behind.exists(f"puter:_starting:{TARGET}")
            return started and len(await sim_workshop.living()) == 5

        await eventually("five have started", all_started)
        looks = await sim_workshop.looks()
        if awaited == "an end":

            async def looked_at_often() -> bool:
                return await sim_workshop.looks() >= looks + 5

            await eventually("they are looked at again and again", looked_at_often)
        else:
            before = await explained(sim_workshop)
            await eventually("the waits were looked at", lambda: explained_since(sim_workshop, before))
            assert await sim_workshop.looks() <= looks + 1


async def test_who_waits_for_a_machine_to_end_is_not_looked_at_again_and_again(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many they are: one helping of their launch queue each time that they are due."""
    read, slots, again_s = Launch._read, Counter[int](), sim_workshop.timings.parallel_again_s

    async def counted(stage: Launch, keys: Any) -> Any:
        slots[int(stage._store.now() // again_s)] += len(keys)
        return await read(stage, keys)

    monkeypatch.setattr(Launch, "_read", counted)
    tags = [f"t-{n}" for n in range(3 * READ_FROM_QUEUE)]
    async with sim_workshop.working():
        await sim_workshop.client.submit([MachineRequest(tag, spec()) for tag in tags], max_parallel=1)

        async def all_are_told() -> bool:
            return sum("max_parallel" in reason for reason in await sim_workshop.reasons(*tags)) == len(tags) - 1

        await eventually("all but one wait for it to end", all_are_told)
        since = max(slots)

        async def several_times() -> bool:
            return len([slot for slot in slots if slot > since]) >= 5

        await eventually("they were looked at five times more", several_times)

    # One helping may be late, and be read in the slot of the next.
    seen = [slot for slot in slots if slot > since + 1]
    assert sum(slots[slot] for slot in seen) <= (max(seen) - since) * READ_FROM_QUEUE


@pytest.mark.usefixtures("in_groups")
async def test_who_waits_for_something_else_is_not_told_that_it_is_the_budget(sim_workshop: SimWorkshop) -> None:
    """One machine is requested, to see whether there is capacity again; the others wait for what comes of it."""
    sim_workshop.hurry(explain_after_s=0.1, explain_s=0.1, health_s=0.05)
    await sim_workshop.faults(no_capacity(times=1), Fault(action="RunInstances", delay_s=3.0, skip=1))
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:20])
        await eventually("there is no capacity", lambda: refused(sim_workshop))
        before = await explained(sim_workshop)
        await eventually("what they wait for has been looked at", lambda: explained_since(sim_workshop, before))
        reasons = await sim_workshop.reasons(*TAGS[:20])
        await sim_workshop.faults()
        await sim_workshop.request(*TAGS[:20], wait=WaitFor.LAUNCHED)

    assert not [reason for reason in reasons if "rate limit" in reason]


async def refused(shop: SimWorkshop) -> bool:
    return bool(await shop.refused("InsufficientInstanceCapacity"))


async def explained(shop: SimWorkshop) -> int:
    """How often waits have been explained, as the worker's health tells."""
    (worker,) = await shop.client.workers()
    return sum(stage.runs for stage in worker.stages if stage.name.startswith("explain "))


async def explained_since(shop: SimWorkshop, before: int) -> bool:
    return await explained(shop) >= before + 6  # one of them may have begun before


async def test_what_was_refused_as_too_much_is_slowed_down_and_comes_through(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code="RequestLimitExceeded", times=3))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS, wait=WaitFor.LAUNCHED)

    with sim_workshop.server.client() as behind:
        assert behind.hexists(names.bucket(TARGET[:12], "us-east-1", "RunInstances"), "slow_until")
    assert await sim_workshop.refused("RequestLimitExceeded") == 3
    await sim_workshop.one_each(*TAGS)


async def test_a_launch_that_is_repeated_takes_its_machines_from_the_budget_once(sim_workshop: SimWorkshop) -> None:
    once(sim_workshop, INSTANCES, 500)
    await sim_workshop.faults(Fault(action="RunInstances", code="RequestLimitExceeded", times=4))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS, wait=WaitFor.LAUNCHED)

    assert tokens(sim_workshop, INSTANCES) >= 400


async def test_a_launch_that_cannot_be_prepared_costs_nothing_of_the_budget(sim_workshop: SimWorkshop) -> None:
    once(sim_workshop, INSTANCES, 500)
    once(sim_workshop, RUN_INSTANCES, 3)
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
    assert (tokens(sim_workshop, RUN_INSTANCES), tokens(sim_workshop, INSTANCES)) == pytest.approx((3, 500), abs=0.1)


def once(shop: SimWorkshop, name: str, amount: int) -> None:
    """A bucket holds just so many tokens, and hardly any comes back."""
    shop.set_bucket(name, Bucket(amount, 0.001))


# -- the pacer by itself ---


def buckets_of(shop: SimWorkshop, worker: Worker) -> TokenBuckets:
    """The target's buckets, as a worker's pacer counts them."""
    return worker.store.token_buckets(TARGET[:12], "us-east-1", shop.rates)


def pacer_of(shop: SimWorkshop, worker: Worker) -> Pacer:
    """The target's pacer of a worker."""
    clock = worker.store.db.clock
    return Pacer(buckets_of(shop, worker), rates=shop.rates, clock=clock, timings=shop.timings)


async def test_two_workers_never_take_more_than_the_bucket_holds(sim_workshop: SimWorkshop) -> None:
    once(sim_workshop, CREATE_TAGS, 10)
    async with sim_workshop.working() as one, sim_workshop.working() as other:
        pacers = [pacer_of(sim_workshop, worker) for worker in (one, other)]
        waits_s = await asyncio.gather(*(pacers[n % 2].take_now(CREATE_TAGS) for n in range(40)))

    assert waits_s.count(0.0) == 10


async def test_several_buckets_give_together_or_not_at_all(sim_workshop: SimWorkshop) -> None:
    once(sim_workshop, RUN_INSTANCES, 3)
    once(sim_workshop, INSTANCES, 100)
    async with sim_workshop.working() as worker:
        shared = buckets_of(sim_workshop, worker)
        await shared.reserve({INSTANCES: 60})
        wait_s = await shared.reserve({RUN_INSTANCES: 1, INSTANCES: 50})

    assert wait_s > 0
    assert (tokens(sim_workshop, RUN_INSTANCES), tokens(sim_workshop, INSTANCES)) == pytest.approx((3, 40), abs=0.1)


async def test_a_bucket_that_was_slowed_down_recovers(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(slow_s=2.0)
    async with sim_workshop.working() as worker:
        slowed = buckets_of(sim_workshop, worker)
        await pacer_of(sim_workshop, worker).slow_down(RUN_INSTANCES)
        slow_s = await slowed.reserve({RUN_INSTANCES: 4})

        async def full_again() -> bool:
            return await slowed.reserve({RUN_INSTANCES: 4}) == 0

        await eventually("it gives as much as before", full_again)
    assert slow_s > 0
