"""All rules of a policy, each declared once: how it is written, what it means, and what it refuses.

A new rule is one entry of RULES and its line in docs/policy.md; the file, `puter admin policy` and both decisions of
the worker follow from it. A rule of About.COUNT also needs what it counts (`puter_worker/store/usage.py`).
"""

from __future__ import annotations

from typing import Any

from puter_client.contract import readers
from puter_client.contract.os_image import Os
from puter_client.contract.regions import region as read_region
from puter_client.policy import refuses
from puter_client.policy.names import (
    DEFAULT_CREDENTIALS,
    DEFAULT_PROFILE,
    HOURLY,
    IMAGE_OWNERS,
    IMAGES,
    LONGEST_TTL,
    MACHINES,
    NO_SHUTDOWN,
    PROFILES,
    RECORDS,
    REGIONS,
    REQUESTS,
    SSH_COUNT,
    SSH_FROM,
    SSH_V4,
    SSH_V6,
    VCPUS,
)
from puter_client.policy.rule import About, Rule
from puter_client.policy.values import Flag, Longest, Names, Number, Text

_profile = readers.pattern(r"[^\s:/\\[\]][^\x00-\x1f/\\[\]]{0,127}", "write the name of an AWS profile")
_ANY = 10_000_000


def _read_cidr(value: Any) -> str:
    return readers.parse_cidr(readers.text(value), or_else="")


RULES: tuple[Rule, ...] = (
    Rule(
        name=PROFILES,
        about=About.TARGET,
        kind=Names(_profile),
        allows="AWS profiles: {}",
        forbids="no AWS profile by name",
        refused=refuses.profiles,
    ),
    Rule(
        name=DEFAULT_PROFILE,
        about=About.DEFAULT,
        kind=Text(_profile),
        allows="without --profile: AWS profile {}",
        forbids="no AWS profile that a request without --profile gets",
    ),
    Rule(
        name=DEFAULT_CREDENTIALS,
        about=About.TARGET,
        kind=Flag(),
        allows="without a profile: the credentials that the worker's host has by default",
        forbids="not the credentials that the worker's host has by default",
        refused=refuses.default_credentials,
        allowed=refuses.named_profiles,
    ),
    Rule(
        name=REGIONS,
        about=About.TARGET,
        kind=Names(read_region, globs="a-z0-9"),
        allows="regions: {}",
        forbids="no region",
        refused=refuses.regions,
        must=True,
    ),
    Rule(
        name="instance_types",
        about=About.MACHINE,
        kind=Names(
            readers.pattern(r"[a-z][a-z0-9-]{0,30}\.[a-z0-9-]{1,30}", "write a type like t3.micro, or t3.*"),
            globs="a-z0-9.",
        ),
        allows="instance types: {}",
        forbids="no instance type",
        refused=refuses.types,
        must=True,
    ),
    Rule(
        name=IMAGES,
        about=About.MACHINE,
        kind=Names(
            readers.pattern(
                "|".join(one.value.replace(".", r"\.") for one in Os) + r"|ami-[0-9a-f]{8,17}",
                f"write an id like ami-0123456789abcdef0, or one of {', '.join(Os)}",
            ),
            globs="a-z0-9.",
        ),
        allows="images: {}",
        forbids="no image by its os or id",
        refused=refuses.images,
        allowed=refuses.allowed_images,
    ),
    Rule(
        name=IMAGE_OWNERS,
        about=About.DEFAULT,  # `images` asks it
        kind=Names(
            readers.pattern(
                r"[0-9]{12}|amazon|aws-marketplace|self",
                "write an account of 12 digits, amazon, aws-marketplace or self",
            )
        ),
        allows="images by their id, of these owners: {}",
        forbids="no image because of its owner",
    ),
    Rule(
        name="subnets",
        about=About.MACHINE,
        kind=Names(
            readers.pattern(r"subnet-[0-9a-f]{8,17}", "write the id as EC2 shows it, like subnet-0123456789abcdef0")
        ),
        allows="subnets: {}",
        forbids="no subnet by its id: the default VPC's alone",
        refused=refuses.listed("subnets", "subnet", lambda spec: (spec.subnet, *spec.subnets)),
    ),
    Rule(
        name="security_groups",
        about=About.MACHINE,
        kind=Names(readers.text),
        allows="security groups: {}",
        forbids="no security group by its name: Puter's own alone",
        refused=refuses.listed("security_groups", "security group", lambda spec: (spec.security_group_name,)),
    ),
    Rule(
        name="key_names",
        about=About.MACHINE,
        kind=Names(readers.text),
        allows="EC2 key pairs: {}",
        forbids="no EC2 key pair by its name: the user's own key alone",
        refused=refuses.listed("key_names", "key pair", lambda spec: (spec.key_name,)),
    ),
    Rule(
        name="instance_profiles",
        about=About.MACHINE,
        kind=Names(readers.instance_profile),
        allows="IAM instance profiles: {}",
        forbids="no IAM instance profile",
        refused=refuses.listed("instance_profiles", "instance profile", lambda spec: (spec.instance_profile,)),
    ),
    Rule(
        name=SSH_FROM,
        about=About.ACCESS,
        kind=Names(_read_cidr),
        allows="ssh from any network within: {}",
        forbids="ssh from no network by its name",
        refused=refuses.ssh_from,
        allowed=refuses.allowed_ssh,
    ),
    Rule(
        name=SSH_V4,
        about=About.DEFAULT,  # `ssh_from` asks it
        kind=Number(32, least=8, unlimited=False),
        allows="ssh from any IPv4 network of /{} or narrower",
        forbids="ssh from no other IPv4 network",
    ),
    Rule(
        name=SSH_V6,
        about=About.DEFAULT,  # `ssh_from` asks it
        kind=Number(128, least=16, unlimited=False),
        allows="ssh from any IPv6 network of /{} or narrower",
        forbids="ssh from no other IPv6 network",
    ),
    Rule(
        name=SSH_COUNT,
        about=About.ACCESS,
        kind=Number(refuses.MOST_NETWORKS, unlimited=False),
        allows="at most {} such networks in a request",
        forbids="no such network in a request",
        refused=refuses.ssh_count,
    ),
    Rule(
        name="user_data",
        about=About.MACHINE,
        kind=Flag(),
        allows="user data: {}",
        forbids="no user data",
        refused=refuses.if_asked("user data", "user_data", lambda spec: spec.user_data is not None),
    ),
    Rule(
        name="spot",
        about=About.MACHINE,
        kind=Flag(),
        allows="Spot instances: {}",
        forbids="no Spot instance",
        refused=refuses.if_asked("a Spot instance", "spot", lambda spec: bool(spec.spot)),
    ),
    Rule(
        name="disk",
        about=About.MACHINE,
        kind=Number(65_536),
        allows="a root disk of at most {} GiB",
        forbids="no root disk but of the image's size",
        unlimited="a root disk of any size",
        refused=refuses.disk,
    ),
    Rule(
        name=LONGEST_TTL,
        about=About.LIFE,
        kind=Longest(),
        allows="a life of at most {} from the launch",
        forbids="no machine of any life",
        unlimited="a life of any length",
        refused=refuses.ttl,
        must=True,
    ),
    Rule(
        name=NO_SHUTDOWN,
        about=About.LIFE,
        kind=Flag(),
        allows="machines that never end themselves: {}",
        forbids="no machine that never ends itself",
        refused=refuses.if_asked("a machine that never ends itself", NO_SHUTDOWN, lambda spec: spec.ttl_s is None),
    ),
    Rule(
        name=MACHINES,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} machines alive",
        forbids="no machine",
        unlimited="any number of machines alive",
        refused=refuses.over(MACHINES, "{} machine"),
        must=True,
    ),
    Rule(
        name=VCPUS,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} vCPUs alive",
        forbids="no vCPU",
        unlimited="any number of vCPUs alive",
        refused=refuses.over(VCPUS, "a machine with {} vCPUs", lambda asked: asked.vcpus or 1),
        must=True,
    ),
    Rule(
        name=HOURLY,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} machines launched in an hour",
        forbids="no launch",
        unlimited="any number of machines launched in an hour",
        refused=refuses.over(HOURLY, "{} launch"),
        must=True,
    ),
    Rule(
        name=REQUESTS,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} requests that wait for their machine",
        forbids="no request",
        unlimited="any number of requests that wait for their machine",
        refused=refuses.over(REQUESTS, "{} request"),
        must=True,
    ),
    Rule(
        name=RECORDS,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} tags of which a record is kept",
        forbids="no record",
        unlimited="any number of tags of which a record is kept",
        refused=refuses.over(RECORDS, "{} record"),
        must=True,
    ),
)
BY_NAME = {rule.name: rule for rule in RULES}
