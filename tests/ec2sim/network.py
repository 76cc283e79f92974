"""Zones, VPCs and subnets of a region: a default VPC over three zones, and one that is not the default."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping

import msgspec

from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.filters import Field, Filters
from tests.ec2sim.paging import Page
from tests.ec2sim.wire import Node, Params, element, elements, tag_set

# EC2 keeps the first four addresses and the last of each subnet.
RESERVED = 5


class Zone(msgspec.Struct, frozen=True):
    """An availability zone.

    Attributes:
        name: `us-east-1a`.
        id: `use1-az1`.
    """

    name: str
    id: str

    @property
    def shown_tags(self) -> Mapping[str, str]:
        """None; zones have no tags."""
        return {}


class Vpc:
    """A VPC.

    Attributes:
        id: EC2's.
        cidr: its addresses.
        is_default: whether launches that name no subnet go here.
        tags: as set.
    """

    def __init__(self, vpc_id: str, cidr: str, is_default: bool, tags: dict[str, str]) -> None:
        self.id = vpc_id
        self.cidr = cidr
        self.is_default = is_default
        self.tags = tags

    @property
    def shown_tags(self) -> Mapping[str, str]:
        """Its tags."""
        return self.tags


class Subnet:
    """A subnet, and which of its addresses are taken.

    Attributes:
        id: EC2's.
        vpc: that it is part of.
        zone: name of its zone.
        cidr: its addresses.
        default: whether it is its zone's default subnet.
        public: whether instances get a public address.
        tags: as set.
    """

    def __init__(self, subnet_id: str, vpc: Vpc, zone: Zone, cidr: str, *, default: bool, public: bool) -> None:
        self.id = subnet_id
        self.vpc = vpc
        self.zone = zone
        self.cidr = cidr
        self.default = default
        self.public = public
        self.tags: dict[str, str] = {}
        network = ipaddress.IPv4Network(cidr)
        self._first = int(network.network_address) + RESERVED - 1
        self._size = network.num_addresses - RESERVED
        self._fresh = 0
        self._returned: list[str] = []

    @property
    def shown_tags(self) -> Mapping[str, str]:
        """Its tags."""
        return self.tags

    @property
    def free(self) -> int:
        """Addresses left."""
        return self._size - self._fresh + len(self._returned)

    def take_address(self) -> str:
        """An address for a new instance; the caller has looked at `free`."""
        if self._fresh < self._size:
            self._fresh += 1
            return str(ipaddress.IPv4Address(self._first + self._fresh - 1))
        return self._returned.pop(0)

    def return_address(self, address: str) -> None:
        """An instance has ended."""
        self._returned.append(address)


def short_region(region: str) -> str:
    """`us-east-1` → `use1`, as zone ids begin."""
    area, *directions, number = region.split("-")
    return f"{area}{''.join(d[0] for d in directions)}{number}"


class Network:
    """A region's zones, VPCs and subnets.

    Attributes:
        zones: by name.
        vpcs: by id.
        subnets: by id.
    """

    def __init__(self, account: str, region: str, default_vpc: bool) -> None:
        self._account = account
        self._region = region
        self.zones = {
            f"{region}{letter}": Zone(f"{region}{letter}", f"{short_region(region)}-az{number}")
            for number, letter in enumerate("abc", 1)
        }
        self.vpcs: dict[str, Vpc] = {}
        self.subnets: dict[str, Subnet] = {}
        first, second, third = self.zones.values()
        if default_vpc:
            vpc = self._add_vpc("172.31.0.0/16", is_default=True, tags={})
            for number, zone in enumerate((first, second, third)):
                self._add_subnet(vpc, zone, f"172.31.{number * 16}.0/20", default=True, public=True)
        other = self._add_vpc("10.20.0.0/16", is_default=False, tags={"Name": "lab"})
        self._add_subnet(other, first, "10.20.0.0/24", default=False, public=True)
        # So small that it soon has no address left.
        self._add_subnet(other, second, "10.20.1.0/28", default=False, public=False)

    @property
    def default_vpc(self) -> Vpc | None:
        """Where launches go that name no subnet."""
        return next((vpc for vpc in self.vpcs.values() if vpc.is_default), None)

    def default_subnets(self, zone: str | None) -> list[Subnet]:
        """The default subnets of a zone or of all."""
        return [s for s in self.subnets.values() if s.default and zone in {None, s.zone.name}]

    def find_vpc(self, vpc_id: str | None) -> Vpc:
        """A VPC, the default one if none is named; raises InvalidVpcID.NotFound or VPCIdNotSpecified."""
        vpc = self.vpcs.get(vpc_id) if vpc_id else self.default_vpc
        if vpc is None and vpc_id:
            raise Ec2Error("InvalidVpcID.NotFound", f"The vpc ID '{vpc_id}' does not exist")
        if vpc is None:
            raise Ec2Error("VPCIdNotSpecified", "No default VPC for this user")
        return vpc

    def find_subnet(self, subnet_id: str) -> Subnet:
        """A subnet; raises InvalidSubnetID.NotFound."""
        try:
            return self.subnets[subnet_id]
        except KeyError:
            raise Ec2Error("InvalidSubnetID.NotFound", f"The subnet ID '{subnet_id}' does not exist") from None

    def _add_vpc(self, cidr: str, *, is_default: bool, tags: dict[str, str]) -> Vpc:
        vpc = Vpc(self._id("vpc", cidr), cidr, is_default, tags)
        self.vpcs[vpc.id] = vpc
        return vpc

    def _add_subnet(self, vpc: Vpc, zone: Zone, cidr: str, *, default: bool, public: bool) -> None:
        subnet = Subnet(self._id("subnet", cidr), vpc, zone, cidr, default=default, public=public)
        self.subnets[subnet.id] = subnet

    def _id(self, prefix: str, of: str) -> str:
        digest = hashlib.blake2s(f"{self._account}:{self._region}:{of}".encode()).hexdigest()
        return f"{prefix}-0{digest[:16]}"

    # calls

    def describe_zones(self, params: Params) -> str:
        """DescribeAvailabilityZones."""
        filters = Filters(params, _ZONE_FILTERS)
        names, ids = params.texts("ZoneName"), params.texts("ZoneId")
        unknown = [n for n in names if n not in self.zones]
        if unknown:
            raise Ec2Error("InvalidParameterValue", f"Invalid availability zone: [{', '.join(unknown)}]")
        rows: list[Node] = [
            {
                "zoneName": zone.name,
                "zoneId": zone.id,
                "zoneState": "available",
                "zoneType": "availability-zone",
                "optInStatus": "opt-in-not-required",
                "regionName": self._region,
                "groupName": f"{self._region}-zg-1",
                "networkBorderGroup": self._region,
                "messageSet": [],
            }
            for zone in self.zones.values()
            if (not names or zone.name in names) and (not ids or zone.id in ids) and filters.match(zone)
        ]
        return element("availabilityZoneInfo", rows)

    def describe_vpcs(self, params: Params) -> str:
        """DescribeVpcs."""
        page = Page(params)
        filters = Filters(params, _VPC_FILTERS)
        asked = params.texts("VpcId")
        rows = [self.find_vpc(v) for v in asked] if asked else list(self.vpcs.values())
        shown, token = page.cut([vpc for vpc in rows if filters.match(vpc)])
        items: list[Node] = [
            {
                "vpcId": vpc.id,
                "ownerId": self._account,
                "state": "available",
                "cidrBlock": vpc.cidr,
                "dhcpOptionsId": self._id("dopt", vpc.cidr),
                "instanceTenancy": "default",
                "isDefault": vpc.is_default,
                "tagSet": tag_set(vpc.tags),
            }
            for vpc in shown
        ]
        return element("vpcSet", items) + elements({"nextToken": token})

    def describe_subnets(self, params: Params) -> str:
        """DescribeSubnets."""
        page = Page(params)
        filters = Filters(params, _SUBNET_FILTERS)
        asked = params.texts("SubnetId")
        rows = [self.find_subnet(s) for s in asked] if asked else list(self.subnets.values())
        shown, token = page.cut([subnet for subnet in rows if filters.match(subnet)])
        items: list[Node] = [
            {
                "subnetId": subnet.id,
                "subnetArn": f"arn:aws:ec2:{self._region}:{self._account}:subnet/{subnet.id}",
                "state": "available",
                "ownerId": self._account,
                "vpcId": subnet.vpc.id,
                "cidrBlock": subnet.cidr,
                "availableIpAddressCount": subnet.free,
                "availabilityZone": subnet.zone.name,
                "availabilityZoneId": subnet.zone.id,
                "defaultForAz": subnet.default,
                "mapPublicIpOnLaunch": subnet.public,
                "tagSet": tag_set(subnet.tags),
            }
            for subnet in shown
        ]
        return element("subnetSet", items) + elements({"nextToken": token})


def _flag(value: bool) -> tuple[str]:
    return ("true" if value else "false",)


_ZONE_FILTERS: dict[str, Field[Zone]] = {
    "zone-name": lambda z: (z.name,),
    "zone-id": lambda z: (z.id,),
    "state": lambda _: ("available",),
    "zone-type": lambda _: ("availability-zone",),
    "opt-in-status": lambda _: ("opt-in-not-required",),
    "region-name": lambda z: (z.name[:-1],),
}
_VPC_FILTERS: dict[str, Field[Vpc]] = {
    "vpc-id": lambda v: (v.id,),
    "is-default": lambda v: _flag(v.is_default),
    "isDefault": lambda v: _flag(v.is_default),
    "cidr": lambda v: (v.cidr,),
    "state": lambda _: ("available",),
}
_SUBNET_FILTERS: dict[str, Field[Subnet]] = {
    "subnet-id": lambda s: (s.id,),
    "vpc-id": lambda s: (s.vpc.id,),
    "availability-zone": lambda s: (s.zone.name,),
    "availabilityZone": lambda s: (s.zone.name,),
    "availability-zone-id": lambda s: (s.zone.id,),
    "default-for-az": lambda s: _flag(s.default),
    "defaultForAz": lambda s: _flag(s.default),
    "map-public-ip-on-launch": lambda s: _flag(s.public),
    "cidr-block": lambda s: (s.cidr,),
    "state": lambda _: ("available",),
}
