"""Where a launch fits, and how much of it: quotas, capacity, addresses."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from tests.ec2sim.catalog import is_offered
from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.network import Subnet
from tests.ec2sim.order import Order

if TYPE_CHECKING:
    from tests.ec2sim.region import Region

_PLENTY = 1_000_000
# What EC2 says of a launch that a quota does not let through, by quota.
_QUOTA = {
    "VcpuLimitExceeded": "You have requested more vCPU capacity than your current vCPU limit of {limit} allows for "
    "the instance bucket that the specified instance type belongs to.",
    "InstanceLimitExceeded": "You have requested more instances than your current instance limit of {limit} allows.",
    "MaxSpotInstanceCountExceeded": "Max spot instance count exceeded",
}


def find_room(region: Region, order: Order) -> tuple[Subnet, int]:
    """The subnet of a launch and how many of its instances fit; one launch never spreads over zones.

    Raises:
        Ec2Error: not even the fewest that were requested fit.
    """
    allowed = _within_quotas(region, order)
    subnets = [order.subnet] if order.subnet else region.network.default_subnets(order.zone)
    offered = [s for s in subnets if is_offered(region.dials.config, s.zone.name, order.options.type.name)]
    if not offered:
        raise _unsupported(region, order)
    if not order.zone:
        region.dials.dice("zones").shuffle(offered)
    best = max(offered, key=lambda subnet: min(allowed, _slots(region, order, subnet), subnet.free))
    fits = min(allowed, _slots(region, order, best), best.free)
    if fits >= order.low:
        return best, fits
    if best.free < order.low:
        message = (
            f"There are not enough free addresses in subnet '{best.id}' to satisfy the requested number of instances."
        )
        raise Ec2Error("InsufficientFreeAddressesInSubnet", message)
    if order.options.spot:
        message = "There is no Spot capacity available that matches your request."
        raise Ec2Error("InsufficientInstanceCapacity", message)
    message = (
        f"We currently do not have sufficient {order.options.type.name} capacity in the Availability Zone you "
        f"requested ({best.zone.name}). Our system will be working on provisioning additional capacity."
    )
    raise Ec2Error("InsufficientInstanceCapacity", message)


def _within_quotas(region: Region, order: Order) -> int:
    config, roster, kind = region.dials.config, region.roster, order.options.type
    limits: list[tuple[str, int, int, int]] = []  # code, limit, used, each
    if order.options.spot:
        if config.spot_quota is not None:
            limits.append(("MaxSpotInstanceCountExceeded", config.spot_quota, roster.spot, 1))
    else:
        vcpus = config.vcpu_quota.get(kind.quota)
        if vcpus is not None:
            limits.append(("VcpuLimitExceeded", vcpus, roster.vcpus[kind.quota], kind.vcpus))
        if config.instance_quota is not None:
            limits.append(("InstanceLimitExceeded", config.instance_quota, roster.on_demand, 1))
    allowed = order.high
    for code, limit, used, each in limits:
        fits = max(0, limit - used) // each
        if fits < (order.high if config.quota_refuses == "all" else order.low):
            raise Ec2Error(code, _QUOTA[code].format(limit=limit))
        allowed = min(allowed, fits)
    return allowed


def _slots(region: Region, order: Order, subnet: Subnet) -> int:
    zone, kind, market = subnet.zone.name, order.options.type.name, order.options.market
    for row in region.dials.config.capacity:
        if fnmatchcase(zone, row.zone) and fnmatchcase(kind, row.instance_type) and fnmatchcase(market, row.market):
            return max(0, row.slots - region.roster.live[zone, kind, market])
    return _PLENTY


def _unsupported(region: Region, order: Order) -> Ec2Error:
    kind = order.options.type.name
    zones = [zone for zone in region.network.zones if is_offered(region.dials.config, zone, kind)]
    return Ec2Error(
        "Unsupported",
        f"Your requested instance type ({kind}) is not supported in your requested Availability Zone "
        f"({order.zone or region.name}). Please retry your request by not specifying an Availability Zone or choosing "
        f"{', '.join(zones) or 'another type'}.",
    )
