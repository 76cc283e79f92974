"""Machines that are there already are found with few calls; station by station, so that nothing depends on time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Outcome, Phase
from puter_worker.ec2.tags import birth_tags, encode_manifest, specification
from puter_worker.fleet import Fleet
from puter_worker.stations import settle
from puter_worker.stations.admit import admit
from puter_worker.stations.ensure import ensure
from puter_worker.stations.intake import intake
from puter_worker.stations.resolve import resolve
from puter_worker.worker import Worker
from tests.integration.sim_workshop import SimWorkshop, sim_url, sim_workshop

__all__ = ["sim_url", "sim_workshop"]

TAGS = [f"live-{n}" for n in range(1_000)]


@pytest.fixture
async def idle(sim_workshop: SimWorkshop) -> AsyncIterator[Worker]:
    """A worker whose stations run when the test says so."""
    worker = Worker(sim_workshop.settings())
    await worker.store.set_clock()
    yield worker
    await worker._sessions.aclose()
    await worker._redis.aclose()
    await worker._redis.connection_pool.disconnect()


async def test_a_thousand_machines_that_redis_has_forgotten_are_found_with_ten_calls(
    sim_workshop: SimWorkshop, idle: Worker
) -> None:
    launch_unseen(sim_workshop)
    fleet = await asked_for(sim_workshop, idle)

    await resolve(idle.store, fleet)
    await admit(idle.store, idle._fleets)

    assert len(await sim_workshop.calls("DescribeInstances")) <= 10
    assert {record.phase for record in await sim_workshop.records(*TAGS)} == {Phase.RUNNING}


async def test_a_thousand_machines_that_were_not_seen_for_long_are_confirmed_with_ten_calls(
    sim_workshop: SimWorkshop, idle: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch_unseen(sim_workshop)
    await resolve(idle.store, await asked_for(sim_workshop, idle))
    before = len(await sim_workshop.calls("DescribeInstances"))
    monkeypatch.setattr(settle, "FRESH_S", 0.0)
    fleet = await asked_for(sim_workshop, idle)

    await resolve(idle.store, fleet)

    assert len(await sim_workshop.calls("DescribeInstances")) - before <= 10
    (latest, *_) = await sim_workshop.client.batches()
    _, views = await sim_workshop.client.batch(latest.batch_id)
    assert {view.outcome for view in views} == {Outcome.EXISTING}


def launch_unseen(shop: SimWorkshop) -> None:
    """Groups as Puter launches them, of which this Redis knows nothing."""
    image = shop.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    for start in range(0, len(TAGS), 100):
        members = [(tag, 1) for tag in TAGS[start : start + 100]]
        born = birth_tags(namespace="betty", intent=f"lost-{start}", batch=None, owner="betty", expires_at=None)
        shop.ec2.run_instances(
            ImageId=image,
            InstanceType="t3.micro",
            MinCount=100,
            MaxCount=100,
            TagSpecifications=[specification("instance", born | encode_manifest(members))],
        )


async def asked_for(shop: SimWorkshop, idle: Worker) -> Fleet:
    """Every machine is wished for, and waits for the fleet's look-up."""
    await shop.submit(*TAGS)
    while await intake(idle.store, ["betty"]):
        pass
    for tag in TAGS:
        await ensure(idle.store, idle._fleets, PuterKey("betty", tag))
    return await idle._fleets.find(None, "us-east-1")
