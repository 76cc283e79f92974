"""The security group that lets ssh in, and the VPC that it belongs to.

Puter adds rules to the groups that it made for a namespace, and never removes one. Groups that it did not make are used
as they are, those that it made for another namespace not at all. Two workers may ensure the same group at the same
time: one of them gets a `*.Duplicate` error, reads the group again and continues with what it finds.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from puter_client.contract.key import shown
from puter_worker.ec2.answers import Answer, GroupAnswer, Groups, Permission, Subnets, Tag, Vpcs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.own_resources import OwnResources
from puter_worker.ec2.tags import from_ec2, specification
from puter_worker.errors import AnothersName, Ec2Error, Handling, NoDefaultVpc, StageError, SubnetMissing
from puter_worker.timings import Timings

SSH_PORT = 22
_OPTION = "--security-group-name"
_RULES_FULL = "RulesPerSecurityGroupLimitExceeded"

Sleep = Callable[[float], Awaitable[None]]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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
    name: str | None,
    vpc_id: str | None,
    cidrs: Sequence[str],
    own: OwnResources,
    pauses: Pauses = PAUSES,
) -> SecurityGroup:
    """The group of a name; it is made if it does not exist, and opened for ssh from `cidrs` if it is the namespace's.

    Args:
        caller: its account and region are used.
        name: the group's name; None is the first of the namespace's own groups that lets all of `cidrs` in, or has room
            for them.
        vpc_id: None is the default VPC.
        cidrs: the addresses that may reach port 22; IPv4 and IPv6.
        own: for whom a group is made.
        pauses: between looks for a group that was just made.

    Returns:
        The group; it has a notice if not all of `cidrs` may reach port 22. That is no error: the machine runs anyway.

    Raises:
        StageError: NoDefaultVpc, AnothersName; and see Caller.call.
    """
    vpc_id = vpc_id or await _default_vpc(caller)
    names = [name] if name is not None else own.group_names
    found = await _found(caller, names, vpc_id)
    for each in names:
        if each in found and own.may_use(_tags(found[each])) and not missing_cidrs(found[each].ip_permissions, cidrs):
            return SecurityGroup(group_id=found[each].group_id, vpc_id=vpc_id)
    full: SecurityGroup | None = None
    # Where a further group was made, those before it are full.
    for each in names[max((at for at, one in enumerate(names) if one in found), default=0) :]:
        if name is not None and name not in found:
            own.check_new(name, "security group", option=_OPTION)
        group = found.get(each) or await _made(caller, each, vpc_id, own, pauses)
        if name is not None:
            own.refuse_anothers(_tags(group), "the security group", name, option=_OPTION)
        elif not own.may_use(_tags(group)):
            continue
        opened, is_full = await _opened(caller, group, cidrs, own, pauses)
        if not is_full:
            return opened
        full = full or opened
    if full is None:
        raise AnothersName(f"{own.group_names[0]} is not Puter's own here: name another group with {_OPTION}")
    return full


async def _opened(
    caller: Caller, group: GroupAnswer, cidrs: Sequence[str], own: OwnResources, pauses: Pauses
) -> tuple[SecurityGroup, bool]:
    """The group, opened for `cidrs` if it is the namespace's; and whether it has no room for them."""
    name, vpc_id = group.group_name, group.vpc_id or ""
    missing = missing_cidrs(group.ip_permissions, cidrs)
    opened = SecurityGroup(group_id=group.group_id, vpc_id=vpc_id)
    if not missing:
        return opened, False
    if not own.owns(_tags(group)):
        notice = (
            f"Puter did not make the security group {shown(name)} and does not change it: "
            f"it does not let ssh in from {_listed(missing)}"
        )
        return msgspec.structs.replace(opened, notice=notice), False
    try:
        await _let_in(caller, group, missing, pauses)
    except Ec2Error as error:
        if error.code != _RULES_FULL:
            raise
        notice = (
            f"the security group {shown(name)} is full (EC2's default limit is 60 rules): "
            f"it does not let ssh in from {_listed(missing)}; choose another {_OPTION}"
        )
        return msgspec.structs.replace(opened, notice=notice), True
    return opened, False


def _tags(group: GroupAnswer) -> dict[str, str]:
    return from_ec2(group.tags)


def missing_cidrs(rules: Iterable[Permission], wanted: Iterable[str]) -> list[str]:
    """The wanted CIDRs, sorted, that no rule lets reach port 22 yet; a wider rule covers a narrower CIDR."""
    allowed = {
        ipaddress.ip_network(cidr, strict=False)
        for rule in rules
        if _opens_ssh(rule)
        for cidr in (*(r.cidr_ip for r in rule.ip_ranges), *(r.cidr_ipv6 for r in rule.ipv6_ranges))
    }
    networks = {cidr: ipaddress.ip_network(cidr) for cidr in wanted}
    return sorted(cidr for cidr, one in networks.items() if not any(_within(one, network) for network in allowed))


def _opens_ssh(rule: Permission) -> bool:
    if rule.ip_protocol == "-1":
        return True
    if rule.ip_protocol not in {"tcp", "6"} or rule.from_port is None or rule.to_port is None:
        return False
    return rule.from_port <= SSH_PORT <= rule.to_port


def _within(wanted: _Network, network: _Network) -> bool:
    if isinstance(wanted, ipaddress.IPv4Network) and isinstance(network, ipaddress.IPv4Network):
        return wanted.subnet_of(network)
    if isinstance(wanted, ipaddress.IPv6Network) and isinstance(network, ipaddress.IPv6Network):
        return wanted.subnet_of(network)
    return False


async def _let_in(caller: Caller, group: GroupAnswer, missing: list[str], pauses: Pauses) -> None:
    """Adds the missing rules; raises an Ec2Error if the group has no room for them."""
    wanted = missing
    for pause_s in (*pauses.each_s, None):
        try:
            await caller.call(
                "AuthorizeSecurityGroupIngress", Answer, GroupId=group.group_id, IpPermissions=permissions(missing)
            )
        except Ec2Error as error:
            again = error.handling is Handling.JUST_MADE or error.code == "InvalidPermission.Duplicate"
            if not again or pause_s is None:
                raise
            await pauses.sleep(pause_s)
            # If one of the rules exists already, the call adds none of the others: send only those that are missing.
            seen = (await _found(caller, [group.group_name], group.vpc_id or "")).get(group.group_name)
            missing = missing_cidrs(seen.ip_permissions, wanted) if seen else wanted
            if not missing:
                return
        else:
            return


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


async def _found(caller: Caller, names: Sequence[str], vpc_id: str) -> dict[str, GroupAnswer]:
    """The groups of these names that EC2 shows, by name."""
    literal = [name.replace("\\", "\\\\").replace("*", "\\*").replace("?", "\\?") for name in names]
    filters = [{"Name": "vpc-id", "Values": [vpc_id]}, {"Name": "group-name", "Values": literal}]
    found = await caller.call("DescribeSecurityGroups", Groups, Filters=filters)
    return {group.group_name: group for group in found.security_groups if group.group_name in names}


async def _seen(caller: Caller, name: str, vpc_id: str, duplicate: StageError, pauses: Pauses) -> GroupAnswer:
    for pause_s in pauses.each_s:
        group = (await _found(caller, [name], vpc_id)).get(name)
        if group is not None:
            return group
        await pauses.sleep(pause_s)
    raise duplicate


async def _made(caller: Caller, name: str, vpc_id: str, own: OwnResources, pauses: Pauses) -> GroupAnswer:
    """A new group; if there is one of that name already, that one."""
    try:
        made = await caller.call(
            "CreateSecurityGroup",
            GroupAnswer,
            GroupName=name,
            Description="Made by Puter: lets ssh in to its machines",
            VpcId=vpc_id,
            TagSpecifications=[specification("security-group", own.tags)],
        )
    except Ec2Error as error:
        if error.code != "InvalidGroup.Duplicate":
            raise
        return await _seen(caller, name, vpc_id, error, pauses)
    tags = [Tag(key=key, value=value) for key, value in own.tags.items()]
    return msgspec.structs.replace(made, group_name=name, vpc_id=vpc_id, ip_permissions=[], tags=tags)


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
