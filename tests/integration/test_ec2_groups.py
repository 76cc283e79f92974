"""The security group that lets ssh in, and where it lies."""

from __future__ import annotations

import asyncio

import pytest

from puter_worker.ec2.answers import Answer, GroupAnswer, Groups, Permission, Range4, Range6, Vpcs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.groups import (
    Pauses,
    SecurityGroup,
    default_subnets,
    ensure_group,
    missing_cidrs,
    permissions,
    vpc_of_subnet,
)
from puter_worker.ec2.own_resources import MOST_GROUPS, OwnResources
from puter_worker.ec2.tags import specification
from puter_worker.errors import AnothersName, Ec2Error, Handling, NoDefaultVpc
from puter_worker.timings import Timings
from tests.integration.scripted_endpoint import Endpoint, answer, refusal

HOME, OFFICE, SIX = "203.0.113.7/32", "198.51.100.0/24", "2001:db8::/32"


MINE, BETTYS, MALLORYS = OwnResources(), OwnResources("betty"), OwnResources("mallory")


async def ensured(caller: Caller, *cidrs: str, name: str | None = None, own: OwnResources = MINE) -> SecurityGroup:
    return await ensure_group(caller, name=name, vpc_id=None, cidrs=cidrs, own=own)


async def group_names(caller: Caller) -> set[str]:
    found = (await caller.call("DescribeSecurityGroups", Groups)).security_groups
    return {group.group_name for group in found} - {"default"}


async def described(caller: Caller, group_id: str) -> GroupAnswer:
    return (await caller.call("DescribeSecurityGroups", Groups, GroupIds=[group_id])).security_groups[0]


async def made_by_others(caller: Caller, name: str) -> str:
    vpc = (await caller.call("DescribeVpcs", Vpcs)).vpcs[0].vpc_id
    made = await caller.call("CreateSecurityGroup", GroupAnswer, GroupName=name, Description="x", VpcId=vpc)
    return made.group_id


async def test_a_group_is_made_in_the_default_vpc_and_marked(caller: Caller) -> None:
    group = await ensured(caller, HOME)

    made = await described(caller, group.group_id)
    assert (made.group_name, made.vpc_id) == ("puter-v1", group.vpc_id)
    assert {tag.key: tag.value for tag in made.tags} == {"puter:managed": "true"}


async def test_a_group_of_a_namespace_has_its_name(caller: Caller) -> None:
    group = await ensured(caller, HOME, own=BETTYS)

    made = await described(caller, group.group_id)
    assert made.group_name == "puter-v1-betty"
    assert {tag.key: tag.value for tag in made.tags} == {"puter:managed": "true", "puter:namespace": "betty"}


async def test_ssh_is_let_in_and_nothing_else(caller: Caller) -> None:
    group = await ensured(caller, HOME, SIX)

    rules = (await described(caller, group.group_id)).ip_permissions
    assert {(rule.ip_protocol, rule.from_port, rule.to_port) for rule in rules} == {("tcp", 22, 22)}
    assert [r.cidr_ip for rule in rules for r in rule.ip_ranges] == [HOME]
    assert [r.cidr_ipv6 for rule in rules for r in rule.ipv6_ranges] == [SIX]


async def test_a_group_without_cidrs_lets_nobody_in(caller: Caller) -> None:
    group = await ensured(caller)

    assert (await described(caller, group.group_id)).ip_permissions == []


async def test_the_same_again_changes_nothing(caller: Caller) -> None:
    first = await ensured(caller, HOME)

    assert await ensured(caller, HOME) == first


async def test_a_further_address_is_added_to_those_that_are_there(caller: Caller) -> None:
    group = await ensured(caller, HOME)

    assert await ensured(caller, HOME, OFFICE) == group
    assert missing_cidrs((await described(caller, group.group_id)).ip_permissions, [HOME, OFFICE]) == []


async def test_many_at_once_make_one_group(caller: Caller) -> None:
    groups = await asyncio.gather(*(ensured(caller, f"203.0.113.{n}/32") for n in range(6)))

    assert len({group.group_id for group in groups}) == 1
    rules = (await described(caller, groups[0].group_id)).ip_permissions
    assert missing_cidrs(rules, [f"203.0.113.{n}/32" for n in range(6)]) == []


async def test_a_group_of_others_is_used_and_never_changed(caller: Caller) -> None:
    group_id = await made_by_others(caller, "corp")

    group = await ensured(caller, HOME, name="corp")

    assert group.group_id == group_id
    assert group.notice is not None
    assert "does not let ssh in from 203.0.113.7/32" in group.notice
    assert (await described(caller, group_id)).ip_permissions == []


async def test_a_group_of_others_that_lets_one_in_needs_no_notice(caller: Caller) -> None:
    group_id = await made_by_others(caller, "corp")
    await caller.call(
        "AuthorizeSecurityGroupIngress", Answer, GroupId=group_id, IpPermissions=permissions(["0.0.0.0/0"])
    )

    assert (await ensured(caller, HOME, name="corp")).notice is None


@pytest.mark.parametrize("own", [MINE, BETTYS])
async def test_after_a_full_group_comes_another_one(caller: Caller, own: OwnResources) -> None:
    first = await ensured(caller, *(f"10.0.{n}.0/24" for n in range(60)), own=own)

    second = await ensured(caller, HOME, own=own)
    third = await ensured(caller, OFFICE, own=own)

    assert second.notice is None
    assert third == second
    assert await ensured(caller, "10.0.5.0/24", own=own) == first
    assert await group_names(caller) == {own.default_name, f"{own.default_name}.2"}


async def test_a_namespace_that_fills_groups_fills_its_own_and_no_more_than_a_machine_may_have(caller: Caller) -> None:
    for n in range(MOST_GROUPS):
        await ensured(caller, *(f"10.{n}.{m}.0/24" for m in range(60)), own=BETTYS)

    full = await ensured(caller, HOME, own=BETTYS)

    assert full.notice is not None
    assert "'puter-v1-betty.5' is full" in full.notice
    assert len(await group_names(caller)) == MOST_GROUPS
    assert (await ensured(caller, HOME, own=MALLORYS)).notice is None


async def test_a_full_group_of_a_chosen_name_is_used_with_a_notice(caller: Caller) -> None:
    await ensured(caller, *(f"10.0.{n}.0/24" for n in range(60)), name="ours")

    group = await ensured(caller, HOME, name="ours")

    assert group.notice is not None
    assert "is full" in group.notice
    assert await group_names(caller) == {"ours"}


# -- other namespaces ---


@pytest.mark.parametrize("own", [MINE, BETTYS])
async def test_a_group_that_was_made_for_another_namespace_is_neither_used_nor_opened(
    caller: Caller, own: OwnResources
) -> None:
    mallorys = await ensured(caller, "0.0.0.0/0", name="prod-ssh", own=MALLORYS)

    with pytest.raises(AnothersName, match="'prod-ssh' was made for namespace 'mallory': choose another --security"):
        await ensured(caller, HOME, name="prod-ssh", own=own)
    await ensured(caller, own=BETTYS)
    with pytest.raises(AnothersName, match="was made for namespace 'betty'"):
        await ensured(caller, "0.0.0.0/0", name="puter-v1-betty", own=MALLORYS)

    assert len((await described(caller, mallorys.group_id)).ip_permissions) == 1


async def test_a_group_that_a_local_engine_made_is_not_opened_by_a_namespace(caller: Caller) -> None:
    group = await ensured(caller, HOME)

    same = await ensured(caller, OFFICE, name="puter-v1", own=MALLORYS)

    assert same.group_id == group.group_id
    assert same.notice is not None
    assert missing_cidrs((await described(caller, group.group_id)).ip_permissions, [OFFICE]) == [OFFICE]


@pytest.mark.parametrize(
    "name", ["puter-v1-betty", "puter-v1-betty.2", "PUTER-V1-BETTY", " puter-v1-betty ", "puter-v1"]
)
async def test_no_namespace_makes_a_group_that_another_would_take_for_its_own(caller: Caller, name: str) -> None:
    with pytest.raises(AnothersName, match="names that begin with puter-v1 are Puter's own"):
        await ensured(caller, "0.0.0.0/0", name=name, own=MALLORYS)

    assert await group_names(caller) == set()


async def test_a_namespace_may_name_its_own_default(caller: Caller) -> None:
    chosen = await ensured(caller, HOME, name="puter-v1-betty", own=BETTYS)

    assert await ensured(caller, HOME, own=BETTYS) == chosen


async def test_a_default_name_that_another_namespace_has_is_gone_round(caller: Caller) -> None:
    """Nobody can take it with a request; who may tag groups in the account can."""
    vpc = (await caller.call("DescribeVpcs", Vpcs)).vpcs[0].vpc_id
    tags = [specification("security-group", MALLORYS.tags)]
    await caller.call(
        "CreateSecurityGroup",
        GroupAnswer,
        GroupName="puter-v1-betty",
        Description="x",
        VpcId=vpc,
        TagSpecifications=tags,
    )

    group = await ensured(caller, HOME, own=BETTYS)

    assert (await described(caller, group.group_id)).group_name == "puter-v1-betty.2"
    assert group.notice is None


@pytest.mark.parametrize("name", [None, "ours"])
async def test_a_group_that_another_namespace_made_at_the_same_moment_is_not_used(
    told: Endpoint, told_caller: Caller, name: str | None
) -> None:
    theirs = group_answer(HOME, name=name or "puter-v1-betty", namespace="mallory")
    told.replies = [
        NONE,
        refusal("InvalidGroup.Duplicate"),
        answer("DescribeSecurityGroups", theirs),
        MADE,
        answer("AuthorizeSecurityGroupIngress"),
    ]

    if name:
        with pytest.raises(AnothersName):
            await ensure_group(told_caller, name=name, vpc_id="vpc-1", cidrs=[HOME], own=BETTYS, pauses=AT_ONCE)
    else:
        await ensure_group(told_caller, name=name, vpc_id="vpc-1", cidrs=[HOME], own=BETTYS, pauses=AT_ONCE)
        assert [asked["GroupName"] for asked in told.asked if "GroupName" in asked] == [
            "puter-v1-betty",
            "puter-v1-betty.2",
        ]


async def test_a_subnet_tells_where_it_lies(caller: Caller) -> None:
    subnets = await default_subnets(caller)

    assert await vpc_of_subnet(caller, subnets[0].subnet_id) == subnets[0]


async def test_default_subnets_come_one_a_zone_in_order(caller: Caller) -> None:
    zones = [subnet.availability_zone for subnet in await default_subnets(caller)]

    assert zones[:2] == ["us-east-1a", "us-east-1b"]
    assert zones == sorted(set(zones))


async def test_a_subnet_that_is_not_there_fails_the_request(caller: Caller) -> None:
    with pytest.raises(Ec2Error) as caught:
        await vpc_of_subnet(caller, "subnet-0123456789abcdef0")

    assert (caught.value.code, caught.value.handling) == ("InvalidSubnetID.NotFound", Handling.FAIL)


async def test_no_default_vpc_is_an_error_with_a_remedy(told: Endpoint, told_caller: Caller) -> None:
    told.replies = [answer("DescribeVpcs", "<vpcSet/>")]

    with pytest.raises(NoDefaultVpc, match="give --subnet"):
        await ensured(told_caller, HOME)


def group_answer(*cidrs: str, name: str = "puter-v1", namespace: str | None = None) -> str:
    ranges = "".join(f"<item><cidrIp>{cidr}</cidrIp></item>" for cidr in cidrs)
    rule = f"<ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>22</toPort><ipRanges>{ranges}</ipRanges>"
    tags = OwnResources(namespace).tags.items()
    tag = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags)
    rules = f"<ipPermissions><item>{rule}</item></ipPermissions>" if cidrs else ""
    inside = f"<groupId>sg-1</groupId><groupName>{name}</groupName><vpcId>vpc-1</vpcId>{rules}<tagSet>{tag}</tagSet>"
    return f"<securityGroupInfo><item>{inside}</item></securityGroupInfo>"


MADE = answer("CreateSecurityGroup", "<groupId>sg-1</groupId>")
NONE = answer("DescribeSecurityGroups", "<securityGroupInfo/>")


async def at_once(_seconds: float) -> None:
    return None


AT_ONCE = Pauses(Timings().group_seen_s, at_once)


async def test_a_new_group_that_ec2_does_not_see_yet_is_requested_again(told: Endpoint, told_caller: Caller) -> None:
    unseen = refusal("InvalidGroup.NotFound")
    added = answer("AuthorizeSecurityGroupIngress")
    told.replies = [NONE, MADE, unseen, NONE, unseen, NONE, added]

    group = await ensure_group(told_caller, name=None, vpc_id="vpc-1", cidrs=[HOME], own=MINE, pauses=AT_ONCE)

    assert (group.group_id, group.notice, told.replies) == ("sg-1", None, [])


async def test_a_group_that_stays_out_of_sight_is_an_error_in_the_end(told: Endpoint, told_caller: Caller) -> None:
    told.replies = [NONE, MADE, *[refusal("InvalidGroup.NotFound"), NONE] * 5, refusal("InvalidGroup.NotFound")]

    with pytest.raises(Ec2Error) as caught:
        await ensure_group(told_caller, name=None, vpc_id="vpc-1", cidrs=[HOME], own=MINE, pauses=AT_ONCE)

    assert (caught.value.handling, told.replies) == (Handling.JUST_MADE, [])


async def test_a_group_that_somebody_made_meanwhile_is_used(told: Endpoint, told_caller: Caller) -> None:
    there = answer("DescribeSecurityGroups", group_answer(HOME))
    told.replies = [NONE, refusal("InvalidGroup.Duplicate"), NONE, there]

    group = await ensure_group(told_caller, name=None, vpc_id="vpc-1", cidrs=[HOME], own=MINE, pauses=AT_ONCE)

    assert (group.group_id, told.replies) == ("sg-1", [])


async def test_rules_beside_one_that_somebody_added_meanwhile_are_added(told: Endpoint, told_caller: Caller) -> None:
    told.replies = [
        answer("DescribeSecurityGroups", group_answer()),
        refusal("InvalidPermission.Duplicate"),
        answer("DescribeSecurityGroups", group_answer(HOME)),
        answer("AuthorizeSecurityGroupIngress"),
    ]

    await ensure_group(told_caller, name=None, vpc_id="vpc-1", cidrs=[HOME, OFFICE], own=MINE, pauses=AT_ONCE)

    asked = told.asked[-1]
    assert [value for name, value in asked.items() if name.endswith("CidrIp")] == [OFFICE]


@pytest.mark.parametrize(
    ("rule", "missing"),
    [
        (Permission(ip_protocol="tcp", from_port=22, to_port=22, ip_ranges=[Range4(cidr_ip=HOME)]), []),
        (Permission(ip_protocol="tcp", from_port=0, to_port=65535, ip_ranges=[Range4(cidr_ip="0.0.0.0/0")]), []),
        (Permission(ip_protocol="-1", ip_ranges=[Range4(cidr_ip="203.0.113.0/24")]), []),
        (Permission(ip_protocol="tcp", from_port=23, to_port=80, ip_ranges=[Range4(cidr_ip=HOME)]), [HOME]),
        (Permission(ip_protocol="udp", from_port=22, to_port=22, ip_ranges=[Range4(cidr_ip=HOME)]), [HOME]),
        (Permission(ip_protocol="tcp", from_port=22, to_port=22, ipv6_ranges=[Range6(cidr_ipv6="::/0")]), [HOME]),
        (Permission(ip_protocol="-1", ip_ranges=[Range4(cidr_ip="203.0.113.8/32")]), [HOME]),
    ],
    ids=["exact", "wider", "everything", "other-port", "udp", "ipv6", "other-address"],
)
def test_a_rule_covers_what_it_lets_in(rule: Permission, missing: list[str]) -> None:
    assert missing_cidrs([rule], [HOME]) == missing
