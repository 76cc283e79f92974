"""The image that a machine boots, and the processor that it is for."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

import msgspec

from puter_client.contract.os_image import Os
from puter_worker.ec2.answers import ImageAnswer, Images, InstanceTypes
from puter_worker.ec2.calls import Caller
from puter_worker.errors import ImageMissing, NoImage, UnusableImage, UnusableInstanceType

ARCHITECTURES = ("x86_64", "arm64")
# Names of Amazon's own images. The call also filters by owner: anyone may publish an image under such a name.
_NAMES = {
    Os.AL2023: "al2023-ami-2023.*-kernel-6.1-{architecture}",
    Os.AL2: "amzn2-ami-hvm-2.0.*-{architecture}-gp2",
}
_OTHER_KINDS = ("-minimal-", "-ecs-")


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A machine image.

    Attributes:
        image_id: `ami-…`.
        name: the name that its owner gave it.
        architecture: `x86_64` or `arm64`.
        root_device_name: such as `/dev/xvda`; RunInstances needs it to set the size of the root disk.
        creation_date: ISO 8601, as EC2 wrote it; empty if EC2 gave none.
    """

    image_id: str
    name: str
    architecture: str
    root_device_name: str
    creation_date: str = ""


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
    """The image with the id that a user gave.

    Raises:
        StageError: the image does not exist, is not available, or is for Windows or another processor; and see
            Caller.call.
    """
    found = await caller.call("DescribeImages", Images, ImageIds=[ami_id])
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
    return _image(image)


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
