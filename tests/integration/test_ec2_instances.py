"""Machines launched, looked up and tagged, on moto."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import aioboto3
import msgspec
import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.os_image import Os
from puter_client.contract.spec import Spec
from puter_worker.ec2.arguments import RunCall, run_arguments
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.groups import default_subnets, ensure_group
from puter_worker.ec2.images import latest_image
from puter_worker.ec2.instances import (
    ENDED_STATES,
    Instance,
    add_group,
    console_output,
    create_tags,
    describe_by_ids,
    find_by_intents,
    find_by_tags,
    find_managed,
    find_unlabelled,
    run_instances,
)
from puter_worker.ec2.own_resources import OwnResources
from puter_worker.ec2.tags import birth_tags, encode_manifest, key_of, own_tags
from tests.integration.moto_server import REGION


async def launch_of(caller: Caller, **changes: Any) -> RunCall:
    """One group member's launch unless changed, in moto's default network."""
    image = await latest_image(caller, Os.AL2023, "x86_64")
    group = await ensure_group(caller, name=None, vpc_id=None, cidrs=[], own=OwnResources())
    launch = RunCall(
        spec=Spec(),
        image=image,
        instance_type="t3.micro",
        key_name=None,
        group_id=group.group_id,
        client_token="puter-token-1",
        tags=birth_tags(namespace="lab", intent="intent-1", batch="b1", owner="me", expires_at=None),
        user_data=b"\x1f\x8b\x00\xff",
    )
    return msgspec.structs.replace(launch, **changes)


async def launched(caller: Caller, **changes: Any) -> list[Instance]:
    # moto launches as few as it may, EC2 as many as it can.
    changes.setdefault("min_count", changes.get("max_count", 1))
    frozen = json.dumps(run_arguments(await launch_of(caller, **changes)))
    instances, _ = await run_instances(caller, json.loads(frozen))
    return instances


async def attribute(instance_id: str, name: str) -> Any:
    async with aioboto3.Session().client("ec2", region_name=REGION) as client:
        return await client.describe_instance_attribute(InstanceId=instance_id, Attribute=name)  # type: ignore[arg-type]


async def described(instances: Sequence[Instance]) -> Any:
    async with aioboto3.Session().client("ec2", region_name=REGION) as client:
        return await client.describe_instances(InstanceIds=[instance.instance_id for instance in instances])


async def test_a_group_comes_back_by_launch_index(caller: Caller) -> None:
    instances = await launched(caller, max_count=5)

    assert sorted(instance.number or 0 for instance in instances) == [0, 1, 2, 3, 4]
    tokens = [i["ClientToken"] for r in (await described(instances))["Reservations"] for i in r["Instances"]]
    assert set(tokens) == {"puter-token-1"}


async def test_a_launch_has_a_request_id(caller: Caller) -> None:
    _, request_id = await run_instances(caller, run_arguments(await launch_of(caller)))

    assert request_id


async def test_a_launch_without_a_token_is_refused(caller: Caller) -> None:
    with pytest.raises(ValueError, match="ClientToken"):
        await run_instances(caller, {"MinCount": 1, "MaxCount": 1})


async def test_user_data_arrives_byte_by_byte(caller: Caller) -> None:
    (instance,) = await launched(caller)

    told = await attribute(instance.instance_id, "userData")

    assert base64.b64decode(told["UserData"]["Value"]) == b"\x1f\x8b\x00\xff"


async def test_a_machine_that_shuts_down_ends(caller: Caller) -> None:
    (instance,) = await launched(caller)

    told = await attribute(instance.instance_id, "instanceInitiatedShutdownBehavior")

    assert told["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"


async def test_a_machine_lies_in_the_zone_requested(caller: Caller) -> None:
    (instance,) = await launched(caller, zone="us-east-1b")

    assert instance.availability_zone == "us-east-1b"


async def test_a_machine_lies_in_the_subnet_and_group_requested(caller: Caller) -> None:
    subnet = (await default_subnets(caller))[1]

    (instance,) = await launched(caller, subnet_id=subnet.subnet_id)

    assert (instance.subnet_id, instance.vpc_id) == (subnet.subnet_id, subnet.vpc_id)
    assert instance.group_ids == ((await launch_of(caller)).group_id,)


async def test_a_spot_machine_says_so(caller: Caller) -> None:
    (instance,) = await launched(caller, spot=True)

    assert instance.lifecycle == "spot"


async def test_what_is_described_is_what_was_launched(caller: Caller) -> None:
    (instance,) = await launched(caller)

    found = (await describe_by_ids(caller, [instance.instance_id]))[instance.instance_id]

    assert found.tags == instance.tags
    assert (found.state, found.state_reason, found.instance_type) == ("running", None, "t3.micro")
    assert found.public_ip
    assert found.launch_time == instance.launch_time


async def test_ids_that_ec2_does_not_know_are_left_out(caller: Caller) -> None:
    assert await describe_by_ids(caller, ["i-0123456789abcdef0"]) == {}


async def test_no_ids_ask_for_nothing(caller: Caller) -> None:
    await launched(caller)

    assert await describe_by_ids(caller, []) == {}


async def test_more_ids_than_a_filter_takes_are_requested_in_parts(caller: Caller) -> None:
    instances = await launched(caller, max_count=3)
    unknown = [f"i-{n:017x}" for n in range(500)]

    found = await describe_by_ids(caller, [*unknown, *(i.instance_id for i in instances)])

    assert found.keys() == {instance.instance_id for instance in instances}


async def test_members_of_a_group_are_told_by_its_manifest(caller: Caller) -> None:
    members = [(f"sweep-{n}", n + 1) for n in range(4)]
    shared = (await launch_of(caller)).tags
    await launched(caller, max_count=4, tags=shared | encode_manifest(members))

    found = await find_unlabelled(caller, "lab")

    told = {i.number: i.name for i in found}
    assert told == {n: (PuterKey("lab", tag), generation) for n, (tag, generation) in enumerate(members)}


async def test_a_labelled_machine_is_found_by_its_tag(caller: Caller) -> None:
    one, other = await launched(caller, max_count=2)
    await create_tags(caller, [one.instance_id], own_tags(PuterKey("lab", "sweep-1"), 2))

    (found,) = await find_by_tags(caller, "lab", ["sweep-1", "sweep-2"])

    assert found.instance_id == one.instance_id
    assert key_of(found.tags) == (PuterKey("lab", "sweep-1"), 2)
    assert [i.instance_id for i in await find_unlabelled(caller, "lab")] == [other.instance_id]


async def test_the_same_tag_in_another_namespace_is_another_machine(caller: Caller) -> None:
    (instance,) = await launched(caller)
    await create_tags(caller, [instance.instance_id], own_tags(PuterKey("lab", "a"), 1))

    assert await find_by_tags(caller, "art", ["a"]) == []


async def test_machines_are_found_by_their_intent(caller: Caller) -> None:
    instances = await launched(caller, max_count=2)

    found = await find_by_intents(caller, ["intent-1"])

    assert {i.instance_id for i in found} == {i.instance_id for i in instances}
    assert await find_by_intents(caller, ["intent-2"]) == []


async def test_a_sweep_shows_puters_machines_and_no_others(caller: Caller) -> None:
    (instance,) = await launched(caller)
    async with aioboto3.Session().client("ec2", region_name=REGION) as client:
        await client.run_instances(ImageId=instance.image_id or "", MinCount=1, MaxCount=1)

    assert [found.instance_id for found in await find_managed(caller)] == [instance.instance_id]


async def test_a_sweep_passes_over_machines_that_have_ended(caller: Caller) -> None:
    one, other = await launched(caller, max_count=2)
    async with aioboto3.Session().client("ec2", region_name=REGION) as client:
        await client.terminate_instances(InstanceIds=[one.instance_id])

    assert [found.instance_id for found in await find_managed(caller)] == [other.instance_id]
    assert [found.instance_id for found in await find_managed(caller, ENDED_STATES)] == [one.instance_id]


async def test_a_group_is_added_to_those_a_machine_has(caller: Caller) -> None:
    (instance,) = await launched(caller)
    further = await ensure_group(caller, name="further", vpc_id=None, cidrs=[], own=OwnResources())

    assert await add_group(caller, instance.instance_id, instance.group_ids, further.group_id)

    found = (await describe_by_ids(caller, [instance.instance_id]))[instance.instance_id]
    assert set(found.group_ids) == {*instance.group_ids, further.group_id}


async def test_a_group_that_a_machine_has_is_not_added(caller: Caller) -> None:
    (instance,) = await launched(caller)

    assert not await add_group(caller, instance.instance_id, instance.group_ids, instance.group_ids[0])


@pytest.mark.parametrize("latest", [True, False])
async def test_a_console_is_read(caller: Caller, latest: bool) -> None:
    (instance,) = await launched(caller)

    assert "Linux version" in await console_output(caller, instance.instance_id, latest=latest)
