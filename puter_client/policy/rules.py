"""All rules of a policy, each declared once: how it is written, what it means, and what it refuses.

A new rule is one entry of RULES and its line in docs/policy.md; the file, `puter admin policy` and both decisions of
the worker follow from it. A rule of About.COUNT also needs what it counts (`puter_worker/store/usage.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from puter_client.contract import readers
from puter_client.contract.duration import format_duration
from puter_client.contract.key import shown
from puter_client.contract.os_image import Os
from puter_client.contract.regions import region as read_region
from puter_client.contract.spec import Spec
from puter_client.policy.rule import About, Asked, Rule, Values
from puter_client.policy.values import Flag, Longest, Names, Number, Text

PROFILES, DEFAULT_PROFILE, DEFAULT_CREDENTIALS = "profiles", "default_profile", "default_credentials"
REGIONS, LONGEST_TTL, NO_SHUTDOWN, IMAGES, IMAGE_OWNERS = (
    "regions",
    "longest_ttl",
    "no_shutdown",
    "images",
    "image_owners",
)
SSH_FROM, SSH_COUNT, SSH_V4, SSH_V6 = "ssh_from", "ssh_from_count", "ssh_from_ipv4_prefix", "ssh_from_ipv6_prefix"
MACHINES, VCPUS, HOURLY = "most_machines", "most_vcpus", "most_machines_an_hour"
REQUESTS, RECORDS = "most_requests", "most_records"
SELF = "self"

_profile = readers.pattern(r"[^\s:/\\][^\x00-\x1f/\\]{0,127}", "write the name of an AWS profile")
_ANY = 10_000_000


def matches(value: str, patterns: Iterable[str]) -> bool:
    """Whether a value is one of some names and globs; upper and lower case differ."""
    return any(fnmatchcase(value, one) for one in patterns)


def types_of(spec: Spec) -> tuple[str, ...]:
    """All instance types that a request takes."""
    return (spec.instance_type, *spec.instance_types)


# -- what the rules refuse ------------------------------------------------------------------------------------------


def _profiles(values: Values, asked: Asked) -> Iterator[str]:
    if asked.profile and asked.profile not in values[PROFILES]:
        yield f"AWS profile {shown(asked.profile)}"


def _default_credentials(values: Values, asked: Asked) -> Iterator[str]:
    if not asked.profile and not values[DEFAULT_CREDENTIALS]:
        yield "a request without an AWS profile"


def _named_profiles(values: Values) -> str:
    named = ", ".join(values[PROFILES])
    return f"name one with --profile: {named}" if named else "no AWS profile"


def _regions(values: Values, asked: Asked) -> Iterator[str]:
    if asked.region is not None and not matches(asked.region, values[REGIONS]):
        yield f"region {asked.region}"


def _types(values: Values, asked: Asked) -> Iterator[str]:
    for name in types_of(asked.spec):
        if not matches(name, values["instance_types"]):
            yield f"instance type {name}"


def _images(values: Values, asked: Asked) -> Iterator[str]:
    spec = asked.spec
    if spec.ami is None:
        if not matches(spec.os.value, values[IMAGES]):
            yield f"os {spec.os.value}"
        return
    if matches(spec.ami, values[IMAGES]):
        return
    if asked.image is None:
        if not values[IMAGE_OWNERS]:
            yield f"image {spec.ami}"
        return
    image = asked.image
    names = {image.owner_id, image.alias} | ({SELF} if image.own else set())
    if not names & set(values[IMAGE_OWNERS]):
        yield f"image {spec.ami} of {f'account {image.owner_id}' if image.owner_id else 'an unknown owner'}"


def _allowed_images(values: Values) -> str:
    owners = f"images of {', '.join(values[IMAGE_OWNERS])}" if values[IMAGE_OWNERS] else ""
    return "; ".join(filter(None, (", ".join(values[IMAGES]), owners))) or "nothing"


def _listed(rule: str, what: str, of: Callable[[Spec], Iterable[str | None]]) -> Callable[[Values, Asked], Any]:
    """Refuses values of the spec that are not in the rule's list; what is not requested is not refused."""

    def refused(values: Values, asked: Asked) -> Iterator[str]:
        for value in of(asked.spec):
            if value is not None and value not in values[rule]:
                yield f"{what} {shown(value)}"

    return refused


def _if(what: str, rule: str, is_asked: Callable[[Spec], bool]) -> Callable[[Values, Asked], Any]:
    """Refuses what a flag does not allow."""

    def refused(values: Values, asked: Asked) -> Iterator[str]:
        if is_asked(asked.spec) and not values[rule]:
            yield what

    return refused


def _ssh_from(values: Values, asked: Asked) -> Iterator[str]:
    for cidr in asked.spec.ssh_from:
        if not _may_come_from(cidr, values):
            yield f"ssh from {cidr}"


def _may_come_from(cidr: str, values: Values) -> bool:
    import ipaddress  # `puter admin policy check` of a file without networks reads none

    network = ipaddress.ip_network(cidr)
    narrowest = values[SSH_V4 if network.version == 4 else SSH_V6]
    if narrowest and network.prefixlen >= narrowest:
        return True
    for text in values[SSH_FROM]:
        within = ipaddress.ip_network(text)
        if within.version == network.version and within.supernet_of(network):  # type: ignore[arg-type]
            return True
    return False


def _allowed_ssh(values: Values) -> str:
    said = [f"within {', '.join(values[SSH_FROM])}"] if values[SSH_FROM] else []
    said += [f"{version} networks of /{values[rule]} or narrower"
             for version, rule in (("IPv4", SSH_V4), ("IPv6", SSH_V6)) if values[rule]]  # fmt: skip
    return "; ".join(said) or "none (--ssh-from none)"


def _ssh_count(values: Values, asked: Asked) -> Iterator[str]:
    count, most = len(asked.spec.ssh_from), values[SSH_COUNT]
    if most is not None and count > most:
        yield f"ssh from {count} networks"


def _disk(values: Values, asked: Asked) -> Iterator[str]:
    disk, most = asked.spec.disk, values["disk"]
    if disk is not None and most is not None and disk > most:
        yield f"a root disk of {disk} GiB"


def _ttl(values: Values, asked: Asked) -> Iterator[str]:
    ttl_s, longest = asked.spec.ttl_s, values[LONGEST_TTL]
    if ttl_s is not None and longest is not None and ttl_s > longest:
        yield f"a life of {format_duration(ttl_s)}"


def _over(rule: str, what: str, of: Callable[[Asked], int | None] = lambda asked: 1) -> Callable[[Values, Asked], Any]:
    """Refuses one machine that needs more than the limit: it would wait for ever."""

    def refused(values: Values, asked: Asked) -> Iterator[str]:
        needed, most = of(asked), values[rule]
        if most is not None and needed is not None and needed > most:
            yield what.format(f"{needed:,}")

    return refused


# -- the rules ------------------------------------------------------------------------------------------------------


def _read_cidr(value: Any) -> str:
    return readers.parse_cidr(readers.text(value))


RULES: tuple[Rule, ...] = (
    Rule(
        name=PROFILES,
        about=About.TARGET,
        kind=Names(_profile),
        allows="AWS profiles: {}",
        forbids="no AWS profile by name",
        refused=_profiles,
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
        refused=_default_credentials,
        allowed=_named_profiles,
    ),
    Rule(
        name=REGIONS,
        about=About.TARGET,
        kind=Names(read_region, globs="a-z0-9"),
        allows="regions: {}",
        forbids="no region",
        refused=_regions,
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
        refused=_types,
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
        refused=_images,
        allowed=_allowed_images,
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
        refused=_listed("subnets", "subnet", lambda spec: (spec.subnet, *spec.subnets)),
    ),
    Rule(
        name="security_groups",
        about=About.MACHINE,
        kind=Names(readers.text),
        allows="security groups: {}",
        forbids="no security group by its name: Puter's own alone",
        refused=_listed("security_groups", "security group", lambda spec: (spec.security_group_name,)),
    ),
    Rule(
        name="key_names",
        about=About.MACHINE,
        kind=Names(readers.text),
        allows="EC2 key pairs: {}",
        forbids="no EC2 key pair by its name: the user's own key alone",
        refused=_listed("key_names", "key pair", lambda spec: (spec.key_name,)),
    ),
    Rule(
        name="instance_profiles",
        about=About.MACHINE,
        kind=Names(readers.text),
        allows="IAM instance profiles: {}",
        forbids="no IAM instance profile",
        refused=_listed("instance_profiles", "instance profile", lambda spec: (spec.instance_profile,)),
    ),
    Rule(
        name=SSH_FROM,
        about=About.ACCESS,
        kind=Names(_read_cidr),
        allows="ssh from any network within: {}",
        forbids="ssh from no network by its name",
        refused=_ssh_from,
        allowed=_allowed_ssh,
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
        kind=Number(20, unlimited=False),
        allows="at most {} such networks in a request",
        forbids="no such network in a request",
        refused=_ssh_count,
    ),
    Rule(
        name="user_data",
        about=About.MACHINE,
        kind=Flag(),
        allows="user data: {}",
        forbids="no user data",
        refused=_if("user data", "user_data", lambda spec: spec.user_data is not None),
    ),
    Rule(
        name="spot",
        about=About.MACHINE,
        kind=Flag(),
        allows="Spot instances: {}",
        forbids="no Spot instance",
        refused=_if("a Spot instance", "spot", lambda spec: bool(spec.spot)),
    ),
    Rule(
        name="disk",
        about=About.MACHINE,
        kind=Number(65_536),
        allows="a root disk of at most {} GiB",
        forbids="no root disk but of the image's size",
        unlimited="a root disk of any size",
        refused=_disk,
    ),
    Rule(
        name=LONGEST_TTL,
        about=About.LIFE,
        kind=Longest(),
        allows="a life of at most {} from the launch",
        forbids="no machine of any life",
        unlimited="a life of any length",
        refused=_ttl,
        must=True,
    ),
    Rule(
        name=NO_SHUTDOWN,
        about=About.LIFE,
        kind=Flag(),
        allows="machines that never end themselves: {}",
        forbids="no machine that never ends itself",
        refused=_if("a machine that never ends itself", NO_SHUTDOWN, lambda spec: spec.ttl_s is None),
    ),
    Rule(
        name=MACHINES,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} machines alive",
        forbids="no machine",
        unlimited="any number of machines alive",
        refused=_over(MACHINES, "{} machine"),
        must=True,
    ),
    Rule(
        name=VCPUS,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} vCPUs alive",
        forbids="no vCPU",
        unlimited="any number of vCPUs alive",
        refused=_over(VCPUS, "a machine with {} vCPUs", lambda asked: asked.vcpus or 1),
        must=True,
    ),
    Rule(
        name=HOURLY,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} machines launched in an hour",
        forbids="no launch",
        unlimited="any number of machines launched in an hour",
        refused=_over(HOURLY, "{} launch"),
        must=True,
    ),
    Rule(
        name=REQUESTS,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} requests that wait for their machine",
        forbids="no request",
        unlimited="any number of requests that wait for their machine",
        refused=_over(REQUESTS, "{} request"),
        must=True,
    ),
    Rule(
        name=RECORDS,
        about=About.COUNT,
        kind=Number(_ANY),
        allows="at most {} tags of which a record is kept",
        forbids="no record",
        unlimited="any number of tags of which a record is kept",
        refused=_over(RECORDS, "{} record"),
        must=True,
    ),
)
BY_NAME = {rule.name: rule for rule in RULES}
