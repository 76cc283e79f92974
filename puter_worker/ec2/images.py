"""Which image a machine boots, and for which processor."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from puter_client.contract.os_image import Os
from puter_worker.ec2.answers import ImageAnswer, Images, InstanceTypes
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.errors import Ec2Error

ARCHITECTURES = ("x86_64", "arm64")
# Names of Amazon's own images. The owner is requested as well: anyone may publish an image under such a name.
_NAMES = {
    Os.AL2023: "al2023-ami-2023.*-kernel-6.1-{architecture}",
    Os.AL2: "amzn2-ami-hvm-2.0.*-{architecture}-gp2",
}
_OTHER_KINDS = ("-minimal-", "-ecs-")


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A machine image.

    Attributes:
        image_id: `ami-…`.
        name: as its owner published it.
        architecture: `x86_64` or `arm64`.
        root_device_name: such as `/dev/xvda`, which a size for the root disk is given for.
        creation_date: ISO 8601, as EC2 wrote it; empty where it wrote none.
        deprecated_at: from when its owner advises against it, ISO 8601.
    """

    image_id: str
    name: str
    architecture: str
    root_device_name: str
    creation_date: str = ""
    deprecated_at: str | None = None


async def latest_image(caller: Caller, os: Os, architecture: str) -> Image:
    """The newest Amazon Linux image of a kind.

    Raises:
        Ec2Error: NoImage where the region has none; and see Caller.call.
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
        raise Ec2Error(
            "NoImage",
            f"{caller.region} has no {os.value} image for {architecture}: name one with --ami",
            request_id=found.request_id,
        )
    return newest


def pick_newest(images: Iterable[ImageAnswer]) -> Image | None:
    """The youngest usable image; of equally young ones the last by name. Unreadable dates are passed over."""
    dated = [
        (created, image.name, image)
        for image in images
        if image.state == "available"
        and not any(kind in image.name for kind in _OTHER_KINDS)
        and (created := _created(image)) is not None
    ]
    return _image(max(dated, key=lambda row: row[:2])[2]) if dated else None


async def describe_image(caller: Caller, ami_id: str) -> Image:
    """The image of an id that a user named.

    Raises:
        Ec2Error: it is not there, not available, for Windows or for another processor; and see Caller.call.
    """
    found = await caller.call("DescribeImages", Images, ImageIds=[ami_id])
    if not found.images:
        raise Ec2Error(
            "InvalidAMIID.NotFound", f"{caller.region} has no image {ami_id}: ids differ from region to region"
        )
    image = found.images[0]
    problem = None
    if image.state != "available":
        problem = f"is {image.state or 'in an unknown state'}, not available"
    elif image.platform == "windows":
        problem = "is for Windows; Puter boots Amazon Linux and its like"
    elif image.architecture not in ARCHITECTURES:
        problem = f"is for {image.architecture or 'an unknown processor'}, not for {' or '.join(ARCHITECTURES)}"
    if problem:
        raise Ec2Error("UnusableImage", f"{ami_id} {problem}: name another with --ami", request_id=found.request_id)
    return _image(image)


async def architecture_of(caller: Caller, instance_type: str) -> str:
    """`x86_64` or `arm64`, whichever machines of a type are.

    Raises:
        Ec2Error: InvalidInstanceType where there is no such type; UnusableInstanceType where it is neither.
    """
    found = await caller.call("DescribeInstanceTypes", InstanceTypes, InstanceTypes=[instance_type])
    offered = {a for described in found.instance_types for a in described.processor_info.supported_architectures}
    for architecture in ARCHITECTURES:
        if architecture in offered:
            return architecture
    raise Ec2Error(
        "UnusableInstanceType",
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
        deprecated_at=answer.deprecation_time,
    )
