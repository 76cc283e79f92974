"""The image that a machine boots, and the processor that it is for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime

import msgspec
import structlog

from puter_client.contract.key import shown
from puter_client.contract.os_image import Os
from puter_worker.ec2.answers import ImageAnswer, Images, InstanceTypes
from puter_worker.ec2.calls import Caller
from puter_worker.errors import Ec2Error, ImageMissing, NoImage, UnusableImage, UnusableInstanceType

ARCHITECTURES = ("x86_64", "arm64")
# Names of Amazon's own images. The call also filters by owner: anyone may publish an image under such a name.
_NAMES = {
    Os.AL2023: "al2023-ami-2023.*-kernel-6.1-{architecture}",
    Os.AL2: "amzn2-ami-hvm-2.0.*-{architecture}-gp2",
}
_OTHER_KINDS = ("-minimal-", "-ecs-")
# What the names of images tell of their system. Many names, above all of private images, tell nothing.
_AMAZON_LINUX = re.compile(r"amazon[ _-]?linux|amzn|al20\d\d|\bal2\b", re.IGNORECASE)
_OTHER_SYSTEM = re.compile(
    r"(?<![a-z])(ubuntu|debian|rhel|red[ _-]?hat|(open)?suse|sles|rocky[ _-]?(linux|\d)|almalinux|centos|fedora|"
    r"oracle[ _-]?linux|kali[ _-]?linux|arch[ _-]?linux|alpine|nixos|flatcar|bottlerocket|freebsd)",
    re.IGNORECASE,
)
# Accounts of publishers of other systems, as each names its own: Canonical, Debian, Red Hat, SUSE, Rocky, AlmaLinux.
_OTHER_PUBLISHERS = frozenset(
    {"099720109477", "136693071363", "309956199498", "013907871322", "792107900819", "764336703387"}
)
_log = structlog.get_logger()


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A machine image.

    Attributes:
        image_id: `ami-…`.
        name: the name that its owner gave it.
        architecture: `x86_64` or `arm64`.
        root_device_name: such as `/dev/xvda`; RunInstances needs it to set the size of the root disk. None: not known.
        creation_date: ISO 8601, as EC2 wrote it; empty if EC2 gave none.
        notice: what its user should know about it, in plain words.
    """

    image_id: str
    name: str
    architecture: str
    root_device_name: str | None
    creation_date: str = ""
    notice: str | None = None


async def latest_image(caller: Caller, os: Os, architecture: str) -> Image:
    """The newest Amazon Linux image for an OS and an architecture.

    Raises:
        StageError: NoImage if the region has none; and see Caller.call.
    """
    pattern = _NAMES[os].format(architecture=architecture)
    found = await caller.call(
        "DescribeImages",
        Images,
        Owners=["amazon"],
        Filters=[
            {"Name": "name", "Values": [pattern]},
            {"Name": "architecture", "Values": [architecture]},
            {"Name": "state", "Values": ["available"]},
        ],
    )
    newest = pick_newest(found.images)
    if newest is None:
        raise NoImage(
            f"{caller.region} has no {os.value} image for {architecture}: name one with --ami",
            request_id=found.request_id,
        )
    return newest


def pick_newest(images: Iterable[ImageAnswer]) -> Image | None:
    """The newest usable image; of several with one date, the last by name. Images with unreadable dates are skipped."""
    dated = [
        (created, image.name, image)
        for image in images
        if image.state == "available"
        and not any(kind in image.name for kind in _OTHER_KINDS)
        and (created := _created(image)) is not None
    ]
    return _image(max(dated, key=lambda row: row[:2])[2]) if dated else None


async def describe_image(caller: Caller, ami_id: str) -> Image:
    """The image with the id that a user gave; it has a notice if it is seen not to be Amazon Linux.

    Without the permission to describe it only its id is known, which is enough to launch it.

    Raises:
        StageError: the image does not exist, is not available, or is for Windows or another processor; and see
            Caller.call.
    """
    try:
        found = await caller.call("DescribeImages", Images, ImageIds=[ami_id])
    except Ec2Error as error:
        if error.code != "UnauthorizedOperation":
            raise
        _log.warning("image.not_described", image_id=ami_id, code=error.code, request_id=error.request_id)
        return Image(image_id=ami_id, name="", architecture="", root_device_name=None)
    if not found.images:
        raise ImageMissing(f"{caller.region} has no image {ami_id}: ids differ from region to region")
    image = found.images[0]
    problem = None
    if image.state != "available":
        problem = f"is {image.state or 'in an unknown state'}, not available"
    elif image.platform == "windows":
        problem = "is for Windows, which Puter does not support"
    elif image.architecture not in ARCHITECTURES:
        problem = f"is for {image.architecture or 'an unknown processor'}, not for {' or '.join(ARCHITECTURES)}"
    if problem:
        raise UnusableImage(f"{ami_id} {problem}: name another with --ami", request_id=found.request_id)
    if is_amazon_linux(image):
        return _image(image)
    _log.warning("image.not_amazon_linux", image_id=ami_id, name=image.name, owner_id=image.owner_id)
    notice = (
        f"image {ami_id} ({shown(image.name, 80)}, of account {image.owner_id}) is not Amazon Linux, the only system "
        "that Puter supports: Docker, the workload and ssh as ec2-user will probably not work"
    )
    return msgspec.structs.replace(_image(image), notice=notice)


def is_amazon_linux(image: ImageAnswer) -> bool:
    """Whether an image may be Amazon Linux: neither its name nor its owner nor its billing shows another system."""
    if _AMAZON_LINUX.search(image.name):
        return True
    told = f"{image.name} {image.platform_details or ''}"
    return image.owner_id not in _OTHER_PUBLISHERS and not _OTHER_SYSTEM.search(told)


async def architecture_of(caller: Caller, instance_type: str) -> str:
    """The architecture of an instance type: `x86_64` or `arm64`.

    Raises:
        StageError: InvalidInstanceType (EC2's code) if there is no such type; UnusableInstanceType if it is neither.
    """
    found = await caller.call("DescribeInstanceTypes", InstanceTypes, InstanceTypes=[instance_type])
    offered = {a for described in found.instance_types for a in described.processor_info.supported_architectures}
    for architecture in ARCHITECTURES:
        if architecture in offered:
            return architecture
    raise UnusableInstanceType(
        f"{instance_type} is for {', '.join(sorted(offered)) or 'no known processor'}: "
        f"name a type for {' or '.join(ARCHITECTURES)}",
        request_id=found.request_id,
    )


def _created(image: ImageAnswer) -> datetime | None:
    try:
        created = datetime.fromisoformat(image.creation_date or "")
    except ValueError:
        return None
    return created if created.tzinfo else None


def _image(answer: ImageAnswer) -> Image:
    return Image(
        image_id=answer.image_id,
        name=answer.name,
        architecture=answer.architecture,
        root_device_name=answer.root_device_name or "/dev/xvda",
        creation_date=answer.creation_date or "",
    )
