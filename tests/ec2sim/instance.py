"""One instance: what EC2 knows of it, and how a Describe shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from tests.ec2sim.catalog import InstanceType
from tests.ec2sim.filters import Field
from tests.ec2sim.groups import Group
from tests.ec2sim.images import Image
from tests.ec2sim.network import Subnet
from tests.ec2sim.wire import Node, Raw, element, elements, escaped, tag_set, timestamp


class State(StrEnum):
    """The state of an instance."""

    PENDING = "pending"
    RUNNING = "running"
    SHUTTING_DOWN = "shutting-down"
    TERMINATED = "terminated"
    STOPPING = "stopping"
    STOPPED = "stopped"


CODE = {
    State.PENDING: 0,
    State.RUNNING: 16,
    State.SHUTTING_DOWN: 32,
    State.TERMINATED: 48,
    State.STOPPING: 64,
    State.STOPPED: 80,
}
# States in which an instance holds capacity and counts in quotas.
HOLDING = frozenset({State.PENDING, State.RUNNING, State.SHUTTING_DOWN, State.STOPPING})
ENDING = frozenset({State.SHUTTING_DOWN, State.TERMINATED})


class Sight(msgspec.Struct, frozen=True):
    """When a new instance is found; times are seconds since 1970.

    Attributes:
        first: found from here on …
        lost: … missed again from here on …
        back: … and found for good from here on.
    """

    first: float
    lost: float
    back: float

    def finds(self, now: float) -> bool:
        """Whether it is found."""
        return now >= self.back or self.first <= now < self.lost


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a launch requested that all its instances share.

    Attributes:
        image: that it boots.
        type: of instance.
        key_name: of the key pair.
        client_token: as sent; empty if none was.
        user_data: decoded.
        shutdown_behavior: stop or terminate.
        spot: whether it is a Spot launch.
        instance_profile: name of the IAM instance profile.
        http_tokens: required or optional.
        metadata_tags: whether tags are in the instance metadata.
        hop_limit: of metadata answers.
        root_gib: size of the root volume.
        public: whether a public address was requested or refused; None leaves it to the subnet.
        monitoring: whether in detail.
    """

    image: Image
    type: InstanceType
    key_name: str | None
    client_token: str
    user_data: bytes
    shutdown_behavior: str
    spot: bool
    instance_profile: str | None
    http_tokens: str
    metadata_tags: bool
    hop_limit: int
    root_gib: int
    public: bool | None
    monitoring: bool

    @property
    def market(self) -> str:
        """`spot` or `on-demand`: EC2 counts their capacity and quotas apart."""
        return "spot" if self.spot else "on-demand"


@dataclass(slots=True, eq=False, kw_only=True)
class Instance:
    """An instance.

    Attributes:
        id: `i-…`.
        number: order of launches; pages follow it.
        account: owner.
        region: it runs in.
        reservation_id: of its launch.
        launch_index: within its launch.
        options: as requested.
        shared_xml: what `render_shared` made of them.
        subnet: where.
        groups: security groups.
        private_ip: until it ends.
        volume_id: of its root volume.
        spot_request_id: of Spot instances.
        launched_at: whole seconds since 1970, as EC2 counts.
        by_id: when calls that name it find it.
        listed: when Describes that do not name it show it.
        taggable_at: when CreateTags finds it.
        tags: as set; what it was launched with and given later, even after it ended.
        shown_tags: as a Describe shows them.
        faded: keys of tags that it lost after its end.
        volume_tags: of the root volume.
        state: now.
        public_ip: while running.
        protected: against TerminateInstances.
        reason: the sentence of its last transition.
        state_reason: code and message of why it ended.
        ended_at: when it was terminated.
        console: (when written, bytes) by time.
        posted: how many of these GetConsoleOutput has without `Latest`; None goes by their age.
    """

    id: str
    number: int
    account: str
    region: str
    reservation_id: str
    launch_index: int
    options: Options
    shared_xml: str
    subnet: Subnet
    groups: list[Group]
    private_ip: str
    volume_id: str
    spot_request_id: str | None
    launched_at: float
    by_id: Sight
    listed: Sight
    taggable_at: float
    tags: dict[str, str]
    volume_tags: dict[str, str]
    shown_tags: dict[str, str] = field(default_factory=dict)
    faded: set[str] = field(default_factory=set)
    state: State = State.PENDING
    shutdown_behavior: str = "stop"
    public_ip: str | None = None
    protected: bool = False
    reason: str = ""
    state_reason: tuple[str, str] | None = None
    ended_at: float | None = None
    gone: bool = False
    console: list[tuple[float, bytes]] = field(default_factory=list)
    posted: int | None = None
    _shown: str | None = None

    def changed(self) -> None:
        """Make the next Describe render it again."""
        self._shown = None

    @property
    def xml(self) -> str:
        """Its `<item>` of an instancesSet, rendered once for each change."""
        if self._shown is None:
            self._shown = f"<item>{_render(self)}</item>"
        return self._shown

    @property
    def public_dns(self) -> str:
        """Its public name; empty while it has no public address."""
        if not self.public_ip:
            return ""
        domain = "compute-1" if self.region == "us-east-1" else f"{self.region}.compute"
        return f"ec2-{self.public_ip.replace('.', '-')}.{domain}.amazonaws.com"

    @property
    def private_dns(self) -> str:
        """Its private name."""
        domain = "ec2.internal" if self.region == "us-east-1" else f"{self.region}.compute.internal"
        return f"ip-{self.private_ip.replace('.', '-')}.{domain}"

    @property
    def shown_state(self) -> dict[str, Node]:
        """Code and name of its state."""
        return {"code": CODE[self.state], "name": self.state.value}


def render_shared(options: Options) -> str:
    """What a Describe shows alike for all instances of a launch, at any time; rendered once."""
    fields: dict[str, Node] = {
        "imageId": options.image.id,
        "keyName": options.key_name,
        "productCodes": [],
        "instanceType": options.type.name,
        "cpuOptions": {
            "coreCount": max(1, options.type.vcpus // 2),
            "threadsPerCore": min(2, options.type.vcpus),
        },
        "monitoring": {"state": "enabled" if options.monitoring else "disabled"},
        "architecture": options.image.architecture,
        "rootDeviceType": "ebs",
        "rootDeviceName": options.image.root_device,
        "virtualizationType": "hvm",
        "clientToken": options.client_token,
        "hypervisor": "xen",
        "ebsOptimized": False,
        "enaSupport": True,
        "instanceLifecycle": "spot" if options.spot else None,
        "platformDetails": options.image.platform_details,
        "usageOperation": "RunInstances",
        "metadataOptions": {
            "state": "applied",
            "httpTokens": options.http_tokens,
            "httpPutResponseHopLimit": options.hop_limit,
            "httpEndpoint": "enabled",
            "httpProtocolIpv6": "disabled",
            "instanceMetadataTags": "enabled" if options.metadata_tags else "disabled",
        },
    }
    return elements(fields)


# A thousand of these are rendered in a test that has one core; hence no tree of nodes here.
def _render(one: Instance) -> str:
    ended = one.state is State.TERMINATED
    zone = one.subnet.zone
    why = one.state_reason or (("pending", "pending") if one.state is State.PENDING else None)
    return (
        f"<instanceId>{one.id}</instanceId>{one.shared_xml}"
        f"<instanceState><code>{CODE[one.state]}</code><name>{one.state.value}</name></instanceState>"
        f"<privateDnsName>{'' if ended else one.private_dns}</privateDnsName><dnsName>{one.public_dns}</dnsName>"
        f"<reason>{escaped(one.reason)}</reason><amiLaunchIndex>{one.launch_index}</amiLaunchIndex>"
        f"<launchTime>{timestamp(one.launched_at)}</launchTime><placement><availabilityZone>{zone.name}"
        f"</availabilityZone><availabilityZoneId>{zone.id}</availabilityZoneId><groupName/>"
        f"<tenancy>default</tenancy></placement><tagSet>{tag_set(one.shown_tags)}</tagSet>"
        + element("stateReason", {"code": why[0], "message": why[1]} if why else None)
        + element("spotInstanceRequestId", one.spot_request_id)
        + ("<groupSet/><blockDeviceMapping/>" if ended else _render_place(one))
    )


def _render_place(one: Instance) -> str:
    """What an instance gives back when it ends."""
    profile = one.options.instance_profile
    arn = f"arn:aws:iam::{one.account}:instance-profile/{profile}"
    groups = "".join(
        f"<item><groupId>{group.id}</groupId><groupName>{escaped(group.name)}</groupName></item>"
        for group in one.groups
    )
    status = "attaching" if one.state is State.PENDING else "attached"
    return (
        f"<subnetId>{one.subnet.id}</subnetId><vpcId>{one.subnet.vpc.id}</vpcId>"
        f"<privateIpAddress>{one.private_ip}</privateIpAddress>{element('ipAddress', one.public_ip)}"
        f"<sourceDestCheck>true</sourceDestCheck><groupSet>{groups}</groupSet>"
        f"<blockDeviceMapping><item><deviceName>{one.options.image.root_device}</deviceName>"
        f"<ebs><volumeId>{one.volume_id}</volumeId>"
        f"<status>{status}</status><attachTime>{timestamp(one.launched_at)}</attachTime>"
        "<deleteOnTermination>true</deleteOnTermination></ebs></item></blockDeviceMapping>"
        + element("iamInstanceProfile", {"arn": arn, "id": "AIPASIMULATED"} if profile else None)
    )


def reservation_set(instances: list[Instance]) -> str:
    """A reservationSet; neighbours of one launch share an item."""
    parts: list[str] = []
    open_id: str | None = None
    for one in instances:
        if one.reservation_id != open_id:
            parts.append("</instancesSet></item>" if open_id else "")
            parts.append(f"<item>{reservation_head(one)}<instancesSet>")
            open_id = one.reservation_id
        parts.append(one.xml)
    parts.append("</instancesSet></item>" if open_id else "")
    return element("reservationSet", Raw("".join(parts)))


def reservation_head(one: Instance) -> str:
    """What a launch's instances share, as a Describe and the launch's answer begin."""
    return f"<reservationId>{one.reservation_id}</reservationId><ownerId>{one.account}</ownerId><groupSet/>"


def _here(one: Instance, *values: str | None) -> tuple[str, ...]:
    return () if one.state is State.TERMINATED else tuple(v for v in values if v)


FILTERS: Mapping[str, Field[Instance]] = {
    "architecture": lambda i: (i.options.image.architecture,),
    "availability-zone": lambda i: (i.subnet.zone.name,),
    "availability-zone-id": lambda i: (i.subnet.zone.id,),
    "client-token": lambda i: (i.options.client_token,),
    "dns-name": lambda i: (i.public_dns,),
    "group-id": lambda i: _here(i, *(g.id for g in i.groups)),
    "group-name": lambda i: _here(i, *(g.name for g in i.groups)),
    "hypervisor": lambda _: ("xen",),
    "image-id": lambda i: (i.options.image.id,),
    "instance-id": lambda i: (i.id,),
    "instance-lifecycle": lambda i: ("spot",) if i.options.spot else (),
    "instance-state-code": lambda i: (str(CODE[i.state]),),
    "instance-state-name": lambda i: (i.state.value,),
    "instance-type": lambda i: (i.options.type.name,),
    "instance.group-id": lambda i: _here(i, *(g.id for g in i.groups)),
    "instance.group-name": lambda i: _here(i, *(g.name for g in i.groups)),
    "ip-address": lambda i: _here(i, i.public_ip),
    "key-name": lambda i: (i.options.key_name,) if i.options.key_name else (),
    "launch-index": lambda i: (str(i.launch_index),),
    "launch-time": lambda i: (timestamp(i.launched_at),),
    "metadata-options.http-tokens": lambda i: (i.options.http_tokens,),
    "owner-id": lambda i: (i.account,),
    "private-dns-name": lambda i: _here(i, i.private_dns),
    "private-ip-address": lambda i: _here(i, i.private_ip),
    "reason": lambda i: (i.reason,),
    "reservation-id": lambda i: (i.reservation_id,),
    "root-device-type": lambda _: ("ebs",),
    "spot-instance-request-id": lambda i: (i.spot_request_id,) if i.spot_request_id else (),
    "state-reason-code": lambda i: (i.state_reason[0],) if i.state_reason else (),
    "subnet-id": lambda i: _here(i, i.subnet.id),
    "vpc-id": lambda i: _here(i, i.subnet.vpc.id),
}
