"""Security groups of a region and their rules."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

import msgspec

from tests.ec2sim.dials import Dials
from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.filters import Field, Filters
from tests.ec2sim.network import Network
from tests.ec2sim.paging import Page
from tests.ec2sim.tags import read_tag_specifications
from tests.ec2sim.wire import Node, Params, element, elements, tag_set

# https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html: enforced for IPv4 and IPv6 apart.
MAX_RULES = 60
_TAGGABLE = frozenset({"security-group"})
_PROTOCOL = {"6": "tcp", "17": "udp", "1": "icmp", "58": "icmpv6"}
_KNOWN = frozenset({"tcp", "udp", "icmp", "icmpv6", "-1"})


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One inbound rule; two with the same values but description are one.

    Attributes:
        protocol: `tcp` and the like, `-1` for all.
        low: first port; None for all protocols.
        high: last port.
        kind: ipv4, ipv6 or group.
        peer: a CIDR, or the id of a group.
    """

    protocol: str
    low: int | None
    high: int | None
    kind: str
    peer: str

    def __str__(self) -> str:
        ports = f"from port: {self.low}, to port: {self.high}"
        return f"peer: {self.peer}, {self.protocol.upper()}, {ports}, ALLOW"


class Group(msgspec.Struct, kw_only=True):
    """One security group.

    Attributes:
        id: `sg-…`.
        name: unique in its VPC.
        description: as given.
        vpc_id: of its VPC.
        found_from: when it is found for the first time.
        rules: inbound rule → (its id, its description).
        tags: as set.
    """

    id: str
    name: str
    description: str
    vpc_id: str
    found_from: float
    rules: dict[Rule, tuple[str, str | None]]
    tags: dict[str, str]

    @property
    def shown_tags(self) -> Mapping[str, str]:
        """Its tags."""
        return self.tags


_FILTERS: dict[str, Field[Group]] = {
    "group-id": lambda g: (g.id,),
    "group-name": lambda g: (g.name,),
    "vpc-id": lambda g: (g.vpc_id,),
    "description": lambda g: (g.description,),
    "ip-permission.cidr": lambda g: [r.peer for r in g.rules if r.kind == "ipv4"],
    "ip-permission.from-port": lambda g: [str(r.low) for r in g.rules],
    "ip-permission.to-port": lambda g: [str(r.high) for r in g.rules],
    "ip-permission.protocol": lambda g: [r.protocol for r in g.rules],
}


class Groups:
    """The security groups of an account in a region.

    Attributes:
        by_id: all of them.
    """

    def __init__(self, dials: Dials, network: Network, account: str) -> None:
        self._dials = dials
        self._network = network
        self._account = account
        self.by_id: dict[str, Group] = {}
        for vpc in network.vpcs.values():
            group = self._add("default", "default VPC security group", vpc.id, {}, dials.now())
            own = Rule(protocol="-1", low=None, high=None, kind="group", peer=group.id)
            group.rules[own] = (dials.identifier("sgr"), None)

    def find(self, group_id: str) -> Group:
        """A group by id; raises InvalidGroupId.Malformed or InvalidGroup.NotFound."""
        if not group_id.startswith("sg-"):
            raise Ec2Error("InvalidGroupId.Malformed", f'Invalid id: "{group_id}" (expecting "sg-...")')
        group = self.by_id.get(group_id)
        if group is None or not self._is_found(group):
            raise Ec2Error("InvalidGroup.NotFound", f"The security group '{group_id}' does not exist")
        return group

    def find_named(self, name: str) -> Group:
        """A group of the default VPC by name; raises InvalidGroup.NotFound or VPCIdNotSpecified."""
        vpc = self._network.find_vpc(None)
        for group in self.by_id.values():
            if group.name == name and group.vpc_id == vpc.id and self._is_found(group):
                return group
        raise Ec2Error("InvalidGroup.NotFound", f"The security group '{name}' does not exist in default VPC '{vpc.id}'")

    def default_of(self, vpc_id: str) -> Group:
        """The group of launches that name none."""
        return next(g for g in self.by_id.values() if g.vpc_id == vpc_id and g.name == "default")

    def describe(self, params: Params) -> str:
        """DescribeSecurityGroups."""
        page = Page(params)
        filters = Filters(params, _FILTERS)
        ids, names = params.texts("GroupId"), params.texts("GroupName")
        if (ids or names) and page.limit is not None:
            raise Ec2Error("InvalidParameterCombination", "MaxResults cannot be used with group ids or names")
        if ids or names:
            rows = [self.find(g) for g in ids] + [self.find_named(n) for n in names]
        else:
            rows = [group for group in self.by_id.values() if self._is_found(group)]
        shown, token = page.cut([group for group in rows if filters.match(group)])
        items = [self._group_node(group) for group in shown]
        return element("securityGroupInfo", items) + elements({"nextToken": token})

    def create(self, params: Params) -> tuple[str, str]:
        """CreateSecurityGroup: the answer and the new id."""
        name, description = params.need("GroupName"), params.need("GroupDescription")
        tags = read_tag_specifications(params, _TAGGABLE).get("security-group", {})
        vpc = self._network.find_vpc(params.text("VpcId"))
        if name.startswith("sg-") or name == "default" or len(name) > 255 or len(description) > 255:
            raise Ec2Error("InvalidParameterValue", f"Invalid group name or description: {name[:255]}")
        if any(group.name == name and group.vpc_id == vpc.id for group in self.by_id.values()):
            message = f"The security group '{name}' already exists for VPC '{vpc.id}'"
            raise Ec2Error("InvalidGroup.Duplicate", message)
        lag = self._dials.draw("lag", self._dials.config.group_lag_s)
        group = self._add(name, description, vpc.id, tags, self._dials.now() + lag)
        arn = f"arn:aws:ec2:{self._region}:{self._account}:security-group/{group.id}"
        answer: dict[str, Node] = {
            "return": True,
            "groupId": group.id,
            "tagSet": tag_set(tags),
            "securityGroupArn": arn,
        }
        return elements(answer), group.id

    def authorize(self, params: Params) -> tuple[str, str]:
        """AuthorizeSecurityGroupIngress: the answer and the changed group's id; all rules or none."""
        group_id = params.text("GroupId")
        group = self.find(group_id) if group_id else self.find_named(params.need("GroupName"))
        asked = _read_rules(params)
        if not asked:
            raise Ec2Error("MissingParameter", "Either 'ipPermissions' or 'cidrIp' should be provided.")
        for rule, _ in asked:
            if rule in group.rules:
                message = f'the specified rule "{rule}" already exists'
                raise Ec2Error("InvalidPermission.Duplicate", message)
            if rule.kind == "group":
                self.find(rule.peer)
        if len({rule for rule, _ in asked}) < len(asked):
            message = "The same permission must not appear multiple times"
            raise Ec2Error("InvalidParameterValue", message)
        _check_room(group.rules, [rule for rule, _ in asked])
        made: list[Node] = []
        for rule, description in asked:
            rule_id = self._dials.identifier("sgr")
            group.rules[rule] = (rule_id, description)
            made.append(self._rule_node(group, rule, rule_id, description))
        return elements({"return": True, "securityGroupRuleSet": made}), group.id

    @property
    def _region(self) -> str:
        return next(iter(self._network.zones))[:-1]

    def _is_found(self, group: Group) -> bool:
        return self._dials.now() >= group.found_from

    def _add(self, name: str, description: str, vpc_id: str, tags: dict[str, str], found_from: float) -> Group:
        group = Group(
            id=self._dials.identifier("sg"),
            name=name,
            description=description,
            vpc_id=vpc_id,
            found_from=found_from,
            rules={},
            tags=tags,
        )
        self.by_id[group.id] = group
        return group

    def _group_node(self, group: Group) -> Node:
        everything: Node = {"ipProtocol": "-1", "ipRanges": [{"cidrIp": "0.0.0.0/0"}]}
        return {
            "ownerId": self._account,
            "groupId": group.id,
            "groupName": group.name,
            "groupDescription": group.description,
            "vpcId": group.vpc_id,
            "ipPermissions": _permission_nodes(group, self._account),
            "ipPermissionsEgress": [everything],
            "tagSet": tag_set(group.tags),
        }

    def _rule_node(self, group: Group, rule: Rule, rule_id: str, description: str | None) -> Node:
        peer: Node = {"groupId": rule.peer, "userId": self._account} if rule.kind == "group" else None
        return {
            "securityGroupRuleId": rule_id,
            "groupId": group.id,
            "groupOwnerId": self._account,
            "isEgress": False,
            "ipProtocol": rule.protocol,
            "fromPort": -1 if rule.low is None else rule.low,
            "toPort": -1 if rule.high is None else rule.high,
            "cidrIpv4": rule.peer if rule.kind == "ipv4" else None,
            "cidrIpv6": rule.peer if rule.kind == "ipv6" else None,
            "referencedGroupInfo": peer,
            "description": description,
        }


def _check_room(there: Iterable[Rule], more: Iterable[Rule]) -> None:
    kinds = [rule.kind for rule in (*there, *more)]
    for family in ("ipv4", "ipv6"):
        if kinds.count(family) + kinds.count("group") > MAX_RULES:
            message = "The maximum number of rules per security group has been reached."
            raise Ec2Error("RulesPerSecurityGroupLimitExceeded", message)


def _read_rules(params: Params) -> list[tuple[Rule, str | None]]:
    rules = [rule for section in params.sections("IpPermissions") for rule in _rules_of(section)]
    if params.text("CidrIp"):
        rules.append((_rule(params, "ipv4", _cidr(params.need("CidrIp"), 4)), None))
    return rules


def _rules_of(section: Params) -> Iterable[tuple[Rule, str | None]]:
    for peer in section.sections("IpRanges"):
        yield _rule(section, "ipv4", _cidr(peer.need("CidrIp"), 4)), peer.text("Description")
    for peer in section.sections("Ipv6Ranges"):
        yield _rule(section, "ipv6", _cidr(peer.need("CidrIpv6"), 6)), peer.text("Description")
    for peer in section.sections("Groups"):
        yield _rule(section, "group", peer.need("GroupId")), peer.text("Description")


def _rule(section: Params, kind: str, peer: str) -> Rule:
    protocol = section.need("IpProtocol").lower()
    protocol = _PROTOCOL.get(protocol, protocol)
    if protocol not in _KNOWN:
        raise Ec2Error("InvalidParameterValue", f"Invalid value '{protocol}' for IP protocol. Unknown protocol.")
    low, high = section.integer("FromPort"), section.integer("ToPort")
    if protocol in {"tcp", "udp"} and (low is None or high is None or not 0 <= low <= high <= 65_535):
        raise Ec2Error("InvalidParameterValue", f"Invalid value '{low}-{high}' for portRange.")
    return Rule(protocol=protocol, low=low, high=high, kind=kind, peer=peer)


def _cidr(text: str, version: int) -> str:
    # EC2 keeps a range by its network, so two spellings of one range are one rule.
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is None or network.version != version or "/" not in text:
        raise Ec2Error("InvalidParameterValue", f"CIDR block {text} is malformed")
    return str(network)


def _permission_nodes(group: Group, account: str) -> list[Node]:
    """Rules of the same protocol and ports are shown as one permission."""
    permissions: dict[tuple[str, int | None, int | None], dict[str, list[Node]]] = {}
    for rule, (_, description) in group.rules.items():
        lists = permissions.setdefault(
            (rule.protocol, rule.low, rule.high), {"groups": [], "ipRanges": [], "ipv6Ranges": []}
        )
        if rule.kind == "ipv4":
            lists["ipRanges"].append({"cidrIp": rule.peer, "description": description})
        elif rule.kind == "ipv6":
            lists["ipv6Ranges"].append({"cidrIpv6": rule.peer, "description": description})
        else:
            lists["groups"].append({"userId": account, "groupId": rule.peer, "description": description})
    return [
        {"ipProtocol": protocol, "fromPort": low, "toPort": high, **lists, "prefixListIds": []}
        for (protocol, low, high), lists in permissions.items()
    ]
