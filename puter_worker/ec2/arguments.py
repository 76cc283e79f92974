"""The exact arguments of RunInstances, composed once and then frozen."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import USER_DATA_LIMIT_BYTES
from puter_client.contract.key import shown
from puter_client.contract.spec import Spec
from puter_worker.ec2.images import Image
from puter_worker.ec2.own_tags import are_shown
from puter_worker.ec2.tags import MANAGED, MANIFEST, MEMBER, specification
from puter_worker.errors import DiskTooSmall, UnusableImage

MAX_TOKEN = 64
# A container is one hop further from the metadata service: with EC2's default of 1 it could not use the role.
_METADATA_HOPS = 2


class RunCall(msgspec.Struct, frozen=True, kw_only=True):
    """What one RunInstances call asks for.

    Attributes:
        spec: any member's spec. Only the fields that all members share may be read here. The image, key pair, group
            and place that result from it are decided elsewhere, and are given by the attributes below.
        image: the image to boot.
        instance_type: such as `t3.micro`.
        key_name: the key pair to launch with; None is none.
        group_id: the security group.
        client_token: ≤64 ASCII characters; a second call with the same token launches nothing.
        tags: for the instances, and without the manifest also for volumes and a Spot request; `puter:managed` is
            among them.
        user_data: the bytes that the machine gets (perhaps gzipped), ≤16 KB.
        min_count: EC2 launches none if it cannot launch this many.
        max_count: EC2 launches up to this many.
        subnet_id: the subnet, which also decides the zone; None is the default VPC's subnet.
        spot: whether Spot instances are launched.
        zone: the availability zone, if no subnet is given; None leaves the choice to EC2.
    """

    spec: Spec
    image: Image
    instance_type: str
    key_name: str | None
    group_id: str
    client_token: str
    tags: dict[str, str]
    user_data: bytes
    min_count: int = 1
    max_count: int = 1
    subnet_id: str | None = None
    zone: str | None = None
    spot: bool = False

    def __repr__(self) -> str:
        # User data may hold secrets, and logs may show a repr.
        return f"RunCall(instance_type={self.instance_type!r}, client_token={self.client_token!r})"


def run_arguments(launch: RunCall) -> dict[str, Any]:
    """The arguments of RunInstances, in JSON types only (user data as base64), to be stored and sent again.

    Raises:
        InvalidInput: the user data is over EC2's limit.
        UnusableImage: the size of the root disk is requested, and the disk's name is not known.
        DiskTooSmall: the image does not fit onto a root disk of the requested size.
        ValueError: a defect of Puter: the token is missing or too long, or the tag `puter:managed` is missing.
    """
    if len(launch.user_data) > USER_DATA_LIMIT_BYTES:
        raise InvalidInput(
            f"user_data: {len(launch.user_data):,} bytes with Puter's part: EC2 takes {USER_DATA_LIMIT_BYTES:,}; "
            "let the machine download large files"
        )
    if not launch.client_token.isascii() or not 0 < len(launch.client_token) <= MAX_TOKEN:
        raise ValueError(f"client token {launch.client_token!r}: 1 to {MAX_TOKEN} ASCII characters")
    if launch.tags.get(MANAGED) != "true":
        raise ValueError(f"the tag {MANAGED}=true is missing: Puter would not find the machine again")
    spec = launch.spec
    arguments: dict[str, Any] = {
        "ImageId": launch.image.image_id,
        "InstanceType": launch.instance_type,
        "MinCount": launch.min_count,
        "MaxCount": launch.max_count,
        "ClientToken": launch.client_token,
        "UserData": base64.b64encode(launch.user_data).decode(),
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": _METADATA_HOPS,
            # The agent reads its orders there. A machine with keys that the service does not take gets them by ssh.
            "InstanceMetadataTags": "enabled" if are_shown(launch.tags) else "disabled",
        },
        "TagSpecifications": _tag_specifications(launch),
    }
    if launch.key_name is not None:
        arguments["KeyName"] = launch.key_name
    arguments |= _network(launch)
    if spec.disk is not None:
        if launch.image.root_device_name is None:
            raise UnusableImage(
                f"{launch.image.image_id} has a root disk whose name is not known, because the worker's role may not "
                "call DescribeImages: allow it (deploy/iam-policy.json has all), or leave the disk's size out"
            )
        if launch.image.root_gib is not None and spec.disk < launch.image.root_gib:
            raise DiskTooSmall(
                f"a root disk of {spec.disk} GiB is too small for image {launch.image.image_id} "
                f"({shown(launch.image.name, 80)}), which needs {launch.image.root_gib} GiB: write --disk "
                f"{launch.image.root_gib} or more, or leave the disk's size out"
            )
        arguments["BlockDeviceMappings"] = [
            {
                "DeviceName": launch.image.root_device_name,
                "Ebs": {"VolumeSize": spec.disk, "VolumeType": "gp3", "DeleteOnTermination": True},
            }
        ]
    if spec.instance_profile is not None:
        arguments["IamInstanceProfile"] = {"Name": spec.instance_profile}
    if launch.spot:
        arguments["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return arguments


def _network(launch: RunCall) -> dict[str, Any]:
    place: dict[str, Any] = {}
    if launch.zone and not launch.subnet_id:
        place["Placement"] = {"AvailabilityZone": launch.zone}
    if launch.subnet_id:
        place["SubnetId"] = launch.subnet_id
    return place | {"SecurityGroupIds": [launch.group_id]}


def _tag_specifications(launch: RunCall) -> list[dict[str, Any]]:
    shared = {key: value for key, value in launch.tags.items() if not key.startswith(MANIFEST) and key != MEMBER}
    kinds = ["volume", "spot-instances-request"] if launch.spot else ["volume"]
    return [specification("instance", launch.tags), *(specification(kind, shared) for kind in kinds)]
