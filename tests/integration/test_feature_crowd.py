"""Many keys, many workers, workers that come and go, and a Redis that is killed: each key gets exactly one machine."""

from __future__ import annotations

import asyncio

import pytest

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import ENDED, Phase
from puter_client.contract.request import Origin
from puter_client.view import View
from puter_worker.rates import RUN_INSTANCES, Bucket
from puter_worker.store.requests import Ready
from tests.integration.stage_world import one_machine_each, redis_keeps_its_rules, time_passes, until
from tests.integration.workshop import PATIENCE_S, Workshop, spec

__all__ = ["redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")


def tags(count: int) -> list[str]:
    return [f"sweep-{n}" for n in range(count)]


async def submitted(shop: Workshop, count: int) -> str:
    return await shop.client.submit([MachineRequest(tag, spec()) for tag in tags(count)])


async def test_a_burst_worker_ends_when_nothing_is_left(workshop: Workshop) -> None:
    batch = await submitted(workshop, 5)
    ready = asyncio.Event()
    async with asyncio.timeout(120):
        await workshop.worker(burst=True, on_ready=ready.set).run()

    _, views = await workshop.client.batch(batch)
    assert ready.is_set()
    assert len(workshop.instances()) == 5
    assert all(view.record and view.record.instance_id for view in views)


async def test_a_burst_worker_with_nothing_to_do_ends_at_once(workshop: Workshop) -> None:
    async with asyncio.timeout(120):
        await workshop.worker(burst=True).run()

    assert await workshop.client.workers() == []


async def test_what_a_stopped_worker_leaves_another_finishes(workshop: Workshop) -> None:
    batch = await submitted(workshop, 50)
    # At EC2's published rates, a machine a call, it would need twenty seconds for all of them.
    async with workshop.working(pace=True):
        await until("it is in the middle", lambda: len(workshop.instances()) >= 5)
    launched = len(workshop.instances())
    time_passes(workshop)  # what it had claimed is anybody's again
    async with workshop.working():
        await workshop.client.wait(batch_id=batch, tags=tags(50), timeout_s=PATIENCE_S)

    assert launched < 50
    await one_machine_each(workshop, "betty", tags(50))


async def test_a_stopped_worker_says_that_it_is_gone(workshop: Workshop) -> None:
    async with workshop.working():
        during = await workshop.client.workers()
    after = await workshop.client.workers()

    assert [worker.draining for worker in during] == [False]
    assert after == []


async def test_a_worker_ends_though_a_cancellation_is_swallowed(workshop: Workshop) -> None:
    # redis-py sends through asyncio.wait_for, which before Python 3.12 swallows one that comes late.
    inside, swallowed = asyncio.Event(), asyncio.Event()

    async def ready_namespaces(cursor: int = 0) -> Ready:
        inside.set()
        if not swallowed.is_set():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed.set()
        return Ready()

    worker = workshop.worker()
    worker.store.requests.ready = ready_namespaces  # type: ignore[method-assign]
    running = asyncio.create_task(worker.run())
    await inside.wait()
    worker.stop()
    async with asyncio.timeout(120):
        await running

    assert swallowed.is_set()


async def test_three_workers_launch_each_key_once(workshop: Workshop) -> None:
    first = await submitted(workshop, 30)
    async with workshop.working(), workshop.working(), workshop.working():
        second = await workshop.client.submit([MachineRequest(tag, spec()) for tag in tags(30)], origin=Origin.UP)
        ones = await workshop.client.wait(batch_id=first, tags=tags(30), timeout_s=PATIENCE_S)
        twos = await workshop.client.wait(batch_id=second, tags=tags(30), timeout_s=PATIENCE_S)

    assert {view.outcome for view in ones} == {Outcome.CREATED}
    assert {view.outcome for view in twos} <= {Outcome.JOINED, Outcome.EXISTING}
    await one_machine_each(workshop, "betty", tags(30))


async def test_requests_of_two_namespaces_do_not_meet(workshop: Workshop) -> None:
    anna = workshop.client_of("anna")
    async with workshop.working():
        (hers,) = await workshop.request("one", client=anna)
        (bettys,) = await workshop.request("one", instance_type="t3.small")
    await anna.aclose()

    assert (hers.outcome, bettys.outcome) == (Outcome.CREATED, Outcome.CREATED)
    await one_machine_each(workshop, "anna", ["one"])
    await one_machine_each(workshop, "betty", ["one"])


async def test_what_was_launched_in_a_group_gets_its_own_tags(workshop: Workshop) -> None:
    workshop.set_bucket(RUN_INSTANCES, Bucket(1, 2))  # so two are launched with one call
    async with workshop.working(pace=True, max_group=100):
        batch = await submitted(workshop, 2)
        await until("the one that moto launches of a group has its own tags", lambda: bool(own_tags(workshop)))

    tags = own_tags(workshop)[0]
    assert tags["Name"] == f"puter/betty/{tags['puter']}"
    assert (tags["puter:tag"], tags["puter:generation"], tags["puter:batch"]) == (tags["puter"], "1", batch)


def own_tags(shop: Workshop) -> list[dict[str, str]]:
    """The tags of the instances that were launched in a group and have been labelled."""
    all_tags = [{tag["Key"]: tag["Value"] for tag in instance["Tags"]} for instance in shop.instances()]
    return [tags for tags in all_tags if tags["puter:labelled"] == "yes" and "puter:manifest-0" in tags]


# -- Redis -----------------------------------------------------------------------------------------------------------


async def test_nothing_acknowledged_is_lost_when_redis_is_killed(workshop: Workshop) -> None:
    batch = await submitted(workshop, 20)
    async with workshop.working():
        await until("it is in the middle", lambda: len(workshop.instances()) >= 2)
        workshop.server.kill()
        workshop.server.start()
        time_passes(workshop)  # a lock of a job that Redis interrupted is held for some seconds more
        views = await patiently(workshop.client, batch, tags(20))

    assert {view.phase for view in views} == {Phase.RUNNING}
    await one_machine_each(workshop, "betty", tags(20))


async def test_requests_survive_a_redis_that_is_killed_before_any_worker_comes(workshop: Workshop) -> None:
    batch = await submitted(workshop, 3)
    workshop.server.kill()
    workshop.server.start()
    async with workshop.working():
        await patiently(workshop.client, batch, tags(3))

    await one_machine_each(workshop, "betty", tags(3))


async def patiently(client: PuterClient, batch: str, of: list[str]) -> list[View]:
    """A wait by somebody who comes back whenever Redis has been away."""
    async with asyncio.timeout(120):
        while True:
            try:
                views = await client.wait(batch_id=batch, tags=of, timeout_s=120)
            except StoreUnavailable:
                continue
            if all(view.phase is Phase.RUNNING or view.phase in ENDED for view in views):
                return views
