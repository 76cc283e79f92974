"""Images on the simulated EC2: the newest of each system's own publisher, and those that a request names."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from puter_client.contract.os_image import Os
from puter_client.contract.phase import Phase
from puter_client.ssh_commands import ssh_user
from puter_client.view import View, WaitFor
from tests.ec2sim.config import Fault
from tests.ec2sim.images import (
    AMAZON,
    CANONICAL,
    DEBIAN,
    DEEP_LEARNING,
    MARKETPLACE,
    RED_HAT,
    STRANGER,
    WINDOWS,
)
from tests.integration.sim_workshop import SimWorkshop, sim_url, sim_workshop

__all__ = ["sim_url", "sim_workshop"]

UNDESCRIBED = Fault(action="DescribeImages", code="UnauthorizedOperation")
NO_TYPES = Fault(action="DescribeInstanceTypes", code="UnauthorizedOperation")
GUESS = "ssh and the workload use {user}; if the image has another user, name it with --ssh-user"
TYPES = {"x86_64": "t3.micro", "arm64": "t4g.micro"}
PORT = {"x86_64": "amd64", "arm64": "arm64"}
GPU = {"x86_64": "Deep Learning Base", "arm64": "Deep Learning ARM64 Base"}
# By hand, as a person finds them in the simulator's list: owner, name, user.
NEWEST = {
    Os.AL2023: (AMAZON, "al2023-ami-2023.9.20251105.0-kernel-6.1-{arch}", "ec2-user"),
    Os.AL2: (AMAZON, "amzn2-ami-hvm-2.0.20251014.0-{arch}-gp2", "ec2-user"),
    Os.UBUNTU_24_04: (CANONICAL, "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{port}-server-20251022", "ubuntu"),
    Os.UBUNTU_22_04: (CANONICAL, "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{port}-server-20251001.1", "ubuntu"),
    Os.DEBIAN_12: (DEBIAN, "debian-12-{port}-20251006-2257", "admin"),
    Os.AL2023_GPU: (
        DEEP_LEARNING,
        "{gpu} OSS Nvidia Driver GPU AMI (Amazon Linux 2023) 20251024",
        "ec2-user",
    ),
}


def images(shop: SimWorkshop, owner: str, name: str = "*", architecture: str = "x86_64") -> list[dict[str, Any]]:
    """The images of this owner's, oldest first."""
    filters = [{"Name": "architecture", "Values": [architecture]}, {"Name": "name", "Values": [name]}]
    found: list[dict[str, Any]] = shop.ec2.describe_images(Owners=[owner], Filters=filters)["Images"]
    return sorted(found, key=lambda image: str(image["CreationDate"]))


def image_of(shop: SimWorkshop, owner: str, name: str = "*", architecture: str = "x86_64") -> str:
    """The id of the newest image of this owner's."""
    return str(images(shop, owner, name, architecture)[-1]["ImageId"])


async def notices(shop: SimWorkshop, tag: str) -> list[str]:
    """What the tag's timeline tells its owner besides what happened."""
    return [notice for event in await shop.told(tag) for notice in event.notices]


async def launched(shop: SimWorkshop, tag: str = "one", **fields: Any) -> View:
    async with shop.working():
        (view,) = await shop.request(tag, wait=WaitFor.LAUNCHED, **fields)
    return view


def refused(view: View) -> tuple[str, str]:
    """Code and message of a request that failed before anything was launched."""
    assert view.record
    assert (view.phase, view.record.instance_id) == (Phase.FAILED, None)
    assert view.record.error
    return view.record.error.code, view.record.error.message


@pytest.mark.parametrize("architecture", TYPES)
@pytest.mark.parametrize("os", list(Os))
async def test_each_os_boots_the_newest_image_of_its_own_publisher(
    sim_workshop: SimWorkshop, os: Os, architecture: str
) -> None:
    view = await launched(sim_workshop, os=os, instance_type=TYPES[architecture])

    assert view.record
    (image,) = sim_workshop.ec2.describe_images(ImageIds=[view.record.ami_id])["Images"]
    owner, name, user = NEWEST[os]
    name = name.format(arch=architecture, port=PORT[architecture], gpu=GPU[architecture])
    assert (image["OwnerId"], image["Name"], image["Architecture"]) == (owner, name, architecture)
    assert (view.record.ssh_user, view.to_json()["ssh_user"]) == (user, user)


@pytest.mark.parametrize("architecture", TYPES)
@pytest.mark.parametrize("os", list(Os))
def test_the_simulator_has_newer_images_that_only_resemble_it(
    sim_workshop: SimWorkshop, os: Os, architecture: str
) -> None:
    owner, name, _ = NEWEST[os]
    name = name.format(arch=architecture, port=PORT[architecture], gpu=GPU[architecture])
    (right,) = images(sim_workshop, owner, name, architecture)
    newer = [
        image
        for image in sim_workshop.ec2.describe_images(IncludeDeprecated=True)["Images"]
        if image["CreationDate"] > right["CreationDate"] and image["Name"][:8] == right["Name"][:8]
    ]

    assert STRANGER in {image["OwnerId"] for image in newer}
    assert {image["OwnerId"] for image in newer} - {STRANGER, MARKETPLACE}  # and of its own publisher's


@pytest.mark.parametrize(
    ("owner", "name", "user"),
    [
        (AMAZON, "al2023-*", "ec2-user"),
        (DEEP_LEARNING, "*(Ubuntu 22.04)*", "ubuntu"),
        (CANONICAL, "*noble*", "ubuntu"),
        (DEBIAN, "debian-13-*", "admin"),
    ],
)
async def test_a_named_image_of_a_known_publisher_has_its_user_without_a_note(
    sim_workshop: SimWorkshop, owner: str, name: str, user: str
) -> None:
    ami = next(one["ImageId"] for one in images(sim_workshop, owner, name) if one["State"] == "available")
    view = await launched(sim_workshop, ami=ami)

    assert view.record
    assert (view.record.ami_id, view.record.ssh_user) == (ami, user)
    assert await notices(sim_workshop, "one") == []


@pytest.mark.parametrize(
    ("owner", "name", "user", "told"),
    [
        (STRANGER, "ubuntu/*noble*", "ubuntu", "is taken for Ubuntu by its name alone"),
        (MARKETPLACE, "debian-12-*", "admin", "is taken for Debian by its name alone"),
        (STRANGER, "al2023-*", "ec2-user", "is taken for Amazon Linux by its name alone"),
        (STRANGER, "our-data-node-*", "ec2-user", "does not show its system"),
    ],
)
async def test_the_user_of_a_look_alike_is_a_guess_and_said_to_be_one(
    sim_workshop: SimWorkshop, owner: str, name: str, user: str, told: str
) -> None:
    (image,) = images(sim_workshop, owner, name)
    view = await launched(sim_workshop, ami=image["ImageId"])

    assert view.record
    assert view.record.ssh_user == user
    assert await notices(sim_workshop, "one") == [
        f"image {image['ImageId']} ('{image['Name']}', of account {owner}) {told}: {GUESS.format(user=user)}"
    ]


@pytest.mark.parametrize("fields", [{"os": Os.DEBIAN_12}, {"ami": STRANGER}], ids=["os", "ami"])
async def test_the_user_that_a_request_names_overrules_the_images(
    sim_workshop: SimWorkshop, fields: dict[str, Any]
) -> None:
    if "ami" in fields:
        fields = {"ami": image_of(sim_workshop, STRANGER, "our-data-node-*")}
    view = await launched(sim_workshop, ssh_user="build", **fields)

    assert view.record
    assert (view.record.ssh_user, ssh_user(view.record)) == ("build", "build")
    assert await notices(sim_workshop, "one") == []


async def test_an_image_of_another_system_is_launched_with_a_note(sim_workshop: SimWorkshop) -> None:
    rhel = image_of(sim_workshop, RED_HAT)
    with capture_logs() as logs:
        async with sim_workshop.working():
            views = await sim_workshop.request("one", "two", ami=rhel, wait=WaitFor.LAUNCHED)

    assert [view.record and view.record.ami_id for view in views] == [rhel, rhel]
    note = (
        f"image {rhel} ('RHEL-9.6.0_HVM-20251015-x86_64-0-Hourly2-GP3', of account {RED_HAT}) is not Amazon Linux, "
        "Ubuntu or Debian, the systems that Puter supports: Docker, the workload and ssh as ec2-user will probably "
        "not work"
    )
    assert [await notices(sim_workshop, tag) for tag in ("one", "two")] == [[note], [note]]
    (line,) = [line for line in logs if line["event"] == "image.not_supported"]
    assert (line["image_id"], line["owner_id"], line["log_level"]) == (rhel, RED_HAT, "warning")
    assert len(await sim_workshop.calls("DescribeImages")) == 2  # this test's own, and one for both machines


async def test_an_image_of_windows_is_refused(sim_workshop: SimWorkshop) -> None:
    windows = image_of(sim_workshop, WINDOWS)
    view = await launched(sim_workshop, ami=windows)

    assert refused(view) == (
        "UnusableImage",
        f"{windows} is for Windows, which Puter does not support: name another with --ami",
    )
    assert await sim_workshop.calls("RunInstances") == []


@pytest.mark.parametrize(("architecture", "types"), [("arm64", ["t3.micro"]), ("x86_64", ["t3.micro", "t4g.micro"])])
async def test_an_image_for_another_processor_than_any_type_is_refused(
    sim_workshop: SimWorkshop, architecture: str, types: list[str]
) -> None:
    ami = image_of(sim_workshop, AMAZON, "al2023-ami-2023.8*", architecture)
    view = await launched(sim_workshop, ami=ami, instance_type=types[0], instance_types=tuple(types[1:]))

    code, message = refused(view)
    assert code == "UnusableImage"
    assert message.startswith(f"{ami} is for {architecture}, but {types[-1]} for ")
    assert "--instance-type" in message
    assert "--ami" in message
    assert await sim_workshop.calls("RunInstances") == []


async def test_without_the_permission_to_describe_types_a_named_image_is_launched(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(NO_TYPES)
    view = await launched(sim_workshop, ami=image_of(sim_workshop, DEBIAN, "debian-13-*"))

    assert view.record
    assert (view.record.error, view.record.ssh_user) == (None, "admin")


@pytest.mark.parametrize(
    ("fields", "gib"),
    [
        ({"os": Os.AL2023}, 8),
        ({"os": Os.UBUNTU_24_04}, 8),
        ({"os": Os.AL2023_GPU, "instance_type": "g4dn.xlarge"}, 75),
        ({"os": Os.AL2023_GPU, "instance_type": "g5g.xlarge"}, 75),
        ({"ami": "our-data-node-*"}, 12),  # its second volume has 200 GiB
    ],
    ids=["al2023", "ubuntu24.04", "gpu", "gpu-arm64", "two-volumes"],
)
async def test_a_disk_that_is_smaller_than_the_images_is_refused_before_the_launch(
    sim_workshop: SimWorkshop, fields: dict[str, Any], gib: int
) -> None:
    if "ami" in fields:
        fields = {"ami": image_of(sim_workshop, STRANGER, fields["ami"])}
    async with sim_workshop.working():
        (small,) = await sim_workshop.request("small", disk=gib - 1, wait=WaitFor.LAUNCHED, **fields)
        (fits,) = await sim_workshop.request("fits", disk=gib, wait=WaitFor.LAUNCHED, **fields)

    code, message = refused(small)
    assert code == "DiskTooSmall"
    assert f"a root disk of {gib - 1} GiB is too small" in message
    assert f"needs {gib} GiB: write --disk {gib} or more" in message
    assert fits.record
    assert fits.record.instance_id
    assert len(await sim_workshop.calls("RunInstances")) == 1


async def test_a_small_disk_fails_only_the_machines_that_have_it(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        (small,) = await sim_workshop.request("small", disk=7, wait=WaitFor.LAUNCHED)
        (other,) = await sim_workshop.request("other", wait=WaitFor.LAUNCHED)

    assert refused(small)[0] == "DiskTooSmall"
    assert other.record
    assert other.record.error is None


@pytest.mark.parametrize("instance_type", ["t3.micro", "g4ad.xlarge", "g4dn.xlarge", "g5g.xlarge"])
async def test_a_gpu_image_on_a_type_without_such_a_gpu_is_noted(sim_workshop: SimWorkshop, instance_type: str) -> None:
    await launched(sim_workshop, os=Os.AL2023_GPU, instance_type=instance_type)

    note = f"{instance_type} has no NVIDIA GPU: the driver of al2023-gpu is of no use there"
    assert await notices(sim_workshop, "one") == ([] if instance_type in ("g4dn.xlarge", "g5g.xlarge") else [note])


async def test_a_machine_that_redis_has_forgotten_has_the_user_of_its_image(sim_workshop: SimWorkshop) -> None:
    await launched(sim_workshop, os=Os.UBUNTU_22_04)
    with sim_workshop.server.client() as behind:
        behind.flushall()
    view = await launched(sim_workshop, os=Os.DEBIAN_12)  # EC2 does not show which os was requested

    assert view.record
    assert (view.record.ssh_user, len(sim_workshop.instances())) == ("ubuntu", 1)


async def test_without_the_permission_to_describe_it_a_named_image_is_launched(sim_workshop: SimWorkshop) -> None:
    ubuntu = image_of(sim_workshop, CANONICAL)
    await sim_workshop.faults(UNDESCRIBED)
    view = await launched(sim_workshop, ami=ubuntu)

    assert view.record
    assert (view.record.ami_id, view.record.error, view.record.ssh_user) == (ubuntu, None, "ec2-user")
    (note,) = await notices(sim_workshop, "one")
    assert "may not call DescribeImages" in note
    assert "--ssh-user" in note


async def test_without_that_permission_the_disk_of_a_named_image_cannot_be_sized(sim_workshop: SimWorkshop) -> None:
    ubuntu = image_of(sim_workshop, CANONICAL)
    await sim_workshop.faults(UNDESCRIBED)
    view = await launched(sim_workshop, ami=ubuntu, disk=30)

    code, message = refused(view)
    assert code == "UnusableImage"
    assert "may not call DescribeImages" in message
