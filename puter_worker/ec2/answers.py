"""The parts of EC2's answers that Puter reads, with EC2's names in snake_case. They are decoded strictly."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

import msgspec


class _Part(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """A part of an answer; fields that are not declared are ignored."""


class Metadata(_Part, frozen=True, kw_only=True):
    """What an answer says about the call itself."""

    request_id: str | None = None


class Answer(_Part, frozen=True, kw_only=True):
    """What every answer has; `next_token` is set if there are more pages."""

    response_metadata: Metadata = Metadata()
    next_token: str | None = None

    @property
    def request_id(self) -> str | None:
        """AWS's request id of the call."""
        return self.response_metadata.request_id


AnswerType = TypeVar("AnswerType", bound=Answer)


class Tag(_Part, frozen=True, kw_only=True):
    """One tag of a resource."""

    key: str
    value: str = ""


class StateAnswer(_Part, frozen=True, kw_only=True):
    """An instance's state."""

    name: str


class ReasonAnswer(_Part, frozen=True, kw_only=True):
    """Why an instance is in its state."""

    code: str | None = None
    message: str | None = None


class PlacementAnswer(_Part, frozen=True, kw_only=True):
    """Where an instance is."""

    availability_zone: str | None = None


class GroupRef(_Part, frozen=True, kw_only=True):
    """A security group as an instance's description names it."""

    group_id: str


class InterfaceAnswer(_Part, frozen=True, kw_only=True):
    """A network interface of an instance."""

    groups: list[GroupRef] = []


class CpuAnswer(_Part, frozen=True, kw_only=True):
    """The processors of an instance."""

    core_count: int | None = None
    threads_per_core: int | None = None


class InstanceAnswer(_Part, frozen=True, kw_only=True):
    """An instance."""

    instance_id: str
    state: StateAnswer
    state_reason: ReasonAnswer | None = None
    launch_time: datetime | None = None
    ami_launch_index: int = 0
    client_token: str | None = None
    image_id: str | None = None
    instance_type: str | None = None
    cpu_options: CpuAnswer = CpuAnswer()
    placement: PlacementAnswer = PlacementAnswer()
    vpc_id: str | None = None
    subnet_id: str | None = None
    public_dns_name: str | None = None
    public_ip_address: str | None = None
    private_ip_address: str | None = None
    key_name: str | None = None
    security_groups: list[GroupRef] = []
    network_interfaces: list[InterfaceAnswer] = []
    tags: list[Tag] = []
    instance_lifecycle: str | None = None


class ReservationAnswer(Answer, frozen=True, kw_only=True):
    """The instances of one RunInstances call: the answer to it, and a part of DescribeInstances' answer."""

    instances: list[InstanceAnswer] = []


class Instances(Answer, frozen=True, kw_only=True):
    """The answer to DescribeInstances."""

    reservations: list[ReservationAnswer] = []


class Console(Answer, frozen=True, kw_only=True):
    """The answer to GetConsoleOutput; the SDK has decoded its base64."""

    output: str | None = None


class DiskAnswer(_Part, frozen=True, kw_only=True):
    """A volume that an image makes: its size in GiB, the least that its snapshot allows."""

    volume_size: int | None = None


class DeviceAnswer(_Part, frozen=True, kw_only=True):
    """A device of an image; one without a volume is an instance store, or none."""

    device_name: str = ""
    ebs: DiskAnswer | None = None


class ImageAnswer(_Part, frozen=True, kw_only=True):
    """An image."""

    image_id: str
    name: str = ""
    state: str = ""
    architecture: str = ""
    root_device_name: str | None = None
    platform: str | None = None
    platform_details: str | None = None
    owner_id: str = ""
    image_owner_alias: str | None = None
    creation_date: str | None = None
    block_device_mappings: list[DeviceAnswer] = []


class Images(Answer, frozen=True, kw_only=True):
    """The answer to DescribeImages."""

    images: list[ImageAnswer] = []


class ProcessorAnswer(_Part, frozen=True, kw_only=True):
    """Processors of an instance type."""

    supported_architectures: list[str] = []


class GpuAnswer(_Part, frozen=True, kw_only=True):
    """A kind of GPU of an instance type."""

    manufacturer: str = ""


class GpusAnswer(_Part, frozen=True, kw_only=True):
    """The GPUs of an instance type."""

    gpus: list[GpuAnswer] = []


class VcpuAnswer(_Part, frozen=True, kw_only=True):
    """How many vCPUs an instance type has."""

    default_v_cpus: int | None = msgspec.field(default=None, name="DefaultVCpus")


class InstanceTypeAnswer(_Part, frozen=True, kw_only=True):
    """An instance type."""

    instance_type: str = ""
    processor_info: ProcessorAnswer = ProcessorAnswer()
    gpu_info: GpusAnswer = GpusAnswer()
    v_cpu_info: VcpuAnswer = msgspec.field(default=VcpuAnswer(), name="VCpuInfo")


class InstanceTypes(Answer, frozen=True, kw_only=True):
    """The answer to DescribeInstanceTypes."""

    instance_types: list[InstanceTypeAnswer] = []


class KeyPairAnswer(Answer, frozen=True, kw_only=True):
    """A key pair: the answer to ImportKeyPair and CreateKeyPair, and a part of DescribeKeyPairs' answer."""

    key_name: str
    key_pair_id: str
    public_key: str | None = None
    key_material: str | None = None
    tags: list[Tag] = []

    def __repr__(self) -> str:
        return f"KeyPairAnswer(key_name={self.key_name!r}, key_pair_id={self.key_pair_id!r})"


class KeyPairs(Answer, frozen=True, kw_only=True):
    """The answer to DescribeKeyPairs."""

    key_pairs: list[KeyPairAnswer] = []


class VpcAnswer(_Part, frozen=True, kw_only=True):
    """A VPC."""

    vpc_id: str


class Vpcs(Answer, frozen=True, kw_only=True):
    """DescribeVpcs."""

    vpcs: list[VpcAnswer] = []


class SubnetAnswer(_Part, frozen=True, kw_only=True):
    """A subnet."""

    subnet_id: str
    vpc_id: str
    availability_zone: str


class Subnets(Answer, frozen=True, kw_only=True):
    """DescribeSubnets."""

    subnets: list[SubnetAnswer] = []


class Range4(_Part, frozen=True, kw_only=True):
    """An IPv4 range of a rule."""

    cidr_ip: str


class Range6(_Part, frozen=True, kw_only=True):
    """An IPv6 range of a rule."""

    cidr_ipv6: str


class Permission(_Part, frozen=True, kw_only=True):
    """Rules of a security group with the same protocol and ports; without ports they hold for all ports."""

    ip_protocol: str
    from_port: int | None = None
    to_port: int | None = None
    ip_ranges: list[Range4] = []
    ipv6_ranges: list[Range6] = []


class GroupAnswer(Answer, frozen=True, kw_only=True):
    """A security group: the answer to CreateSecurityGroup, and a part of DescribeSecurityGroups' answer."""

    group_id: str
    group_name: str = ""
    vpc_id: str | None = None
    ip_permissions: list[Permission] = []
    tags: list[Tag] = []


class Groups(Answer, frozen=True, kw_only=True):
    """DescribeSecurityGroups."""

    security_groups: list[GroupAnswer] = []
