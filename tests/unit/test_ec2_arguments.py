"""The very arguments of a launch."""

from __future__ import annotations

import base64
import json
from typing import Any

import msgspec
import pytest

from puter_client.contract.declaration import Declared, declared
from puter_client.contract.errors import InvalidInput
from puter_client.contract.spec import Spec
from puter_worker.ec2.arguments import RunCall, run_arguments
from puter_worker.ec2.images import Image
from puter_worker.ec2.tags import birth_tags, encode_manifest
from puter_worker.errors import DiskTooSmall

TAGS = birth_tags(namespace="lab", intent="i1", batch=None, owner="me", expires_at=None)
LAUNCH = RunCall(
    spec=Spec(),
    image=Image(image_id="ami-1", name="al", architecture="x86_64", root_device_name="/dev/xvdz"),
    instance_type="t3.micro",
    key_name="puter-v1",
    group_id="sg-1",
    client_token="token",
    tags=TAGS,
    user_data=b"\xff secret",
)


def arguments(**changes: Any) -> dict[str, Any]:
    return run_arguments(msgspec.structs.replace(LAUNCH, **changes))


def tagged(arguments: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {
        spec["ResourceType"]: {tag["Key"]: tag["Value"] for tag in spec["Tags"]}
        for spec in arguments["TagSpecifications"]
    }


def test_a_call_survives_being_kept_as_json() -> None:
    asked = arguments(max_count=3, spot=True, spec=Spec(disk=20))

    assert json.loads(json.dumps(asked)) == asked


def test_user_data_is_kept_as_base64() -> None:
    assert base64.b64decode(arguments()["UserData"]) == b"\xff secret"


def test_machines_end_when_they_shut_down() -> None:
    assert arguments()["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_metadata_needs_a_token() -> None:
    asked = arguments()["MetadataOptions"]

    assert (asked["HttpTokens"], asked["HttpEndpoint"]) == ("required", "enabled")


def test_volumes_bear_the_tags_too_but_no_manifest() -> None:
    manifest = encode_manifest([("a", 1)])

    assert tagged(arguments(tags=TAGS | manifest)) == {"instance": TAGS | manifest, "volume": TAGS}


def test_a_spot_machine_is_requested_once_and_ends_when_interrupted() -> None:
    asked = arguments(spot=True)

    assert asked["InstanceMarketOptions"]["SpotOptions"] == {
        "SpotInstanceType": "one-time",
        "InstanceInterruptionBehavior": "terminate",
    }
    assert tagged(asked)["spot-instances-request"] == TAGS


def test_a_disk_goes_with_its_machine() -> None:
    (mapping,) = arguments(spec=Spec(disk=20))["BlockDeviceMappings"]

    assert mapping == {
        "DeviceName": "/dev/xvdz",
        "Ebs": {"VolumeSize": 20, "VolumeType": "gp3", "DeleteOnTermination": True},
    }


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, {"SecurityGroupIds": ["sg-1"]}),
        ({"zone": "z1"}, {"SecurityGroupIds": ["sg-1"], "Placement": {"AvailabilityZone": "z1"}}),
        ({"subnet_id": "subnet-1"}, {"SecurityGroupIds": ["sg-1"], "SubnetId": "subnet-1"}),
        ({"subnet_id": "subnet-1", "zone": "z1"}, {"SecurityGroupIds": ["sg-1"], "SubnetId": "subnet-1"}),
    ],
    ids=["default", "zone", "subnet", "subnet-decides"],
)
def test_a_machine_has_its_place(changes: dict[str, Any], place: dict[str, Any]) -> None:
    asked = arguments(**changes)

    where = ("SecurityGroupIds", "SubnetId", "Placement", "NetworkInterfaces")
    assert {name: asked[name] for name in where if name in asked} == place


@pytest.mark.parametrize(("disk", "least"), [(8, 8), (9, 8), (1, None)])
def test_a_disk_has_the_size_requested(disk: int, least: int | None) -> None:
    image = msgspec.structs.replace(LAUNCH.image, root_gib=least)
    (device,) = arguments(spec=Spec(disk=disk), image=image)["BlockDeviceMappings"]

    assert (device["DeviceName"], device["Ebs"]["VolumeSize"]) == ("/dev/xvdz", disk)


def test_a_disk_that_the_image_does_not_fit_onto_is_refused_with_the_sizes() -> None:
    image = msgspec.structs.replace(LAUNCH.image, root_gib=75)

    with pytest.raises(DiskTooSmall) as caught:
        arguments(spec=Spec(disk=74), image=image)

    assert caught.value.message == (
        "a root disk of 74 GiB is too small for image ami-1 ('al'), which needs 75 GiB: write --disk 75 or more, or "
        "leave the disk's size out"
    )


def test_what_is_not_requested_is_not_sent() -> None:
    asked = arguments(key_name=None)

    assert not {"KeyName", "IamInstanceProfile", "BlockDeviceMappings", "InstanceMarketOptions"} & asked.keys()


def test_an_instance_profile_goes_by_its_name() -> None:
    assert arguments(spec=Spec(instance_profile="lab"))["IamInstanceProfile"] == {"Name": "lab"}


@pytest.mark.parametrize(
    "field", [item for item in declared(Spec) if item.field.per_member], ids=lambda item: item.name
)
def test_what_is_a_members_own_changes_nothing_for_all(field: Declared) -> None:
    other = {"env": {"A": "1"}, "give_up_after_s": 60}.get(field.attribute, "x")

    assert arguments(spec=msgspec.structs.replace(Spec(), **{field.attribute: other})) == arguments()


def test_user_data_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidInput, match="16,385 bytes"):
        arguments(user_data=b"x" * 16_385)


@pytest.mark.parametrize("token", ["", "x" * 65, "ü"])
def test_a_token_that_ec2_would_not_take_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="client token"):
        arguments(client_token=token)


def test_a_launch_that_nobody_could_find_again_is_refused() -> None:
    with pytest.raises(ValueError, match="puter:managed=true"):
        arguments(tags={})


def test_a_launchs_repr_shows_no_user_data() -> None:
    assert "secret" not in repr(LAUNCH)
