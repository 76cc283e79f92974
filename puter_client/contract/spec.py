"""What is requested: the description of one machine and its workload."""

from __future__ import annotations

import hashlib

import msgspec

from puter_client.contract.phase import Os

DEFAULT_INSTANCE_TYPE = "t3.micro"
DEFAULT_TTL_S = 3_600
DEFAULT_GIVE_UP_AFTER_S = 900
DEFAULT_GROUP_NAME = "puter-v1"
DEFAULT_KEY_NAME = "puter-v1"

# One puter's machine is another's when these agree; the rest says how long it lives, who may reach it and what
# it is labelled with, which can differ without its being another machine.
COMPARED = (
    "profile",
    "region",
    "instance_type",
    "instance_types",
    "os",
    "ami",
    "subnet",
    "subnets",
    "spot",
    "user_data",
    "run",
    "env",
)


class Spec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One machine as requested; None means "as the worker finds it" unless said otherwise.

    Attributes:
        profile: AWS profile of the worker's host; None is its default credentials.
        region: None is the profile's own, else us-east-1.
        instance_type: EC2's name of it.
        instance_types: further types, tried in turn where the first has no capacity.
        os: whose newest image is taken when `ami` is None.
        ami: an image id.
        subnet: a subnet id; its VPC holds the security group. None is the default VPC's.
        subnets: further subnets, tried in turn where the first has no capacity.
        spot: whether to ask for a Spot instance.
        alone: whether it is launched by a call of its own; machines of one call can read each other's user data.
        disk: size of the root disk in GiB; None is the image's.
        instance_profile: name of an IAM instance profile.
        user_data: the user's own boot script or cloud-config, run after Puter's part.
        run: the workload, a shell command run once Docker is up.
        env: environment of the workload.
        key_name: name of the EC2 key pair as asked; None is Puter's default with its fallback.
        public_key: one OpenSSH public key line; the private half never travels.
        private_key_path: where the client keeps the private half, for its ssh commands.
        security_group_name: name of the group that lets ssh in.
        ssh_from: CIDRs that may reach port 22; empty is none.
        aws_tags: further tags of instance and volume.
        give_up_after_s: for how long missing capacity is waited for.
        ttl_s: seconds from launch until the machine ends itself; None is never.
    """

    profile: str | None = None
    region: str | None = None
    instance_type: str = DEFAULT_INSTANCE_TYPE
    instance_types: tuple[str, ...] = ()
    os: Os = Os.AL2023
    ami: str | None = None
    subnet: str | None = None
    subnets: tuple[str, ...] = ()
    spot: bool = False
    alone: bool = False
    disk: int | None = None
    instance_profile: str | None = None
    user_data: str | None = None
    run: str | None = None
    env: dict[str, str] = {}
    key_name: str | None = None
    public_key: str | None = None
    private_key_path: str | None = None
    security_group_name: str | None = None
    ssh_from: tuple[str, ...] = ()
    aws_tags: dict[str, str] = {}
    give_up_after_s: int = DEFAULT_GIVE_UP_AFTER_S
    ttl_s: int | None = DEFAULT_TTL_S

    def __repr__(self) -> str:
        # env, run and user data may carry secrets, and a repr ends in logs.
        return f"Spec(instance_type={self.instance_type!r}, os={self.os.value!r}, digest={spec_digest(self)!r})"


def spec_digest(spec: Spec) -> str:
    """16 hex digits that agree for specs of the same machine (see COMPARED)."""
    compared = [getattr(spec, name) for name in COMPARED]
    return hashlib.sha256(msgspec.json.encode(compared, order="deterministic")).hexdigest()[:16]


def differing_fields(one: Spec, other: Spec) -> tuple[str, ...]:
    """Names of the compared fields in which two specs differ, in COMPARED's order."""
    return tuple(name for name in COMPARED if getattr(one, name) != getattr(other, name))
