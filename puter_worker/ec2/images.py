"""The image that a machine boots, and the processor that it is for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import msgspec
import structlog

from puter_client.contract.key import shown
from puter_client.contract.os_image import DEFAULT_SSH_USER, Os
from puter_worker.ec2.answers import ImageAnswer, Images, InstanceTypeAnswer, InstanceTypes
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.publishers import Shown, is_other_kind, owner_and_names, shown_by
from puter_worker.errors import About, Ec2Error, ImageMissing, NoImage, StageError, UnusableImage, UnusableInstanceType

ARCHITECTURES = ("x86_64", "arm64")
_log = structlog.get_logger()


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A machine image.

    Attributes:
        image_id: `ami-…`.
        name: the name that its owner gave it.
        architecture: `x86_64` or `arm64`; empty: not known.
        root_device_name: such as `/dev/xvda`; RunInstances needs it to set the size of the root disk. None: not known.
        root_gib: the least size of the root disk, that of its snapshot; None: not known.
        ssh_user: the user for ssh and the workload.
        creation_date: ISO 8601, as EC2 wrote it; empty if EC2 gave none.
        owner_id: the account that owns it; empty: not known.
        owner_alias: EC2's alias of that account, such as `amazon`.
        notice: what its user should know about it, in plain words.
        user_notice: what the user of an image should know whose `ssh_user` is a guess; None: it is known.
    """

    image_id: str
    name: str
    architecture: str
    root_device_name: str | None
    root_gib: int | None = None
    ssh_user: str = DEFAULT_SSH_USER
    creation_date: str = ""
    owner_id: str = ""
    owner_alias: str | None = None
    notice: str | None = None
    user_notice: str | None = None


class InstanceType(msgspec.Struct, frozen=True, kw_only=True):
    """What an instance type is for.

    Attributes:
        name: such as `t3.micro`.
        architecture: `x86_64` or `arm64`.
        has_nvidia_gpu: whether it has a GPU that NVIDIA's driver is for.
        vcpus: how many vCPUs an instance has by default; None: EC2 did not say.
    """

    name: str
    architecture: str
    has_nvidia_gpu: bool = False
    vcpus: int | None = None


async def latest_image(caller: Caller, os: Os, architecture: str) -> Image:
    """The newest image for an OS and an architecture, of the OS's own publisher.

    Raises:
        StageError: NoImage if the region has none; and see Caller.call.
    """
    owner, names = owner_and_names(os, architecture)
    found = await caller.call(
        "DescribeImages",
        Images,
        Owners=[owner],
        Filters=[
            {"Name": "name", "Values": names},
            {"Name": "architecture", "Values": [architecture]},
            {"Name": "state", "Values": ["available"]},
        ],
    )
    newest = pick_newest(found.images)
    if newest is None:
        raise NoImage(
            f"{caller.region} has no {os.value} image for {architecture}: name one with --ami, or a type for another "
            "processor with --instance-type",
            request_id=found.request_id,
        )
    return msgspec.structs.replace(newest, ssh_user=os.ssh_user)


def pick_newest(images: Iterable[ImageAnswer]) -> Image | None:
    """The newest usable image; of several with one date, the last by name. Images with unreadable dates are skipped."""
    dated = [
        (created, image.name, image)
        for image in images
        if image.state == "available" and not is_other_kind(image.name) and (created := _created(image)) is not None
    ]
    return _image(max(dated, key=lambda row: row[:2])[2]) if dated else None


async def describe_image(caller: Caller, ami_id: str) -> Image:
    """The image with the id that a user gave; it has notices if its system is not supported, or its user is a guess.

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
        notice = (
            f"the worker's role may not call DescribeImages, so the system of image {ami_id} is not known: "
            f"{_guessed(DEFAULT_SSH_USER)}"
        )
        return Image(image_id=ami_id, name="", architecture="", root_device_name=None, user_notice=notice)
    if not found.images:
        raise ImageMissing(f"{caller.region} has no image {ami_id}: ids differ from region to region")
    image = found.images[0]
    problem = None
    if image.state != "available":
        problem = f"is {image.state or 'in an unknown state'}, not available"
    elif image.platform == "windows" or (image.platform_details or "").startswith("Windows"):
        problem = "is for Windows, which Puter does not support"
    elif image.architecture not in ARCHITECTURES:
        problem = f"is for {image.architecture or 'an unknown processor'}, not for {' or '.join(ARCHITECTURES)}"
    if problem:
        raise UnusableImage(f"{ami_id} {problem}: name another with --ami", request_id=found.request_id)
    shows = shown_by(image)
    if shows.foreign:
        _log.warning("image.not_supported", image_id=ami_id, name=image.name, owner_id=image.owner_id)
    of_system, of_user = _notices(image, shows)
    return msgspec.structs.replace(_image(image), ssh_user=shows.ssh_user, notice=of_system, user_notice=of_user)


def _notices(image: ImageAnswer, shows: Shown) -> tuple[str | None, str | None]:
    """What the user should know of an image, and of the user on it."""
    which = f"image {image.image_id} ({shown(image.name, 80)}, of account {image.owner_id})"
    user = shows.ssh_user
    if shows.foreign:
        return (
            f"{which} is not Amazon Linux, Ubuntu or Debian, the systems that Puter supports: Docker, the workload "
            f"and ssh as {user} will probably not work"
        ), None
    if shows.proven:
        return None, None
    told = f"is taken for {shows.system.value} by its name alone" if shows.system else "does not show its system"
    return None, f"{which} {told}: {_guessed(user)}"


def _guessed(user: str) -> str:
    return f"ssh and the workload use {user}; if the image has another user, name it with --ssh-user"


async def describe_types(caller: Caller, names: Sequence[str]) -> dict[str, InstanceType | StageError]:
    """Instance types by their names, with one call; what cannot be used has an error in its place.

    The errors are InvalidInstanceType (EC2's code) for a type that does not exist, and UnusableInstanceType for one
    that is for neither architecture.

    Raises:
        StageError: see Caller.call.
    """
    found: list[InstanceTypeAnswer] = []
    request_id = None
    # With a filter, EC2 answers with those that exist; with InstanceTypes, one that does not fails the whole call.
    filters = [{"Name": "instance-type", "Values": list(names)}]
    try:
        async for page in caller.pages("DescribeInstanceTypes", InstanceTypes, Filters=filters, MaxResults=100):
            found += page.instance_types
            request_id = page.request_id
    except Ec2Error as error:
        if error.about is not About.REQUEST or error.code == "UnauthorizedOperation":
            raise
        if len(names) == 1:
            return {names[0]: error}
        half = len(names) // 2  # one name that EC2 refuses must not fail those that others have requested
        return await describe_types(caller, names[:half]) | await describe_types(caller, names[half:])
    shown = {one.instance_type: _instance_type(one, request_id) for one in found}
    return {name: shown.get(name) or _no_type(name, request_id) for name in names}


def _instance_type(answer: InstanceTypeAnswer, request_id: str | None) -> InstanceType | StageError:
    name, offered = answer.instance_type, answer.processor_info.supported_architectures
    for architecture in ARCHITECTURES:
        if architecture in offered:
            nvidia = any(gpu.manufacturer.upper() == "NVIDIA" for gpu in answer.gpu_info.gpus)
            vcpus = answer.v_cpu_info.default_v_cpus
            return InstanceType(name=name, architecture=architecture, has_nvidia_gpu=nvidia, vcpus=vcpus)
    return UnusableInstanceType(
        f"{name} is for {', '.join(sorted(offered)) or 'no known processor'}: "
        f"name a type for {' or '.join(ARCHITECTURES)}",
        request_id=request_id,
    )


def _no_type(name: str, request_id: str | None) -> Ec2Error:
    """What EC2 says of a type that does not exist to whoever asks for this one alone."""
    message = f"The following supplied instance types do not exist: [{name}]"
    return Ec2Error("InvalidInstanceType", message, request_id=request_id)


def check_fit(image: Image, instance_type: InstanceType) -> None:
    """Check that an image is for an instance type's processor; one whose architecture is not known passes.

    Raises:
        UnusableImage: it is for the other one.
    """
    if image.architecture and image.architecture != instance_type.architecture:
        raise UnusableImage(
            f"{image.image_id} is for {image.architecture}, but {instance_type.name} for "
            f"{instance_type.architecture}: name a type for {image.architecture} with --instance-type, or an image for "
            f"{instance_type.architecture} with --ami"
        )


def _created(image: ImageAnswer) -> datetime | None:
    try:
        created = datetime.fromisoformat(image.creation_date or "")
    except ValueError:
        return None
    return created if created.tzinfo else None


def _image(answer: ImageAnswer) -> Image:
    root = answer.root_device_name or "/dev/xvda"
    sizes = [one.ebs.volume_size for one in answer.block_device_mappings if one.device_name == root and one.ebs]
    return Image(
        image_id=answer.image_id,
        name=answer.name,
        architecture=answer.architecture,
        root_device_name=root,
        root_gib=sizes[0] if sizes else None,
        creation_date=answer.creation_date or "",
        owner_id=answer.owner_id,
        owner_alias=answer.image_owner_alias,
    )
