"""What an image's owner, name and billing show of its system, and which image fits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from puter_client.contract.os_image import Os
from puter_worker.ec2.answers import ImageAnswer
from puter_worker.ec2.images import Image, InstanceType, check_fit
from puter_worker.ec2.publishers import CANONICAL, DEBIAN, System, owner_and_names, shown_by
from puter_worker.errors import UnusableImage

AMAZON, MINE, MARKETPLACE = "137112412989", "123456789012", "679593333241"
ALIASES: Mapping[str, str] = {AMAZON: "amazon", MARKETPLACE: "aws-marketplace"}
NOBLE = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20251022"


def image(name: str, owner: str = MINE, billed_as: str | None = "Linux/UNIX") -> ImageAnswer:
    return ImageAnswer(
        image_id="ami-0123456789abcdef0",
        name=name,
        owner_id=owner,
        image_owner_alias=ALIASES.get(owner),
        platform_details=billed_as,
    )


@pytest.mark.parametrize(
    ("name", "owner", "system", "user"),
    [
        ("al2023-ami-2023.9.20251105.0-kernel-6.1-x86_64", AMAZON, System.AMAZON_LINUX, "ec2-user"),
        ("amzn2-ami-hvm-2.0.20251014.0-x86_64-gp2", AMAZON, System.AMAZON_LINUX, "ec2-user"),
        ("Deep Learning Base OSS Nvidia Driver GPU AMI (Amazon Linux 2023) 20251024", AMAZON, System.AMAZON_LINUX,
         "ec2-user"),
        ("Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20251024", AMAZON, System.UBUNTU, "ubuntu"),
        ("some-tool-of-amazons", AMAZON, None, "ec2-user"),
        (NOBLE, CANONICAL, System.UBUNTU, "ubuntu"),
        ("golden-image", CANONICAL, System.UBUNTU, "ubuntu"),
        ("debian-12-arm64-20251006-2257", DEBIAN, System.DEBIAN, "admin"),
    ],
)  # fmt: skip
def test_an_image_of_a_known_publisher_tells_its_user(name: str, owner: str, system: System | None, user: str) -> None:
    shows = shown_by(image(name, owner))

    assert (shows.system, shows.ssh_user, shows.proven, shows.foreign) == (system, user, True, False)


@pytest.mark.parametrize("owner", [MINE, MARKETPLACE])
@pytest.mark.parametrize(
    ("name", "system", "user"),
    [
        ("al2023-ami-2023.9.20251199.0-kernel-6.1-x86_64", System.AMAZON_LINUX, "ec2-user"),
        ("amazon-linux-2023-with-a-debian-chroot", System.AMAZON_LINUX, "ec2-user"),
        (NOBLE, System.UBUNTU, "ubuntu"),
        ("our-ubuntu-22.04-v3", System.UBUNTU, "ubuntu"),
        ("debian-12-amd64-20251199-2399", System.DEBIAN, "admin"),
        ("render-node-v17", None, "ec2-user"),
        ("pursued-by-kubuntuesque", None, "ec2-user"),
        ("rocky-and-bullwinkle", None, "ec2-user"),
        ("", None, "ec2-user"),
    ],
)
def test_a_name_without_its_publisher_is_a_guess(name: str, system: System | None, user: str, owner: str) -> None:
    shows = shown_by(image(name, owner))

    assert (shows.system, shows.ssh_user, shows.proven, shows.foreign) == (system, user, False, False)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("RHEL-9.6.0_HVM-20251015-x86_64-0-Hourly2-GP3", "309956199498"),
        ("suse-sles-15-sp7-v20251020-hvm-ssd-x86_64", "013907871322"),
        ("openSUSE-Leap-15.6-v20251020-hvm-ssd-x86_64", MARKETPLACE),
        ("Rocky-9-EC2-Base-9.6-20250531.0.x86_64", "792107900819"),
        ("AlmaLinux OS 9.6.20250522 x86_64", "764336703387"),
        ("CentOS Stream 9 x86_64 20251020", "125523088429"),
        ("Fedora-Cloud-Base-AmazonEC2.x86_64-42", "125523088429"),
        ("bottlerocket-aws-ecs-2-x86_64-v1.49.0", AMAZON),
        ("rhel-9-like-amazon-linux", MINE),
        ("golden-image", "309956199498"),
    ],
)
def test_a_name_or_an_owner_shows_a_system_that_is_not_supported(name: str, owner: str) -> None:
    assert shown_by(image(name, owner)).foreign


@pytest.mark.parametrize("billed_as", ["Red Hat Enterprise Linux", "SUSE Linux"])
def test_what_is_billed_shows_a_system_that_is_not_supported(billed_as: str) -> None:
    assert shown_by(image("golden-image", billed_as=billed_as)).foreign


def test_what_is_billed_as_ubuntu_is_taken_for_it() -> None:
    shows = shown_by(image("golden-image", billed_as="Ubuntu Pro"))

    assert (shows.ssh_user, shows.proven, shows.foreign) == ("ubuntu", False, False)


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
@pytest.mark.parametrize("os", list(Os))
def test_every_os_has_one_owner_and_names_for_the_processor(os: Os, architecture: str) -> None:
    owner, names = owner_and_names(os, architecture)

    assert owner in ("amazon", CANONICAL, DEBIAN)
    assert not [name for name in names if "{" in name]
    other = {"x86_64": "arm64", "arm64": "x86_64"}[architecture]
    assert not set(names) & set(owner_and_names(os, other)[1])


@pytest.mark.parametrize("os", list(Os))
def test_the_user_of_an_os_is_that_of_its_images(os: Os) -> None:
    owner, (name, *_) = owner_and_names(os, "x86_64")
    one = image(name, AMAZON if owner == "amazon" else owner)

    assert shown_by(one).ssh_user == os.ssh_user


def an_image(**changes: Any) -> Image:
    return Image(
        **{"image_id": "ami-1", "name": "n", "architecture": "arm64", "root_device_name": "/dev/xvda"} | changes
    )


def test_an_image_for_the_other_processor_is_refused_with_both_ways_out() -> None:
    with pytest.raises(UnusableImage) as caught:
        check_fit(an_image(), InstanceType(name="t3.micro", architecture="x86_64"))

    assert caught.value.message == (
        "ami-1 is for arm64, but t3.micro for x86_64: name a type for arm64 with --instance-type, or an image for "
        "x86_64 with --ami"
    )


@pytest.mark.parametrize("architecture", ["x86_64", ""])
def test_an_image_that_fits_or_is_not_known_passes(architecture: str) -> None:
    check_fit(an_image(architecture=architecture), InstanceType(name="t3.micro", architecture="x86_64"))
