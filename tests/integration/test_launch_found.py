"""Machines that are there already are found with few calls; stage by stage, so that nothing depends on time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec

from puter_client.contract.key import PuterKey
from puter_client.contract.os_image import Os
from puter_client.contract.phase import Phase
from puter_worker.ec2.tags import birth_tags, encode_manifest, specification
from puter_worker.stages.ensure import Ensure
from puter_worker.stages.ingress import Ingress
from puter_worker.stages.intake import Intake
from puter_worker.target import Target
from puter_worker.timings import Timings
from puter_worker.worker import Worker
from tests.integration.sim_workshop import SimWorkshop, sim_url, sim_workshop
from tests.integration.stage_world import resolver
from tests.integration.workshop import SPEC

__all__ = ["sim_url", "sim_workshop"]

TAGS = [f"live-{n}" for n in range(1_000)]


async def test_a_thousand_machines_are_found_with_ten_calls_forgotten_or_not_seen_for_long(
    sim_workshop: SimWorkshop,
) -> None:
    async with sim_workshop.idle() as idle:
        await launch_unseen(sim_workshop, await idle.targets.find(None, "us-east-1"))
        await found(sim_workshop, idle)
        await Ingress(idle.store, idle.targets, sim_workshop.timings).run_once()
    forgotten = len(await sim_workshop.calls("DescribeInstances"))
    async with sim_workshop.idle() as idle:
        await found(sim_workshop, idle)
    not_seen = len(await sim_workshop.calls("DescribeInstances")) - forgotten

    assert max(forgotten, not_seen) <= 10, (forgotten, not_seen)
    assert {record.phase for record in await sim_workshop.records(*TAGS)} == {Phase.RUNNING}
    assert len(await sim_workshop.calls("RunInstances")) == 10


async def test_a_call_is_made_for_part_of_a_batch_only_when_it_is_full_or_nobody_comes_any_more(
    sim_workshop: SimWorkshop,
) -> None:
    patient = msgspec.structs.replace(sim_workshop.timings, look_up_idle_s=3_600.0, look_up_longest_s=3_600.0)
    async with sim_workshop.idle() as idle:
        target = await idle.targets.find(None, "us-east-1")
        await taken_in(sim_workshop, idle, TAGS[:250])
        looked_up: list[int] = []
        for coming in (TAGS[:150], TAGS[150:230], TAGS[230:249]):
            await ensured(sim_workshop, idle, coming)
            await look_up(idle, target, patient)
            looked_up.append(await on_launch_queue(sim_workshop))
        await look_up(idle, target, msgspec.structs.replace(patient, look_up_idle_s=0.0))

    assert [*looked_up, await on_launch_queue(sim_workshop)] == [0, 198, 198, 249]


async def found(shop: SimWorkshop, idle: Worker) -> None:
    """Every machine is requested, and all that waits to be looked up is."""
    target = await idle.targets.find(None, "us-east-1")
    await taken_in(shop, idle, TAGS)
    await ensured(shop, idle, TAGS)
    while await idle.store.look_ups.due(str(target), "betty", idle.store.now(), 1):
        await look_up(idle, target, shop.timings)


async def look_up(idle: Worker, target: Target, timings: Timings) -> None:
    """A leader that has just begun looks at what is due."""
    stage = resolver(idle, target, timings)
    await stage.run_once()
    await stage.drain()


async def on_launch_queue(shop: SimWorkshop) -> int:
    """How many keys wait for their launch."""
    return sum(record.phase is Phase.LAUNCHING for record in await shop.records(*TAGS))


async def launch_unseen(shop: SimWorkshop, target: Target) -> None:
    """Groups as Puter launches them, of which this Redis knows nothing."""
    image = await target.image(ami=None, os=Os.AL2023, instance_type="t3.micro")
    group = await target.group(None, None, SPEC.ssh_from, "betty")
    for start in range(0, len(TAGS), 100):
        members = [(tag, 1) for tag in TAGS[start : start + 100]]
        born = birth_tags(namespace="betty", intent=f"lost-{start}", batch=None, owner="betty", expires_at=None)
        shop.ec2.run_instances(
            ImageId=image.image_id,
            InstanceType="t3.micro",
            MinCount=100,
            MaxCount=100,
            SecurityGroupIds=[group.group_id],
            ClientToken=f"puter-lost-{start}",
            TagSpecifications=[specification("instance", born | encode_manifest(members))],
        )


async def taken_in(shop: SimWorkshop, idle: Worker, tags: Sequence[str]) -> None:
    """One batch is past intake."""
    await shop.submit(*tags)
    intake = Intake(idle.store, shop.timings)
    while (await idle.store.requests.ready()).names:
        await intake.run_once()


async def ensured(shop: SimWorkshop, idle: Worker, tags: Sequence[str]) -> None:
    """These tags wait for the target's look-up."""
    ensure = Ensure(idle.store, idle.targets, shop.timings)
    for start in range(0, len(tags), 50):
        await asyncio.gather(*(ensure.run(PuterKey("betty", tag)) for tag in tags[start : start + 50]))
