"""What a RunInstances call asks for, read and checked against what there is."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import msgspec

from tests.ec2sim.catalog import find_type
from tests.ec2sim.errors import Ec2Error, invalid_value
from tests.ec2sim.groups import Group
from tests.ec2sim.images import Image, find_image
from tests.ec2sim.instance import Options
from tests.ec2sim.network import Subnet
from tests.ec2sim.tags import check_metadata_keys, read_tag_specifications
from tests.ec2sim.wire import Params

if TYPE_CHECKING:
    from tests.ec2sim.region import Region

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html: counted before base64.
MAX_USER_DATA = 16_384
MAX_GROUPS = 5
_TAGGABLE = frozenset({"instance", "volume", "network-interface", "spot-instances-request"})


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A launch as requested.

    Attributes:
        low: instances at least.
        high: instances at most.
        options: what all of them share.
        subnet: as named.
        zone: as named, or the named subnet's.
        groups: as named; none is the default group of the VPC.
        tags: of the instances at birth.
        volume_tags: of their volumes at birth.
    """

    low: int
    high: int
    options: Options
    subnet: Subnet | None
    zone: str | None
    groups: tuple[Group, ...]
    tags: dict[str, str]
    volume_tags: dict[str, str]


def named_place(region: Region, params: Params) -> tuple[Subnet | None, str | None]:
    """Subnet and zone that a launch names; raises if they do not exist or do not go together."""
    subnet_id = params.text("SubnetId")
    for interface in params.sections("NetworkInterface")[:1]:
        if subnet_id and interface.text("SubnetId"):
            message = "Network interfaces and an instance-level subnet ID may not be specified on the same request"
            raise Ec2Error("InvalidParameterCombination", message)
        subnet_id = subnet_id or interface.text("SubnetId")
    subnet = region.network.find_subnet(subnet_id) if subnet_id else None
    zone = params.section("Placement").text("AvailabilityZone")
    if zone is not None and zone not in region.network.zones:
        raise Ec2Error("InvalidParameterValue", f"Invalid availability zone: [{zone}]")
    if subnet and zone and subnet.zone.name != zone:
        message = f"The subnet '{subnet.id}' is not in the availability zone '{zone}'"
        raise Ec2Error("InvalidParameterValue", message)
    return subnet, subnet.zone.name if subnet else zone


def read_token(params: Params) -> str:
    """The ClientToken; raises InvalidParameterValue for one that EC2 does not take."""
    token = params.text("ClientToken") or ""
    if len(token) > 64 or not token.isascii():
        raise invalid_value("clientToken", token, "Expecting up to 64 ASCII characters.")
    return token


def read_order(region: Region, params: Params) -> Order:
    """The launch as requested; raises what EC2 answers to one that cannot be."""
    low, high = params.integer("MinCount"), params.integer("MaxCount")
    if low is None or high is None:
        raise Ec2Error("MissingParameter", "The request must contain the parameters MinCount and MaxCount")
    if not 1 <= low <= high:
        message = f"Invalid counts: MinCount {low}, MaxCount {high}"
        raise Ec2Error("InvalidParameterValue", message)
    subnet, zone = named_place(region, params)
    options = _read_options(region, params)
    tags = read_tag_specifications(params, _TAGGABLE)
    if options.metadata_tags:
        check_metadata_keys(tags.get("instance", {}))
    return Order(
        low=low,
        high=high,
        options=options,
        subnet=subnet,
        zone=zone,
        groups=_read_groups(region, params, subnet),
        tags=tags.get("instance", {}),
        volume_tags=tags.get("volume", {}),
    )


def _read_options(region: Region, params: Params) -> Options:
    image = find_image(region.images, params.need("ImageId"))
    kind = find_type(params.text("InstanceType") or "m1.small")
    if image.architecture not in kind.architectures:
        message = (
            f"The architecture '{','.join(kind.architectures)}' of the specified instance type does not match the "
            f"architecture '{image.architecture}' of the specified AMI. Specify an instance type and an AMI that "
            "have matching architectures, and try again."
        )
        raise Ec2Error("InvalidParameterValue", message)
    key_name = params.text("KeyName")
    if key_name is not None:
        region.keys.find(key_name)
    metadata = params.section("MetadataOptions")
    interface = next(iter(params.sections("NetworkInterface")), Params({}))
    return Options(
        image=image,
        type=kind,
        key_name=key_name,
        client_token=read_token(params),
        user_data=_read_user_data(params),
        shutdown_behavior=_one_of(params, "InstanceInitiatedShutdownBehavior", ("stop", "terminate")),
        spot=_one_of(params.section("InstanceMarketOptions"), "MarketType", ("", "spot")) == "spot",
        instance_profile=_read_profile(region, params),
        http_tokens=_one_of(metadata, "HttpTokens", ("optional", "required")),
        metadata_tags=_one_of(metadata, "InstanceMetadataTags", ("disabled", "enabled")) == "enabled",
        hop_limit=metadata.integer("HttpPutResponseHopLimit") or 2,
        root_gib=_read_root_gib(params, image),
        public=interface.flag("AssociatePublicIpAddress"),
        monitoring=bool(params.section("Monitoring").flag("Enabled")),
    )


def _one_of(params: Params, name: str, known: tuple[str, ...]) -> str:
    value = params.text(name)
    if value is not None and value not in known:
        raise invalid_value(name, value, f"Expecting {' or '.join(filter(None, known))}.")
    return known[0] if value is None else value


def _read_user_data(params: Params) -> bytes:
    try:
        data = base64.b64decode(params.text("UserData") or "", validate=True)
    except (binascii.Error, ValueError):
        raise Ec2Error("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.") from None
    if len(data) > MAX_USER_DATA:
        raise Ec2Error("InvalidParameterValue", f"User data is limited to {MAX_USER_DATA} bytes")
    return data


def _read_profile(region: Region, params: Params) -> str | None:
    section = params.section("IamInstanceProfile")
    name = section.text("Name") or (section.text("Arn") or "").rpartition("/")[2] or None
    known = region.dials.config.instance_profiles
    if name and known is not None and name not in known:
        why = "Invalid IAM Instance Profile name"
        raise invalid_value("iamInstanceProfile.name", name, why)
    return name


def _read_root_gib(params: Params, image: Image) -> int:
    for mapping in params.sections("BlockDeviceMapping"):
        size = mapping.section("Ebs").integer("VolumeSize")
        if mapping.need("DeviceName") == image.root_device and size is not None:
            if size < image.root_gib:
                message = (
                    f"Volume of size {size}GB is smaller than snapshot '{image.snapshot_id}', "
                    f"expect size >= {image.root_gib}GB"
                )
                raise Ec2Error("InvalidBlockDeviceMapping", message)
            return size
    return image.root_gib


def _read_groups(region: Region, params: Params, subnet: Subnet | None) -> tuple[Group, ...]:
    names, ids = params.texts("SecurityGroup"), params.texts("SecurityGroupId")
    for interface in params.sections("NetworkInterface")[:1]:
        if ids or names:
            message = "Network interfaces and instance-level security groups may not be specified on the same request"
            raise Ec2Error("InvalidParameterCombination", message)
        ids = interface.texts("SecurityGroupId")
    if names and subnet:
        raise Ec2Error(
            "InvalidParameterCombination", "The parameter groupName cannot be used with the parameter subnet"
        )
    found = [region.groups.find(each) for each in ids] + [region.groups.find_named(each) for each in names]
    vpc = subnet.vpc if subnet else region.network.find_vpc(None)
    return checked_groups(found or [region.groups.default_of(vpc.id)], vpc.id)


def checked_groups(groups: list[Group], vpc_id: str) -> tuple[Group, ...]:
    """Groups that one instance can be in; raises otherwise."""
    unique = list({group.id: group for group in groups}.values())
    for group in unique:
        if group.vpc_id != vpc_id:
            message = f"Security group {group.id} and the instance belong to different networks."
            raise Ec2Error("InvalidParameter", message)
    if len(unique) > MAX_GROUPS:
        message = "The maximum number of security groups per interface has been reached."
        raise Ec2Error("SecurityGroupsPerInterfaceLimitExceeded", message)
    return tuple(unique)
