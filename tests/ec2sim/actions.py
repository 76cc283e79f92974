"""The supported actions: their parameters, and the function that executes each."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from tests.ec2sim import catalog, images, launch, machines
from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.region import Region
from tests.ec2sim.wire import Params

# What it answers, and the ids of what it made or changed.
Done = tuple[str, tuple[str, ...]]
Handler = Callable[[Region, Params, Mapping[str, str]], Done]
_ANY = frozenset({"Action", "Version", "DryRun"})
_PAGED = frozenset({"Filter", "MaxResults", "NextToken"})


class Action(msgspec.Struct, frozen=True):
    """One call.

    Attributes:
        handle: does it.
        params: outermost names of what it may be sent; whatever else would be silently ignored, so it is refused.
    """

    handle: Handler
    params: frozenset[str]


def _reads(read: Callable[[Region, Params], str], *params: str) -> Action:
    return Action(lambda region, sent, _: (read(region, sent), ()), _ANY | frozenset(params))


def _does(do: Callable[[Region, Params], Done], *params: str) -> Action:
    return Action(lambda region, sent, _: do(region, sent), _ANY | frozenset(params))


def _makes(make: Callable[[Region, Params], tuple[str, str]], *params: str) -> Action:
    def handle(region: Region, sent: Params, _: Mapping[str, str]) -> Done:
        answer, made = make(region, sent)
        return answer, (made,)

    return Action(handle, _ANY | frozenset(params))


ACTIONS: dict[str, Action] = {
    "RunInstances": Action(
        launch.run_instances,
        _ANY
        | {"BlockDeviceMapping", "ClientToken", "EbsOptimized", "IamInstanceProfile", "ImageId"}
        | {"InstanceInitiatedShutdownBehavior", "InstanceMarketOptions", "InstanceType", "KeyName", "MaxCount"}
        | {"MetadataOptions", "MinCount", "Monitoring", "NetworkInterface", "Placement", "SecurityGroup"}
        | {"SecurityGroupId", "SubnetId", "TagSpecification", "UserData"},
    ),
    "DescribeInstances": _reads(machines.describe_instances, "InstanceId", *_PAGED),
    "CreateTags": _does(machines.create_tags, "ResourceId", "Tag"),
    "ModifyInstanceAttribute": _does(
        machines.modify_attribute,
        *("InstanceId", "GroupId", "InstanceInitiatedShutdownBehavior", "DisableApiTermination", "Attribute", "Value"),
    ),
    "GetConsoleOutput": _reads(machines.console_output, "InstanceId", "Latest"),
    "TerminateInstances": _does(machines.terminate_instances, "InstanceId"),
    "StopInstances": _does(machines.stop_instances, "InstanceId", "Force"),
    "DescribeImages": _reads(
        lambda r, p: images.describe_images(p, r.images, r.account, r.dials.now()),
        *("ImageId", "Owner", "IncludeDeprecated", *_PAGED),
    ),
    "DescribeInstanceTypes": _reads(lambda _, p: catalog.describe_instance_types(p), "InstanceType", *_PAGED),
    "DescribeInstanceTypeOfferings": _reads(
        lambda r, p: catalog.describe_offerings(p, r.dials.config, r.name, r.network.zones.values()),
        *("LocationType", *_PAGED),
    ),
    "DescribeKeyPairs": _reads(lambda r, p: r.keys.describe(p), "KeyName", "KeyPairId", "IncludePublicKey", "Filter"),
    "ImportKeyPair": _makes(lambda r, p: r.keys.import_pair(p), "KeyName", "PublicKeyMaterial", "TagSpecification"),
    "CreateKeyPair": _makes(lambda r, p: r.keys.create_pair(p), "KeyName", "KeyType", "KeyFormat", "TagSpecification"),
    "DescribeSecurityGroups": _reads(lambda r, p: r.groups.describe(p), "GroupId", "GroupName", *_PAGED),
    "CreateSecurityGroup": _makes(
        lambda r, p: r.groups.create(p), "GroupName", "GroupDescription", "VpcId", "TagSpecification"
    ),
    "AuthorizeSecurityGroupIngress": _makes(
        lambda r, p: r.groups.authorize(p),
        *("GroupId", "GroupName", "IpPermissions", "CidrIp", "IpProtocol", "FromPort", "ToPort"),
    ),
    "DescribeAvailabilityZones": _reads(
        lambda r, p: r.network.describe_zones(p), "ZoneName", "ZoneId", "AllAvailabilityZones", "Filter"
    ),
    "DescribeVpcs": _reads(lambda r, p: r.network.describe_vpcs(p), "VpcId", *_PAGED),
    "DescribeSubnets": _reads(lambda r, p: r.network.describe_subnets(p), "SubnetId", *_PAGED),
}


def find_action(name: str, params: Params) -> Action:
    """The entry of an action.

    Raises:
        Ec2Error: InvalidAction, or UnknownParameter for a parameter that the simulator ignores.
    """
    action = ACTIONS.get(name)
    if action is None:
        raise Ec2Error("InvalidAction", f"The action {name} is not valid for this web service.")
    unknown = params.names - action.params
    if unknown:
        message = f"The parameter {', '.join(sorted(unknown))} is not modelled by the simulator"
        raise Ec2Error("UnknownParameter", message)
    return action
