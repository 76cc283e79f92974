"""Who publishes the images of each system, under which names, and what an image shows of its system. Pure.

Anyone may publish an image under any name: a name alone proves nothing. Sources: "Find an AMI" (EC2's user guide) for
Amazon Linux; "Finding the ID of a DLAMI" and the release notes of the Deep Learning AMIs; Canonical's "Find Ubuntu
images on AWS"; Debian's wiki, "Cloud/AmazonEC2Image".
"""

from __future__ import annotations

import re
from enum import StrEnum

import msgspec

from puter_client.contract.os_image import DEFAULT_SSH_USER, Os
from puter_worker.ec2.answers import ImageAnswer

AMAZON = "amazon"  # an alias, which EC2 gives to accounts of Amazon's own
CANONICAL = "099720109477"
DEBIAN = "136693071363"
# How the names of images tell of the architecture: Debian and Ubuntu write amd64, the GPU image names arm64 alone.
_WORDS = {
    "x86_64": {"architecture": "x86_64", "port": "amd64", "gpu": ""},
    "arm64": {"architecture": "arm64", "port": "arm64", "gpu": "ARM64 "},
}
# Their numbers are dates: so no test build and no other kind (pro, minimal, backports, daily) has such a name.
_PUBLISHED = {
    Os.AL2023: (AMAZON, ("al2023-ami-2023.*-kernel-6.1-{architecture}",)),
    Os.AL2: (AMAZON, ("amzn2-ami-hvm-2.0.*-{architecture}-gp2",)),
    Os.AL2023_GPU: (
        AMAZON,
        ("Deep Learning {gpu}Base OSS Nvidia Driver GPU AMI (Amazon Linux 2023) ????????",),
    ),
    Os.UBUNTU_24_04: (
        CANONICAL,
        tuple(
            f"ubuntu/images/hvm-ssd*/ubuntu-noble-24.04-{{port}}-server-{date}" for date in ("????????", "????????.?")
        ),
    ),
    Os.UBUNTU_22_04: (
        CANONICAL,
        tuple(
            f"ubuntu/images/hvm-ssd*/ubuntu-jammy-22.04-{{port}}-server-{date}" for date in ("????????", "????????.?")
        ),
    ),
    Os.DEBIAN_12: (DEBIAN, ("debian-12-{port}-????????-*",)),
}
_OTHER_KINDS = ("-minimal-", "-ecs-")
# Accounts of publishers of other systems, as each names its own: Red Hat, SUSE, Rocky, AlmaLinux.
_OTHER_PUBLISHERS = frozenset({"309956199498", "013907871322", "792107900819", "764336703387"})
_OTHER_SYSTEM = re.compile(
    r"(?<![a-z])(rhel|red[ _-]?hat|(open)?suse|sles|rocky[ _-]?(linux|\d)|almalinux|centos|fedora|"
    r"oracle[ _-]?linux|kali[ _-]?linux|arch[ _-]?linux|alpine|nixos|flatcar|bottlerocket|freebsd)",
    re.IGNORECASE,
)


class System(StrEnum):
    """A system that Puter supports, as people call it."""

    AMAZON_LINUX = "Amazon Linux"
    UBUNTU = "Ubuntu"
    DEBIAN = "Debian"

    @property
    def ssh_user(self) -> str:
        """The user of its publisher's images."""
        return {System.UBUNTU: Os.UBUNTU_24_04, System.DEBIAN: Os.DEBIAN_12}.get(self, Os.AL2023).ssh_user


_NAMES = {
    System.AMAZON_LINUX: re.compile(r"amazon[ _-]?linux|amzn|al20\d\d|\bal2\b", re.IGNORECASE),
    System.UBUNTU: re.compile(r"(?<![a-z])ubuntu(?![a-z])", re.IGNORECASE),
    System.DEBIAN: re.compile(r"(?<![a-z])debian(?![a-z])", re.IGNORECASE),
}


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What an image shows of its system.

    Attributes:
        system: the system; None: nothing shows it, or it is another one.
        proven: whether its owner vouches for it, and not its name alone.
        foreign: whether it is seen to be a system that Puter does not support.
    """

    system: System | None
    proven: bool = False
    foreign: bool = False

    @property
    def ssh_user(self) -> str:
        """The user for ssh, as far as is known."""
        return self.system.ssh_user if self.system else DEFAULT_SSH_USER


def owner_and_names(os: Os, architecture: str) -> tuple[str, list[str]]:
    """What DescribeImages is asked for: the owner (an account or an alias) and names with EC2's wildcards."""
    owner, patterns = _PUBLISHED[os]
    return owner, [pattern.format_map(_WORDS[architecture]) for pattern in patterns]


def is_other_kind(name: str) -> bool:
    """Whether the name is of an image for a special use."""
    return any(kind in name for kind in _OTHER_KINDS)


def shown_by(image: ImageAnswer) -> Shown:
    """What an image's owner, name and billing show of its system. A name that tells of two counts as the first."""
    named = _first_named(image.name)
    if image.owner_id in (CANONICAL, DEBIAN):
        return Shown(system=System.UBUNTU if image.owner_id == CANONICAL else System.DEBIAN, proven=True)
    is_amazons = image.image_owner_alias == AMAZON
    billed_as = image.platform_details or ""
    other = _OTHER_SYSTEM.search(image.name)
    if (
        image.owner_id in _OTHER_PUBLISHERS
        or _OTHER_SYSTEM.search(billed_as)
        or (other and (named is None or other.start() < named[0]))
    ):
        return Shown(system=None, foreign=True)
    if named is None and "ubuntu" in billed_as.lower():
        return Shown(system=System.UBUNTU, proven=is_amazons)
    return Shown(system=named[1] if named else None, proven=is_amazons)


def _first_named(name: str) -> tuple[int, System] | None:
    found = [(match.start(), system) for system, regex in _NAMES.items() if (match := regex.search(name))]
    return min(found, default=None)
