"""What a granted request looks like in EC2: tags, image, disk, network, key, and who may reach it."""

from __future__ import annotations

import base64
import email
import gzip
import re
from datetime import datetime

import pytest

from puter_client.contract.os_image import Os
from puter_client.contract.phase import Phase
from tests.integration.stage_world import redis_keeps_its_rules
from tests.integration.workshop import PUBLIC_KEY, Workshop

__all__ = ["redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")


async def test_a_machine_bears_its_tags_from_birth(workshop: Workshop) -> None:
    own = {"team": "render", "Cost Center": "Research / ML", "größe/1": "ü"}
    async with workshop.working():
        (view,) = await workshop.request("one", ttl_s=3_600, aws_tags=own)

    (instance,) = workshop.instances()
    tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
    assert view.record
    assert view.record.labelled
    assert re.fullmatch(r"[0-9a-f]{16}", tags.pop("puter:intent"))
    expires_at = datetime.fromisoformat(tags.pop("puter:expires-at"))
    assert expires_at.timestamp() == pytest.approx(instance["LaunchTime"].timestamp() + 3_600, abs=30)
    assert tags == {
        "Name": "puter/betty/one",
        "puter": "one",
        "puter:managed": "true",
        "puter:namespace": "betty",
        "puter:tag": "one",
        "puter:generation": "1",
        "puter:batch": view.batch_id,
        "puter:owner": "betty",
        "puter:labelled": "yes",
        **own,
    }


async def test_a_machine_without_an_end_says_so(workshop: Workshop) -> None:
    async with workshop.working():
        (view,) = await workshop.request("one", ttl_s=None)

    (instance,) = workshop.instances()
    assert workshop.tags(instance["InstanceId"])["puter:expires-at"] == "never"
    assert view.record
    assert view.record.expires_at is None


async def test_its_volumes_say_whose_they_are(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one", aws_tags={"team": "render"}, disk=33)

    (instance,) = workshop.instances()
    (device,) = instance["BlockDeviceMappings"]
    (volume,) = workshop.ec2.describe_volumes(VolumeIds=[device["Ebs"]["VolumeId"]])["Volumes"]
    tags = {tag["Key"]: tag["Value"] for tag in volume["Tags"]}
    assert (tags["puter:managed"], tags["puter:tag"], tags["team"]) == ("true", "one", "render")
    assert volume["Size"] == 33
    assert device["DeviceName"] == instance["RootDeviceName"]
    assert device["Ebs"]["DeleteOnTermination"]


async def test_a_machine_can_end_itself_and_guards_its_metadata(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one")

    (instance,) = workshop.instances()
    attribute = "instanceInitiatedShutdownBehavior"
    told = workshop.ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute=attribute)
    assert told["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"


async def test_its_user_data_is_mime_with_the_deadline_first_and_the_users_part_last(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one", run="make", env={"WHO": "betty"}, user_data="#!/bin/sh\necho mine\n")

    (instance,) = workshop.instances()
    told = workshop.ec2.describe_instance_attribute(InstanceId=instance["InstanceId"], Attribute="userData")
    message = email.message_from_bytes(gzip.decompress(base64.b64decode(told["UserData"]["Value"])))
    parts = [part for part in message.walk() if not part.is_multipart()]
    assert parts[0].get_content_type() == "text/cloud-boothook"
    last = parts[-1].get_payload(decode=True)
    assert isinstance(last, bytes)
    assert b"echo mine" in last
    assert any(b"WHO=betty" in (part.get_payload(decode=True) or b"") for part in parts)


@pytest.mark.parametrize(
    ("os", "pattern"), [(Os.AL2023, r"al2023-ami-2023\..*-x86_64"), (Os.AL2, r"amzn2-ami-hvm-2\.0\..*-x86_64-gp2")]
)
async def test_it_boots_the_newest_amazon_linux(workshop: Workshop, os: Os, pattern: str) -> None:
    async with workshop.working():
        (view,) = await workshop.request("one", os=os)

    (instance,) = workshop.instances()
    (image,) = workshop.ec2.describe_images(ImageIds=[instance["ImageId"]])["Images"]
    like_it = [
        other
        for other in workshop.ec2.describe_images(Owners=["amazon"])["Images"]
        if re.fullmatch(pattern, other["Name"]) and not re.search("-(minimal|ecs)-", other["Name"])
    ]
    assert re.fullmatch(pattern, image["Name"])
    assert image["CreationDate"] == max(other["CreationDate"] for other in like_it)
    assert view.record
    assert view.record.ami_id == instance["ImageId"]


async def test_it_is_of_the_type_image_and_subnet_requested(workshop: Workshop) -> None:
    vpc = workshop.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    subnet = workshop.ec2.create_subnet(VpcId=vpc, CidrBlock="10.9.1.0/24")["Subnet"]["SubnetId"]
    by_name = [{"Name": "name", "Values": ["amzn2-ami-hvm-2.0.*-x86_64-gp2"]}]
    ami = workshop.ec2.describe_images(Owners=["amazon"], Filters=by_name)["Images"][0]["ImageId"]
    async with workshop.working():
        (view,) = await workshop.request("one", subnet=subnet, ami=ami, instance_type="c5.large")

    (instance,) = workshop.instances()
    assert (instance["SubnetId"], instance["ImageId"], instance["InstanceType"]) == (subnet, ami, "c5.large")
    (group,) = workshop.ec2.describe_security_groups(GroupIds=[g["GroupId"] for g in instance["SecurityGroups"]])[
        "SecurityGroups"
    ]
    assert (group["GroupName"], group["VpcId"]) == ("puter-v1-betty", vpc)
    assert view.record
    assert view.record.vpc_id == vpc


async def test_key_and_group_are_made_once_for_all_machines(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one")
    async with workshop.working():
        (view,) = await workshop.request("two")

    (pair,) = workshop.ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"]
    assert (pair["KeyName"], pair["PublicKey"].split()[:2]) == ("puter-v1-betty", PUBLIC_KEY.split()[:2])
    groups = workshop.ec2.describe_security_groups(Filters=[{"Name": "group-name", "Values": ["puter-v1-betty"]}])[
        "SecurityGroups"
    ]
    (rule,) = groups[0]["IpPermissions"]
    assert len(groups) == 1
    assert {"Key": "puter:managed", "Value": "true"} in groups[0]["Tags"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 22, 22)
    assert [found["CidrIp"] for found in rule["IpRanges"]] == ["192.0.2.7/32"]
    assert view.record
    assert view.record.key_name == "puter-v1-betty"
    assert {instance["KeyName"] for instance in workshop.instances()} == {"puter-v1-betty"}


# -- keys ------------------------------------------------------------------------------------------------------------

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGuPT0cjPYBF9BZ0fFXDkWhcDN4d2gcTcS0ySMvz4m9H you"


async def test_a_key_of_somebody_else_under_the_default_name_is_left_alone(workshop: Workshop) -> None:
    workshop.ec2.import_key_pair(KeyName="puter-v1-betty", PublicKeyMaterial=OTHER_KEY.encode())
    async with workshop.working():
        (view,) = await workshop.request("one")
        events = await workshop.client.events("one")

    (instance,) = workshop.instances()
    assert re.fullmatch(r"puter-v1-betty\.[0-9a-f]{8}", instance["KeyName"])
    assert view.record
    assert view.record.key_name == instance["KeyName"]
    (begun,) = [event for event in events if event.event == "launch.begun"]
    assert "puter-v1" in begun.detail["notice"]


async def test_a_key_of_somebody_else_under_the_name_requested_fails_the_request(workshop: Workshop) -> None:
    workshop.ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=OTHER_KEY.encode())
    async with workshop.working():
        (view,) = await workshop.request("one", key_name="mine")

    assert view.phase is Phase.FAILED
    assert view.record
    assert view.record.error
    assert view.record.error.code == "KeyPairMismatch"
    assert "'mine'" in view.record.error.message
    assert "--key-name" in view.record.error.message
    assert workshop.instances() == []


async def test_a_key_that_only_ec2_holds_is_used(workshop: Workshop) -> None:
    workshop.ec2.import_key_pair(KeyName="mine", PublicKeyMaterial=OTHER_KEY.encode())
    async with workshop.working():
        await workshop.request("one", key_name="mine", public_key=None)

    (instance,) = workshop.instances()
    assert instance["KeyName"] == "mine"


async def test_without_any_key_the_request_fails_and_says_what_to_give(workshop: Workshop) -> None:
    async with workshop.working():
        (view,) = await workshop.request("one", public_key=None)

    assert view.phase is Phase.FAILED
    assert "--public-key" in (view.reason or "")
