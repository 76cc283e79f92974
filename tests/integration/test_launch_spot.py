"""Spot machines: launched in groups, each with the workload of its own; On-Demand where Spot has no capacity."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from puter_client.contract.record import Record
from puter_client.view import WaitFor
from puter_worker.ec2.tags import birth_tags, encode_manifest
from tests.ec2sim.config import Fault
from tests.ec2sim.reports import Seen
from tests.integration.sim_workshop import SimWorkshop, eventually, in_groups, sim_url, sim_workshop
from tests.integration.standin_machine import parts_of
from tests.integration.test_launch_groups import all_labelled, by_launch, submit_workloads

__all__ = ["in_groups", "sim_url", "sim_workshop"]

TAGS = [f"job-{n}" for n in range(30)]
OTHERS = "0123456789abcdef"


def learned(folder: Path, one: Seen) -> dict[str, str]:
    """What a machine's own part of the user data makes of it, when its agent has read its tag."""
    state = folder / one.id / "var/lib/puter"
    state.mkdir(parents=True)
    env = os.environ | {"PUTER_ROOT": str(folder / one.id)}
    (part,) = (body for name, _, body in parts_of(one.user_data) if name == "000-puter-4-task")
    (state / "part").write_bytes(part)
    subprocess.run(["sh", state / "part"], env=env, check=True)
    if "puter:member" in one.tags:  # not of a machine that was launched by itself
        assert not (state / "workload.conf").exists()
        subprocess.run(["sh", state / "members", one.tags["puter:member"]], env=env, check=True)
    conf = (state / "workload.conf").read_text()
    return dict(line.split("=", 1) for line in conf.splitlines()) | {"run": (state / "workload.run").read_text()}


async def by_tag(shop: SimWorkshop, *tags: str) -> dict[str, Record]:
    return {record.tag: record for record in await shop.records(*tags)}


@pytest.mark.usefixtures("in_groups")
async def test_each_of_a_group_learns_its_own_workload_from_its_tag(sim_workshop: SimWorkshop, tmp_path: Path) -> None:
    await sim_workshop.sim.configure(shuffled=True)
    runs = {tag: f"echo it is '{tag}' && exit 3" for tag in TAGS}
    async with sim_workshop.working():
        batch = await submit_workloads(sim_workshop, runs, spot=True)
        await sim_workshop.client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.LAUNCHED, timeout_s=120)
        await all_labelled(sim_workshop, *TAGS)

    seen = await sim_workshop.seen()
    assert all(one.spot for one in seen)
    assert len(by_launch(seen)) < len(TAGS) / 4
    await sim_workshop.one_each(*TAGS)
    for one in seen:
        tag = one.tags["puter:tag"]
        told = learned(tmp_path, one)
        assert (told["key"], told["run"]) == (f"{one.tags['puter:namespace']}/{tag}", runs[tag])


@pytest.mark.parametrize("fields", [{"instance_type": "t2.micro"}, {"aws_tags": {"Cost Center": "7"}}, {"alone": True}])
@pytest.mark.usefixtures("in_groups")
async def test_machines_that_cannot_read_their_tags_are_launched_singly(
    sim_workshop: SimWorkshop, fields: dict[str, Any]
) -> None:
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS[:5], wait=WaitFor.LAUNCHED, spot=True, **fields)
        (begun,) = [event for event in await sim_workshop.told(TAGS[0]) if event.event == "launch.begun"]

    living = await sim_workshop.living()
    assert len(by_launch(living)) == 5
    assert all(one.spot for one in living)
    told = [notice for notice in begun.notices if "by ssh" in notice]
    assert len(told) == (0 if "alone" in fields else 1)


@pytest.mark.usefixtures("in_groups")
async def test_a_group_for_which_there_is_no_room_is_launched_as_far_as_there_is(sim_workshop: SimWorkshop) -> None:
    rows = [{"zone": "*", "instance_type": "t3.micro", "slots": 0, "market": "spot"}]
    rows.insert(0, rows[0] | {"zone": "us-east-1b", "slots": 19})
    await sim_workshop.sim.configure(capacity=rows)
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS, spot=True)

        async def room_is_used() -> bool:
            return len(await sim_workshop.living()) == 19

        await eventually("as many live as there is room for", room_is_used)
        await sim_workshop.sim.configure(capacity=[])
        await sim_workshop.client.wait(tags=TAGS, wait=WaitFor.RUNNING, timeout_s=120)

    await sim_workshop.one_each(*TAGS)


def spot_is_scarce(slots: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [{"zone": "us-east-1b", "slots": slots, "market": "spot"}]
    return [*rows, {"zone": "*", "slots": 0, "market": "spot"}]


@pytest.mark.parametrize(
    "limit", [{"capacity": spot_is_scarce(3)}, {"spot_quota": 3}], ids=["no capacity", "quota reached"]
)
async def test_who_only_prefers_spot_takes_on_demand_after_a_while(
    sim_workshop: SimWorkshop, limit: dict[str, Any]
) -> None:
    sim_workshop.hurry(prefer_spot_s=1.0, no_capacity_s=5.0)  # on a busy machine, too, attempts come faster than that
    await sim_workshop.sim.configure(**limit)
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:10], spot="prefer")
        await sim_workshop.client.wait(tags=TAGS[:10], wait=WaitFor.RUNNING, timeout_s=120)

    living = await sim_workshop.living()
    assert sum(one.spot for one in living) == 3
    await sim_workshop.one_each(*TAGS[:10])


async def test_on_demand_is_taken_though_attempts_are_so_slow_that_spot_may_always_be_tried_again(
    sim_workshop: SimWorkshop,
) -> None:
    """The pause of the first place is over before the last one has been tried."""
    sim_workshop.hurry(prefer_spot_s=1.0, no_capacity_s=2.0)
    await sim_workshop.sim.configure(capacity=[{"zone": "*", "slots": 0, "market": "spot"}])
    await sim_workshop.faults(Fault(action="RunInstances", delay_s=0.7))
    async with sim_workshop.working():
        await sim_workshop.submit("one", spot="prefer")
        await sim_workshop.client.wait(tags=["one"], wait=WaitFor.RUNNING, timeout_s=120)

    (one,) = await sim_workshop.living()
    assert not one.spot


async def test_who_requests_spot_waits_for_it(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(prefer_spot_s=0.0)
    await sim_workshop.sim.configure(capacity=spot_is_scarce(3))
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:10], spot=True)

        async def waits() -> bool:
            return sum("no Spot capacity" in reason for reason in await sim_workshop.reasons(*TAGS)) == 7

        await eventually("Spot is dry", waits)
        since = len(await sim_workshop.calls("RunInstances"))

        async def tried_again() -> bool:
            return len(await sim_workshop.calls("RunInstances")) > since + 6

        await eventually("Spot is tried again and again", tried_again)

    assert [one.spot for one in await sim_workshop.living()] == [True] * 3


# -- launches of which another Redis knows ---


def launched_elsewhere(shop: SimWorkshop, members: Sequence[str], count: int) -> list[str]:
    """Machines of a Spot launch whose places nobody has written yet; their ids, in the order of the places."""
    image = shop.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    tags = birth_tags(namespace=shop.client.namespace, intent=OTHERS, batch=None, owner="a", expires_at=None)
    tags |= {"puter:member": "unassigned"} | encode_manifest([(tag, 1) for tag in members])
    answer = shop.ec2.run_instances(
        ImageId=image,
        InstanceType="t3.micro",
        MinCount=count,
        MaxCount=count,
        ClientToken=f"puter-{OTHERS}",
        InstanceInitiatedShutdownBehavior="terminate",
        InstanceMarketOptions={"MarketType": "spot"},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": k, "Value": v} for k, v in tags.items()]}],
    )
    return sorted(instance["InstanceId"] for instance in answer["Instances"])


async def test_a_whole_launch_of_another_redis_is_found_machine_by_machine(sim_workshop: SimWorkshop) -> None:
    ids = launched_elsewhere(sim_workshop, TAGS[:3], 3)
    async with sim_workshop.working():
        for tag in (TAGS[1], TAGS[0], TAGS[2]):  # each by itself, in any order: the places do not depend on it
            await sim_workshop.request(tag, spot=True, wait=WaitFor.RUNNING)
        await all_labelled(sim_workshop, *TAGS[:3])

    assert [one.instance_id for one in (await by_tag(sim_workshop, *TAGS[:3])).values()] == ids
    members = {one.id: one.tags["puter:member"] for one in await sim_workshop.living()}
    assert members == dict(zip(ids, "012", strict=True))


async def test_of_a_launch_that_ec2_shows_in_part_no_machine_is_taken_and_none_is_doubled(
    sim_workshop: SimWorkshop,
) -> None:
    ids = launched_elsewhere(sim_workshop, TAGS[:3], 2)
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:4], spot=True)

        async def waits() -> bool:
            return sum("may be its machine" in reason for reason in await sim_workshop.reasons(*TAGS[:3])) == 3

        await eventually("they wait for the rest of that launch", waits)
        await sim_workshop.client.wait(tags=[TAGS[3]], wait=WaitFor.RUNNING, timeout_s=120)
        assert {one.id for one in await sim_workshop.living()} == {
            *ids,
            (await by_tag(sim_workshop, TAGS[3]))[TAGS[3]].instance_id,
        }
        for one in ids:
            await sim_workshop.sim.shut_down(one)
        await sim_workshop.client.wait(tags=TAGS[:4], wait=WaitFor.RUNNING, timeout_s=120)

    await sim_workshop.one_each(*TAGS[:4])


async def test_places_are_not_looked_up_anew_with_every_key(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(unlabelled_cache_s=60.0, look_up_again_s=0.1)
    launched_elsewhere(sim_workshop, TAGS[:3], 2)
    async with sim_workshop.working():
        await sim_workshop.submit(*TAGS[:3], spot=True)

        async def looked_often() -> bool:
            return len(await described(sim_workshop, "tag:puter:tag")) >= 5

        await eventually("they are looked up again and again", looked_often)

    assert len(await described(sim_workshop, "tag:puter:intent")) == 1


async def described(shop: SimWorkshop, by: str) -> list[str]:
    """The DescribeInstances calls with this filter."""
    return [call.code for call in await shop.calls("DescribeInstances") if by in call.params.values()]


async def test_a_redis_put_back_launches_nothing_beside_a_launch_that_ec2_shows_in_part(
    sim_workshop: SimWorkshop, tmp_path: Path
) -> None:
    """Its launch queue has keys whose look-up was before that launch."""
    await sim_workshop.sim.configure(capacity=[{"slots": 0}])
    async with sim_workshop.working(memory_folder=tmp_path / "targets"):
        await sim_workshop.submit(*TAGS[:3], spot=True)

        async def tried() -> bool:
            return bool(await sim_workshop.calls("RunInstances"))

        await eventually("there is no capacity", tried)
    with sim_workshop.server.client() as behind:
        backup = {key: behind.dump(key) for key in behind.scan_iter()}
    await sim_workshop.sim.configure(capacity=[])
    async with sim_workshop.working(memory_folder=tmp_path / "targets"):
        await sim_workshop.request("later")
    with sim_workshop.server.client() as behind:
        behind.flushall()
        for key, value in backup.items():
            behind.restore(key, 0, value or b"")
    for one in await sim_workshop.living():
        await sim_workshop.sim.shut_down(one.id)
    ids = launched_elsewhere(sim_workshop, TAGS[:3], 2)
    async with sim_workshop.working(memory_folder=tmp_path / "targets", quarantine_s=0.5):

        async def waits() -> bool:
            return sum("may be its machine" in reason for reason in await sim_workshop.reasons(*TAGS[:3])) == 3

        await eventually("they wait for the rest of that launch", waits)

    assert {one.id for one in await sim_workshop.living()} == set(ids)
