"""What rules refuse of a request, and how they say what is allowed instead. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from puter_client.contract.duration import format_duration
from puter_client.contract.key import shown
from puter_client.contract.spec import Spec
from puter_client.policy.names import (
    DEFAULT_CREDENTIALS,
    IMAGE_OWNERS,
    IMAGES,
    LONGEST_TTL,
    PROFILES,
    REGIONS,
    SSH_COUNT,
    SSH_FROM,
    SSH_V4,
    SSH_V6,
)
from puter_client.policy.rule import Asked, Values

if TYPE_CHECKING:
    from ipaddress import IPv4Network, IPv6Network

MOST_NETWORKS = 20
SELF = "self"
"""The owner of an image that is the account which launches it."""


def matches(value: str, patterns: Iterable[str]) -> bool:
    """Whether a value is one of some names and globs; upper and lower case differ."""
    return any(fnmatchcase(value, one) for one in patterns)


def types_of(spec: Spec) -> tuple[str, ...]:
    """All instance types that a request takes."""
    return (spec.instance_type, *spec.instance_types)


def profiles(values: Values, asked: Asked) -> Iterator[str]:
    """AWS profiles by name."""
    if asked.profile and asked.profile not in values[PROFILES]:
        yield f"AWS profile {shown(asked.profile)}"


def default_credentials(values: Values, asked: Asked) -> Iterator[str]:
    """No profile, where none stands for it."""
    if not asked.profile and not values[DEFAULT_CREDENTIALS]:
        yield "a request without an AWS profile"


def named_profiles(values: Values) -> str:
    """What a request without a profile is told."""
    named = ", ".join(values[PROFILES])
    return f"name one with --profile: {named}" if named else "no AWS profile"


def regions(values: Values, asked: Asked) -> Iterator[str]:
    """Regions, as far as they are known."""
    if asked.region is not None and not matches(asked.region, values[REGIONS]):
        yield f"region {asked.region}"


def types(values: Values, asked: Asked) -> Iterator[str]:
    """Instance types: each that is requested."""
    for name in types_of(asked.spec):
        if not matches(name, values["instance_types"]):
            yield f"instance type {name}"


def images(values: Values, asked: Asked) -> Iterator[str]:
    """The image, by its os, its id or its owner; the owner is asked when EC2 has told it."""
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


def allowed_images(values: Values) -> str:
    """The images that are allowed, with their owners."""
    owners = f"images of {', '.join(values[IMAGE_OWNERS])}" if values[IMAGE_OWNERS] else ""
    return "; ".join(filter(None, (", ".join(values[IMAGES]), owners))) or "nothing"


def listed(rule: str, what: str, of: Callable[[Spec], Iterable[str | None]]) -> Callable[[Values, Asked], Any]:
    """Refuses values of the spec that are not in the rule's list; what is not requested is not refused."""

    def refused(values: Values, asked: Asked) -> Iterator[str]:
        for value in of(asked.spec):
            if value is not None and value not in values[rule]:
                yield f"{what} {shown(value)}"

    return refused


def if_asked(what: str, rule: str, is_asked: Callable[[Spec], bool]) -> Callable[[Values, Asked], Any]:
    """Refuses what a flag does not allow."""

    def refused(values: Values, asked: Asked) -> Iterator[str]:
        if is_asked(asked.spec) and not values[rule]:
            yield what

    return refused


def ssh_from(values: Values, asked: Asked) -> Iterator[str]:
    """Networks that may use ssh."""
    for cidr in asked.spec.ssh_from[:MOST_NETWORKS]:  # more are refused by their number
        if not _may_come_from(cidr, values):
            yield f"ssh from {cidr}"


@lru_cache(maxsize=4_096)  # the same few stand in each of a batch's requests, and in the policy
def _network(cidr: str) -> IPv4Network | IPv6Network:
    import ipaddress  # `puter admin policy check` reads none

    return ipaddress.ip_network(cidr)


def _may_come_from(cidr: str, values: Values) -> bool:
    network = _network(cidr)
    narrowest = values[SSH_V4 if network.version == 4 else SSH_V6]
    if narrowest and network.prefixlen >= narrowest:
        return True
    for text in values[SSH_FROM]:
        within = _network(text)
        if within.version == network.version and within.supernet_of(network):  # type: ignore[arg-type]
            return True
    return False


def allowed_ssh(values: Values) -> str:
    """The networks that are allowed."""
    said = [f"within {', '.join(values[SSH_FROM])}"] if values[SSH_FROM] else []
    said += [f"{version} networks of /{values[rule]} or narrower"
             for version, rule in (("IPv4", SSH_V4), ("IPv6", SSH_V6)) if values[rule]]  # fmt: skip
    return "; ".join(said) or "none (--ssh-from none)"


def ssh_count(values: Values, asked: Asked) -> Iterator[str]:
    """Too many networks."""
    count, most = len(asked.spec.ssh_from), values[SSH_COUNT]
    if most is not None and count > most:
        yield f"ssh from {count} networks"


def disk(values: Values, asked: Asked) -> Iterator[str]:
    """A root disk that is too large."""
    disk, most = asked.spec.disk, values["disk"]
    if disk is not None and most is not None and disk > most:
        yield f"a root disk of {disk} GiB"


def ttl(values: Values, asked: Asked) -> Iterator[str]:
    """A life that is too long."""
    ttl_s, longest = asked.spec.ttl_s, values[LONGEST_TTL]
    if ttl_s is not None and longest is not None and ttl_s > longest:
        yield f"a life of {format_duration(ttl_s)}"


def over(rule: str, what: str, of: Callable[[Asked], int | None] = lambda asked: 1) -> Callable[[Values, Asked], Any]:
    """Refuses one machine that needs more than the limit: it would wait for ever."""

    def refused(values: Values, asked: Asked) -> Iterator[str]:
        needed, most = of(asked), values[rule]
        if most is not None and needed is not None and needed > most:
            yield what.format(f"{needed:,}")

    return refused
