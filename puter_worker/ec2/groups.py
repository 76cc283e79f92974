"""The security group that lets ssh in, and the VPC that it belongs to.

Groups that Puter made have the tag `puter:managed`; Puter adds rules to these and never removes one. It uses all
other groups as they are. Two workers may ensure the same group at the same time: one of them gets a `*.Duplicate`
error, reads the group again and continues with what it finds.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from puter_client.contract.key import shown
from puter_worker.ec2.answers import Answer, GroupAnswer, Groups, Permission, Subnets, Tag, Vpcs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.tags import MANAGED, from_ec2, specification
from puter_worker.errors import Ec2Error, Handling, NoDefaultVpc, StageError, SubnetMissing
from puter_worker.timings import Timings

SSH_PORT = 22
_RULES_FULL = "RulesPerSecurityGroupLimitExceeded"

Sleep = Callable[[float], Awaitable[None]]


class Pauses(NamedTuple):
    """How long to wait between looks for a group that EC2 does not show yet."""

    each_s: tuple[float, ...]
    sleep: Sleep = asyncio.sleep


PAUSES = Pauses(Timings().group_seen_s)


class SecurityGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A security group to launch into.

    Attributes:
        group_id: `sg-…`.
        vpc_id: the VPC that it belongs to.
        notice: what its user should know about it, in plain words.
    """

    group_id: str
    vpc_id: str
    notice: str | None = None


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet to launch into.

    Attributes:
        subnet_id: `subnet-…`.
        vpc_id: the VPC that it belongs to.
        availability_zone: such as `us-east-1a`.
    """

    subnet_id: str
    vpc_id: str
    availability_zone: str


async def vpc_of_subnet(caller: Caller, subnet_id: str) -> Subnet:
    """The subnet with the id that a user gave.

    Raises:
        SubnetMissing: the region has no such subnet; and see Caller.call.
    """
    found = await caller.call("DescribeSubnets", Subnets, SubnetIds=[subnet_id])
    for subnet in _subnets(found):
        return subnet
    raise SubnetMissing(f"{caller.region} has no subnet {subnet_id}")


async def default_subnets(caller: Caller) -> list[Subnet]:
    """The default VPC's default subnets, one for each zone, sorted by zone; empty if there is no default VPC.

    Raises:
        StageError: see Caller.call.
    """
    found: list[Subnet] = []
    filters = [{"Name": "default-for-az", "Values": ["true"]}, {"Name": "state", "Values": ["available"]}]
    async for page in caller.pages("DescribeSubnets", Subnets, Filters=filters, MaxResults=100):
        found += _subnets(page)
    return sorted(found, key=lambda subnet: subnet.availability_zone)


async def ensure_group(
    caller: Caller,
    *,
    name: str,
    vpc_id: str | None,
    cidrs: Sequence[str],
    tags: Mapping[str, str],
    pauses: Pauses = PAUSES,
) -> SecurityGroup:
    """The group of a name; it is made if it does not exist, and opened for ssh from `cidrs` if Puter made it.

    Args:
        caller: its account and region are used.
        name: the group's name.
        vpc_id: None is the default VPC.
        cidrs: the addresses that may reach port 22; IPv4 and IPv6.
        tags: for a group that is made, in addition to `puter:managed`.
        pauses: between looks for a group that was just made.

    Returns:
        The group; it has a notice if not all of `cidrs` may reach port 22. That is no error: the machine runs anyway.

    Raises:
        StageError: NoDefaultVpc; and see Caller.call.
    """
    vpc_id = vpc_id or await _default_vpc(caller)
    group = await _found(caller, name, vpc_id)
    if group is None:
        try:
            group = await _made(caller, name, vpc_id, tags)
        except Ec2Error as error:
            if error.code != "InvalidGroup.Duplicate":
                raise
            group = await _seen(caller, name, vpc_id, error, pauses)
    missing = missing_cidrs(group.ip_permissions, cidrs)
    notice = None
    if missing and from_ec2(group.tags).get(MANAGED) == "true":
        notice = await _let_in(caller, group, missing, name, vpc_id, pauses)
    elif missing:
        notice = (
            f"Puter did not make the security group {shown(name)} and does not change it: "
            f"it does not let ssh in from {_listed(missing)}"
        )
    return SecurityGroup(group_id=group.group_id, vpc_id=vpc_id, notice=notice)


def missing_cidrs(rules: Iterable[Permission], wanted: Iterable[str]) -> list[str]:
    """The wanted CIDRs, sorted, that no rule lets reach port 22 yet; a wider rule covers a narrower CIDR."""
    allowed = [
        ipaddress.ip_network(cidr, strict=False)
        for rule in rules
        if _opens_ssh(rule)
        for cidr in (*(r.cidr_ip for r in rule.ip_ranges), *(r.cidr_ipv6 for r in rule.ipv6_ranges))
    ]
    return sorted({cidr for cidr in wanted if not any(_within(cidr, network) for network in allowed)})


def _opens_ssh(rule: Permission) -> bool:
    if rule.ip_protocol == "-1":
        return True
    if rule.ip_protocol not in {"tcp", "6"} or rule.from_port is None or rule.to_port is None:
        return False
    return rule.from_port <= SSH_PORT <= rule.to_port


def _within(cidr: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    wanted = ipaddress.ip_network(cidr)
    if isinstance(wanted, ipaddress.IPv4Network) and isinstance(network, ipaddress.IPv4Network):
        return wanted.subnet_of(network)
    if isinstance(wanted, ipaddress.IPv6Network) and isinstance(network, ipaddress.IPv6Network):
        return wanted.subnet_of(network)
    return False


async def _let_in(
    caller: Caller, group: GroupAnswer, missing: list[str], name: str, vpc_id: str, pauses: Pauses
) -> str | None:
    """Adds the missing rules; returns a notice if the group has no room for them."""
    wanted = missing
    for pause_s in (*pauses.each_s, None):
        try:
            await caller.call(
                "AuthorizeSecurityGroupIngress", Answer, GroupId=group.group_id, IpPermissions=permissions(missing)
            )
        except Ec2Error as error:
            if error.code == _RULES_FULL:
                return (
                    f"the security group {shown(name)} is full (EC2's default limit is 60 rules): "
                    f"it does not let ssh in from {_listed(missing)}; choose another --security-group-name"
                )
            again = error.handling is Handling.JUST_MADE or error.code == "InvalidPermission.Duplicate"
            if not again or pause_s is None:
                raise
            await pauses.sleep(pause_s)
            # If one of the rules exists already, the call adds none of the others: send only those that are missing.
            seen = await _found(caller, name, vpc_id)
            missing = missing_cidrs(seen.ip_permissions, wanted) if seen else wanted
            if not missing:
                return None
        else:
            return None
    return None


def permissions(cidrs: Iterable[str]) -> list[dict[str, Any]]:
    """EC2's IpPermissions that let ssh in from CIDRs, one entry for IPv4 and one for IPv6."""
    ranges4, ranges6 = [], []
    for cidr in cidrs:
        if ipaddress.ip_network(cidr).version == 4:
            ranges4.append({"CidrIp": cidr, "Description": "ssh, by Puter"})
        else:
            ranges6.append({"CidrIpv6": cidr, "Description": "ssh, by Puter"})
    ports = {"IpProtocol": "tcp", "FromPort": SSH_PORT, "ToPort": SSH_PORT}
    return [ports | {key: value} for key, value in (("IpRanges", ranges4), ("Ipv6Ranges", ranges6)) if value]


async def _default_vpc(caller: Caller) -> str:
    filters = [{"Name": "is-default", "Values": ["true"]}]
    found = await caller.call("DescribeVpcs", Vpcs, Filters=filters)
    if not found.vpcs:
        raise NoDefaultVpc(
            f"the account has no default VPC in {caller.region}: give --subnet with one of your VPC's",
        )
    return found.vpcs[0].vpc_id


async def _found(caller: Caller, name: str, vpc_id: str) -> GroupAnswer | None:
    literal = name.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")
    filters = [{"Name": "vpc-id", "Values": [vpc_id]}, {"Name": "group-name", "Values": [literal]}]
    found = await caller.call("DescribeSecurityGroups", Groups, Filters=filters)
    return next((group for group in found.security_groups if group.group_name == name), None)


async def _seen(caller: Caller, name: str, vpc_id: str, duplicate: StageError, pauses: Pauses) -> GroupAnswer:
    for pause_s in pauses.each_s:
        group = await _found(caller, name, vpc_id)
        if group is not None:
            return group
        await pauses.sleep(pause_s)
    raise duplicate


async def _made(caller: Caller, name: str, vpc_id: str, tags: Mapping[str, str]) -> GroupAnswer:
    made = await caller.call(
        "CreateSecurityGroup",
        GroupAnswer,
        GroupName=name,
        Description="Made by Puter: lets ssh in to its machines",
        VpcId=vpc_id,
        TagSpecifications=[specification("security-group", {**tags, MANAGED: "true"})],
    )
    return msgspec.structs.replace(made, ip_permissions=[], tags=[Tag(key=MANAGED, value="true")])


def _subnets(found: Subnets) -> list[Subnet]:
    return [
        Subnet(
            subnet_id=subnet.subnet_id,
            vpc_id=subnet.vpc_id,
            availability_zone=subnet.availability_zone,
        )
        for subnet in found.subnets
    ]


def _listed(cidrs: Sequence[str]) -> str:
    return ", ".join(cidrs[:3]) + (f" and {len(cidrs) - 3} more" if len(cidrs) > 3 else "")
