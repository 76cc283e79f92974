"""The security group that lets ssh in, and the network it lies in.

Groups that Puter made bear `puter:managed`; to these it adds rules, and never takes one away. All others are used
as they are. Two workers may both ensure the same group: one of them meets a `*.Duplicate`, reads again and goes on
from what is there.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from puter_client.contract.key import shown
from puter_worker.ec2.answers import Answer, GroupAnswer, Groups, Permission, Subnets, Tag, Vpcs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.ec2.tags import MANAGED, from_ec2, specification

SSH_PORT = 22
# EC2 gives no bound for how long a new group may be out of sight; these add up to 6 s.
_PAUSES_S = (0.2, 0.4, 0.8, 1.6, 3.0)
_RULES_FULL = "RulesPerSecurityGroupLimitExceeded"

Sleep = Callable[[float], Awaitable[None]]


class SecurityGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A security group to launch into.

    Attributes:
        group_id: `sg-…`.
        vpc_id: whose it is.
        notice: what its user should know of it, in plain words.
    """

    group_id: str
    vpc_id: str
    notice: str | None = None


class Subnet(msgspec.Struct, frozen=True, kw_only=True):
    """A subnet to launch into.

    Attributes:
        subnet_id: `subnet-…`.
        vpc_id: whose it is.
        availability_zone: where it is.
    """

    subnet_id: str
    vpc_id: str
    availability_zone: str


async def vpc_of_subnet(caller: Caller, subnet_id: str) -> Subnet:
    """The subnet of an id that a user named.

    Raises:
        Ec2Error: InvalidSubnetID.NotFound where the region has none; and see Caller.call.
    """
    found = await caller.call("DescribeSubnets", Subnets, SubnetIds=[subnet_id])
    for subnet in _subnets(found):
        return subnet
    raise Ec2Error("InvalidSubnetID.NotFound", f"{caller.region} has no subnet {subnet_id}")


async def default_subnets(caller: Caller) -> list[Subnet]:
    """The default VPC's default subnets, one a zone, by zone; empty where there is no default VPC.

    Raises:
        Ec2Error: see Caller.call.
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
    sleep: Sleep = asyncio.sleep,
) -> SecurityGroup:
    """The group of a name, made if it is not there, and letting ssh in from `cidrs` if Puter made it.

    Args:
        caller: whose account and region.
        name: of the group.
        vpc_id: None is the default VPC.
        cidrs: which may reach port 22; IPv4 and IPv6.
        tags: of a group that is made, beside `puter:managed`.
        sleep: how to wait for a group to come into sight.

    Returns:
        The group; with a notice where not all of `cidrs` may reach it. That is never an error: the machine runs.

    Raises:
        Ec2Error: NoDefaultVpc; and see Caller.call.
    """
    vpc_id = vpc_id or await _default_vpc(caller)
    group = await _found(caller, name, vpc_id)
    if group is None:
        try:
            group = await _made(caller, name, vpc_id, tags)
        except Ec2Error as error:
            if error.code != "InvalidGroup.Duplicate":
                raise
            group = await _seen(caller, name, vpc_id, error, sleep)
    missing = missing_cidrs(group.ip_permissions, cidrs)
    notice = None
    if missing and from_ec2(group.tags).get(MANAGED) == "true":
        notice = await _let_in(caller, group, missing, name, vpc_id, sleep)
    elif missing:
        notice = (
            f"Puter did not make the security group {shown(name)} and does not change it: "
            f"it does not let ssh in from {_listed(missing)}"
        )
    return SecurityGroup(group_id=group.group_id, vpc_id=vpc_id, notice=notice)


def missing_cidrs(rules: Iterable[Permission], wanted: Iterable[str]) -> list[str]:
    """Those of the wanted CIDRs, sorted, that no rule lets reach port 22; a wider rule covers a narrower request."""
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
    caller: Caller, group: GroupAnswer, missing: list[str], name: str, vpc_id: str, sleep: Sleep
) -> str | None:
    """Adds the missing rules; returns a notice where there is no room for them."""
    wanted = missing
    for pause_s in (*_PAUSES_S, None):
        try:
            await caller.call(
                "AuthorizeSecurityGroupIngress", Answer, GroupId=group.group_id, IpPermissions=permissions(missing)
            )
        except Ec2Error as error:
            if error.code == _RULES_FULL:
                return (
                    f"the security group {shown(name)} is full (EC2 allows 60 rules unless told otherwise): "
                    f"it does not let ssh in from {_listed(missing)}; choose another --security-group-name"
                )
            again = error.handling is Handling.JUST_MADE or error.code == "InvalidPermission.Duplicate"
            if not again or pause_s is None:
                raise
            await sleep(pause_s)
            # A call that meets one rule that is there adds none of the others: ask for those that are left.
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
        raise Ec2Error(
            "NoDefaultVpc",
            f"the account has no default VPC in {caller.region}: give --subnet with one of your VPC's",
        )
    return found.vpcs[0].vpc_id


async def _found(caller: Caller, name: str, vpc_id: str) -> GroupAnswer | None:
    literal = name.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?")
    filters = [{"Name": "vpc-id", "Values": [vpc_id]}, {"Name": "group-name", "Values": [literal]}]
    found = await caller.call("DescribeSecurityGroups", Groups, Filters=filters)
    return next((group for group in found.security_groups if group.group_name == name), None)


async def _seen(caller: Caller, name: str, vpc_id: str, duplicate: Ec2Error, sleep: Sleep) -> GroupAnswer:
    for pause_s in _PAUSES_S:
        group = await _found(caller, name, vpc_id)
        if group is not None:
            return group
        await sleep(pause_s)
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
