"""Machines that are there already are found with few calls; stage by stage, so that nothing depends on time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.os_image import Os
from puter_client.contract.phase import Phase
from puter_client.contract.spec import DEFAULT_GROUP_NAME
from puter_worker.ec2.tags import MANAGED, birth_tags, encode_manifest, specification
from puter_worker.stages import resolve as stage
from puter_worker.stages import settle
from puter_worker.stages.admit import admit
from puter_worker.stages.ensure import ensure
from puter_worker.stages.intake import intake
from puter_worker.stages.resolve import resolve
from puter_worker.target import Target
from puter_worker.worker import Worker
from tests.integration.sim_workshop import SimWorkshop, sim_url, sim_workshop
from tests.integration.workshop import SPEC

__all__ = ["sim_url", "sim_workshop"]

TAGS = [f"live-{n}" for n in range(1_000)]


@pytest.fixture
async def idle(sim_workshop: SimWorkshop) -> AsyncIterator[Worker]:
    """A worker whose stages run when the test says so."""
    worker = Worker(sim_workshop.settings())
    await worker.store.set_clock()
    yield worker
    await worker._sessions.aclose()
    await worker._redis.aclose()
    await worker._redis.connection_pool.disconnect()


async def test_a_thousand_machines_are_found_with_ten_calls_forgotten_or_not_seen_for_long(
    sim_workshop: SimWorkshop, idle: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = await idle._targets.find(None, "us-east-1")
    await launch_unseen(sim_workshop, target)

    await requested(sim_workshop, idle)
    await resolved(idle, target)
    await admit(idle.store, idle._targets)
    forgotten = len(await sim_workshop.calls("DescribeInstances"))
    monkeypatch.setattr(settle, "FRESH_S", 0.0)
    await requested(sim_workshop, idle)
    await resolved(idle, target)
    not_seen = len(await sim_workshop.calls("DescribeInstances")) - forgotten

    assert max(forgotten, not_seen) <= 10, (forgotten, not_seen)
    assert {record.phase for record in await sim_workshop.records(*TAGS)} == {Phase.RUNNING}
    assert len(await sim_workshop.calls("RunInstances")) == 10


async def test_a_call_is_made_for_part_of_a_batch_only_when_it_is_full_or_nobody_comes_any_more(
    sim_workshop: SimWorkshop, idle: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "IDLE_S", 3_600.0)
    monkeypatch.setattr(stage, "LONGEST_WAIT_S", 3_600.0)
    target = await idle._targets.find(None, "us-east-1")
    await taken_in(sim_workshop, idle, TAGS[:250])
    looked_up: list[int] = []
    for coming in (TAGS[:150], TAGS[150:230], TAGS[230:249]):
        await ensured(idle, coming)
        await resolve(idle.store, target, "betty")
        looked_up.append(await on_launch_queue(sim_workshop))
    monkeypatch.setattr(stage, "IDLE_S", 0.0)
    await resolve(idle.store, target, "betty")

    assert [*looked_up, await on_launch_queue(sim_workshop)] == [0, 198, 198, 249]


async def resolved(idle: Worker, target: Target) -> None:
    """All that waits to be looked up is."""
    while await idle.store.look_ups(str(target), "betty", idle.store.now(), 1):
        await resolve(idle.store, target, "betty")


async def on_launch_queue(shop: SimWorkshop) -> int:
    """How many keys wait for their launch."""
    return sum(record.phase is Phase.LAUNCHING for record in await shop.records(*TAGS))


async def launch_unseen(shop: SimWorkshop, target: Target) -> None:
    """Groups as Puter launches them, of which this Redis knows nothing."""
    image = await target.image(ami=None, os=Os.AL2023, instance_type="t3.micro")
    group = await target.group(DEFAULT_GROUP_NAME, None, SPEC.ssh_from, {MANAGED: "true"})
    for start in range(0, len(TAGS), 100):
        members = [(tag, 1) for tag in TAGS[start : start + 100]]
        born = birth_tags(namespace="betty", intent=f"lost-{start}", batch=None, owner="betty", expires_at=None)
        shop.ec2.run_instances(
            ImageId=image.image_id,
            InstanceType="t3.micro",
            MinCount=100,
            MaxCount=100,
            SecurityGroupIds=[group.group_id],
            TagSpecifications=[specification("instance", born | encode_manifest(members))],
        )


async def requested(shop: SimWorkshop, idle: Worker) -> None:
    """Every machine is requested, and waits for the target's look-up."""
    await taken_in(shop, idle, TAGS)
    await ensured(idle, TAGS)


async def taken_in(shop: SimWorkshop, idle: Worker, tags: Sequence[str]) -> None:
    """One batch is past intake."""
    await shop.submit(*tags)
    while await intake(idle.store, ["betty"]):
        pass


async def ensured(idle: Worker, tags: Sequence[str]) -> None:
    """These tags wait for the target's look-up."""
    for start in range(0, len(tags), 50):
        keys = [PuterKey("betty", tag) for tag in tags[start : start + 50]]
        await asyncio.gather(*(ensure(idle.store, idle._targets, key) for key in keys))
