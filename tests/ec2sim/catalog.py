"""The instance types that the simulator knows, and the two calls that tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import msgspec

from tests.ec2sim.config import SimConfig
from tests.ec2sim.errors import Ec2Error, invalid_value
from tests.ec2sim.filters import Field, Filters
from tests.ec2sim.network import Zone
from tests.ec2sim.paging import Page
from tests.ec2sim.wire import Node, Params, element, elements


class InstanceType(msgspec.Struct, frozen=True):
    """One type, as far as Puter looks at it.

    Attributes:
        name: EC2's.
        vcpus: by default.
        memory_mib: of RAM.
        architectures: that it boots.
        nitro: whether its hypervisor is Nitro; others refuse the latest console output.
        burstable: whether it has CPU credits.
        quota: the quota class that its vCPUs count in.
        gpu: the maker and name of its GPU; None: it has none.
    """

    name: str
    vcpus: int
    memory_mib: int
    architectures: tuple[str, ...] = ("x86_64",)
    nitro: bool = True
    burstable: bool = False
    quota: str = "standard"
    gpu: tuple[str, str] | None = None

    @property
    def shown_tags(self) -> Mapping[str, str]:
        """None; types have no tags."""
        return {}


_ARM = ("arm64",)
_OLD = ("i386", "x86_64")
TYPES = {
    each.name: each
    for each in (
        InstanceType("t2.nano", 1, 512, _OLD, nitro=False, burstable=True),
        InstanceType("t2.micro", 1, 1_024, _OLD, nitro=False, burstable=True),
        InstanceType("t3.nano", 2, 512, burstable=True),
        InstanceType("t3.micro", 2, 1_024, burstable=True),
        InstanceType("t3.small", 2, 2_048, burstable=True),
        InstanceType("t3.medium", 2, 4_096, burstable=True),
        InstanceType("t3.large", 2, 8_192, burstable=True),
        InstanceType("t3a.micro", 2, 1_024, burstable=True),
        InstanceType("t4g.nano", 2, 512, _ARM, burstable=True),
        InstanceType("t4g.micro", 2, 1_024, _ARM, burstable=True),
        InstanceType("t4g.small", 2, 2_048, _ARM, burstable=True),
        InstanceType("m4.large", 2, 8_192, nitro=False),
        InstanceType("m5.large", 2, 8_192),
        InstanceType("m7g.large", 2, 8_192, _ARM),
        InstanceType("c7gn.medium", 1, 2_048, _ARM),
        InstanceType("c7i.large", 2, 4_096),
        InstanceType("c7i.48xlarge", 192, 393_216),
        InstanceType("g4dn.xlarge", 4, 16_384, quota="g-and-vt", gpu=("NVIDIA", "T4")),
        InstanceType("g4ad.xlarge", 4, 16_384, quota="g-and-vt", gpu=("AMD", "Radeon Pro V520")),
        InstanceType("g5g.xlarge", 4, 8_192, _ARM, quota="g-and-vt", gpu=("NVIDIA", "T4g")),
    )
}

_FILTERS: dict[str, Field[InstanceType]] = {
    "instance-type": lambda t: (t.name,),
    "processor-info.supported-architecture": lambda t: t.architectures,
    "vcpu-info.default-vcpus": lambda t: (str(t.vcpus),),
    "memory-info.size-in-mib": lambda t: (str(t.memory_mib),),
    "hypervisor": lambda t: ("nitro" if t.nitro else "xen",),
    "burstable-performance-supported": lambda t: (str(t.burstable).lower(),),
    "bare-metal": lambda _: ("false",),
    "current-generation": lambda t: (str(t.nitro or t.burstable).lower(),),
    "supported-usage-class": lambda _: ("on-demand", "spot"),
}


class Offering(msgspec.Struct, frozen=True):
    """That a place offers a type.

    Attributes:
        type: name of the instance type.
        location: a region, a zone's name or its id.
    """

    type: str
    location: str

    @property
    def shown_tags(self) -> Mapping[str, str]:
        """None; offerings have no tags."""
        return {}


_OFFERING_FILTERS: dict[str, Field[Offering]] = {
    "instance-type": lambda o: (o.type,),
    "location": lambda o: (o.location,),
}


def find_type(name: str) -> InstanceType:
    """The type of a launch; raises InvalidParameterValue for one that does not exist."""
    try:
        return TYPES[name]
    except KeyError:
        raise Ec2Error("InvalidParameterValue", f"Invalid value '{name}' for InstanceType.") from None


def is_offered(config: SimConfig, zone: str, instance_type: str) -> bool:
    """Whether a zone has a type at all."""
    return not any(
        fnmatchcase(zone, row.zone) and fnmatchcase(instance_type, row.instance_type) for row in config.unsupported
    )


def describe_instance_types(params: Params) -> str:
    """DescribeInstanceTypes."""
    page = Page(params, high=100)
    filters = Filters(params, _FILTERS)
    asked = params.texts("InstanceType")
    unknown = [name for name in asked if name not in TYPES]
    if unknown:
        message = f"The following supplied instance types do not exist: [{', '.join(unknown)}]"
        raise Ec2Error("InvalidInstanceType", message)
    rows: Iterable[InstanceType] = [TYPES[name] for name in asked] if asked else TYPES.values()
    shown, token = page.cut([each for each in rows if filters.match(each)])
    return element("instanceTypeSet", [_type_node(each) for each in shown]) + elements({"nextToken": token})


def describe_offerings(params: Params, config: SimConfig, region: str, zones: Iterable[Zone]) -> str:
    """DescribeInstanceTypeOfferings."""
    page = Page(params)
    filters = Filters(params, _OFFERING_FILTERS)
    kind = params.text("LocationType") or "region"
    if kind not in {"region", "availability-zone", "availability-zone-id"}:
        raise invalid_value("locationType", kind, "Expecting region, availability-zone or availability-zone-id.")
    offered = [(zone, name) for zone in zones for name in TYPES if is_offered(config, zone.name, name)]
    if kind == "region":
        rows = [Offering(name, region) for name in dict.fromkeys(name for _, name in offered)]
    else:
        rows = [Offering(name, zone.name if kind == "availability-zone" else zone.id) for zone, name in offered]
    shown, token = page.cut([row for row in rows if filters.match(row)])
    items: list[Node] = [{"instanceType": row.type, "locationType": kind, "location": row.location} for row in shown]
    return element("instanceTypeOfferingSet", items) + elements({"nextToken": token})


def _type_node(each: InstanceType) -> Node:
    return {
        "instanceType": each.name,
        "currentGeneration": each.nitro or each.burstable,
        "freeTierEligible": each.name in {"t2.micro", "t3.micro"},
        "supportedUsageClasses": ["on-demand", "spot"],
        "supportedRootDeviceTypes": ["ebs"],
        "supportedVirtualizationTypes": ["hvm"],
        "bareMetal": False,
        "hypervisor": "nitro" if each.nitro else "xen",
        "processorInfo": {"supportedArchitectures": list(each.architectures), "sustainedClockSpeedInGhz": 2.5},
        "vCpuInfo": {
            "defaultVCpus": each.vcpus,
            "defaultCores": max(1, each.vcpus // 2),
            "defaultThreadsPerCore": min(2, each.vcpus),
        },
        "memoryInfo": {"sizeInMiB": each.memory_mib},
        "gpuInfo": {"gpus": [{"name": each.gpu[1], "manufacturer": each.gpu[0], "count": 1}]} if each.gpu else None,
        "instanceStorageSupported": False,
        "networkInfo": {
            "networkPerformance": "Up to 5 Gigabit",
            "maximumNetworkInterfaces": 2,
            "ipv6Supported": True,
            "enaSupport": "required" if each.nitro else "unsupported",
        },
        "hibernationSupported": False,
        "burstablePerformanceSupported": each.burstable,
        "dedicatedHostsSupported": False,
        "autoRecoverySupported": True,
        "supportedBootModes": ["legacy-bios", "uefi"] if each.nitro else ["legacy-bios"],
    }
