"""Images and processors, as moto's copy of Amazon's list has them."""

from __future__ import annotations

import pytest

from puter_client.contract.os_image import Os
from puter_worker.ec2.answers import ImageAnswer
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.images import InstanceType, describe_image, describe_types, latest_image, pick_newest
from puter_worker.errors import Ec2Error, Handling, NoImage, UnusableInstanceType


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
@pytest.mark.parametrize(("os", "beginning"), [(Os.AL2023, "al2023-ami-2023."), (Os.AL2, "amzn2-ami-hvm-2.0.")])
async def test_the_newest_image_is_of_the_kind_requested(
    caller: Caller, os: Os, beginning: str, architecture: str
) -> None:
    image = await latest_image(caller, os, architecture)

    assert image.name.startswith(beginning)
    assert image.architecture == architecture
    assert image.root_device_name == "/dev/xvda"


async def test_a_region_without_an_image_is_an_error_with_a_remedy(caller: Caller) -> None:
    with pytest.raises(NoImage, match="us-east-1 has no al2023-gpu image for arm64: name one with --ami"):
        await latest_image(caller, Os.AL2023_GPU, "arm64")


async def test_an_image_that_was_named_is_described(caller: Caller) -> None:
    newest = await latest_image(caller, Os.AL2023, "arm64")

    assert await describe_image(caller, newest.image_id) == newest


async def test_an_image_that_is_not_there_fails_the_request(caller: Caller) -> None:
    with pytest.raises(Ec2Error) as caught:
        await describe_image(caller, "ami-0123456789abcdef0")

    assert (caught.value.code, caught.value.handling) == ("InvalidAMIID.NotFound", Handling.FAIL)


async def test_instance_types_tell_their_processor_and_vcpus_or_why_they_cannot_be_used(caller: Caller) -> None:
    """With one call, which those that do not exist do not fail."""
    names = ["t3.micro", "t4g.micro", "g4dn.xlarge", "mac1.metal", "t9.none"]
    found = await describe_types(caller, names)

    assert list(found) == names
    assert found["t3.micro"] == InstanceType(name="t3.micro", architecture="x86_64", vcpus=2)
    assert found["t4g.micro"] == InstanceType(name="t4g.micro", architecture="arm64", vcpus=2)
    assert found["g4dn.xlarge"] == InstanceType(name="g4dn.xlarge", architecture="x86_64", has_nvidia_gpu=True, vcpus=4)
    unusable, missing = found["mac1.metal"], found["t9.none"]
    assert isinstance(unusable, UnusableInstanceType)
    assert unusable.message.startswith("mac1.metal is for x86_64_mac: name a type")
    assert isinstance(missing, Ec2Error)
    assert (missing.code, missing.handling) == ("InvalidInstanceType", Handling.FAIL)


def image(image_id: str, name: str, created: str | None, state: str = "available") -> ImageAnswer:
    return ImageAnswer(image_id=image_id, name=name, creation_date=created, state=state, architecture="x86_64")


def test_the_youngest_usable_image_is_taken() -> None:
    offered = [
        image("ami-old", "al2023-ami-2023.9", "2026-01-01T00:00:00.000Z"),
        image("ami-new", "al2023-ami-2023.1", "2026-02-01T00:00:00.000Z"),
        image("ami-small", "al2023-ami-minimal-2023", "2026-03-01T00:00:00.000Z"),
        image("ami-ecs", "al2023-ami-ecs-hvm-2023", "2026-03-01T00:00:00.000Z"),
        image("ami-pending", "al2023-ami-2023.9", "2026-03-01T00:00:00.000Z", state="pending"),
        image("ami-undated", "al2023-ami-2023.9", "soon"),
        image("ami-dateless", "al2023-ami-2023.9", None),
    ]

    newest = pick_newest(offered)

    assert newest is not None
    assert newest.image_id == "ami-new"


def test_of_nothing_usable_nothing_is_taken() -> None:
    assert pick_newest([image("ami-undated", "al2023-ami-2023.9", "soon")]) is None
