"""The exact arguments of RunInstances, composed once and then frozen."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import USER_DATA_LIMIT_BYTES
from puter_client.contract.spec import Spec
from puter_worker.ec2.images import Image
from puter_worker.ec2.tags import MANAGED, MANIFEST, specification

MAX_TOKEN = 64
# A container is one hop away from the machine's metadata; with 1, EC2's own default, it could not use the role.
_METADATA_HOPS = 2


class Launch(msgspec.Struct, frozen=True, kw_only=True):
    """What one RunInstances call asks for.

    Attributes:
        spec: of any member. Only the fields that all members share may be read here; which image, key pair, group
            and place they come to is decided elsewhere, and given by the attributes below.
        image: what is booted.
        instance_type: EC2's name of it.
        key_name: the key pair that may sign in.
        group_id: the security group.
        client_token: ≤64 ASCII characters; a second call with the same token launches nothing.
        tags: of the instances; of volumes and a Spot request too, but for the manifest. Has `puter:managed`.
        user_data: as the machine gets it (perhaps gzipped), ≤16 KB.
        min_count: EC2 launches none if it cannot launch this many.
        max_count: EC2 launches up to this many.
        subnet_id: decides the zone; None is the default VPC's subnet.
        zone: availability zone, where there is no subnet.
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

    def __repr__(self) -> str:
        # User data may carry secrets, and a repr ends in logs.
        return f"Launch(instance_type={self.instance_type!r}, client_token={self.client_token!r})"


def run_arguments(launch: Launch) -> dict[str, Any]:
    """The arguments of RunInstances, in JSON types only (user data as base64), to be stored and sent again.

    Raises:
        InvalidInput: the user data is over EC2's limit.
        ValueError: no user can cause it: there is no token, or EC2 or the IAM policy would not take token or tags.
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
        },
        "TagSpecifications": _tag_specifications(launch),
    }
    if launch.key_name is not None:
        arguments["KeyName"] = launch.key_name
    arguments |= _network(launch)
    if spec.disk is not None:
        arguments["BlockDeviceMappings"] = [
            {
                "DeviceName": launch.image.root_device_name,
                "Ebs": {"VolumeSize": spec.disk, "VolumeType": "gp3", "DeleteOnTermination": True},
            }
        ]
    if spec.instance_profile is not None:
        arguments["IamInstanceProfile"] = {"Name": spec.instance_profile}
    if spec.spot:
        arguments["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return arguments


def _network(launch: Launch) -> dict[str, Any]:
    place: dict[str, Any] = {}
    if launch.zone and not launch.subnet_id:
        place["Placement"] = {"AvailabilityZone": launch.zone}
    if launch.subnet_id:
        place["SubnetId"] = launch.subnet_id
    return place | {"SecurityGroupIds": [launch.group_id]}


def _tag_specifications(launch: Launch) -> list[dict[str, Any]]:
    shared = {key: value for key, value in launch.tags.items() if not key.startswith(MANIFEST)}
    kinds = ["volume", "spot-instances-request"] if launch.spec.spot else ["volume"]
    return [specification("instance", launch.tags), *(specification(kind, shared) for kind in kinds)]
