"""Which images are seen not to be Amazon Linux."""

from __future__ import annotations

import pytest

from puter_worker.ec2.answers import ImageAnswer
from puter_worker.ec2.images import is_amazon_linux

AMAZON, MINE, CANONICAL = "137112412989", "123456789012", "099720109477"


def image(name: str, owner: str = MINE, billed_as: str | None = "Linux/UNIX") -> ImageAnswer:
    return ImageAnswer(image_id="ami-0123456789abcdef0", name=name, owner_id=owner, platform_details=billed_as)


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("al2023-ami-2023.9.20251105.0-kernel-6.1-x86_64", AMAZON),
        ("amzn2-ami-hvm-2.0.20251014.0-x86_64-gp2", AMAZON),
        ("al2023-ami-ecs-hvm-2023.0.20251112-kernel-6.1-x86_64", "591542846629"),
        ("Deep Learning Base OSS Nvidia Driver GPU AMI (Amazon Linux 2023) 20251024", AMAZON),
        ("amazon-linux-2023-with-a-debian-chroot", MINE),
        ("render-node-v17", MINE),
        ("pursued-by-kubuntuesque", MINE),
        ("rocky-and-bullwinkle", MINE),
        ("", ""),
    ],
)
def test_what_may_be_amazon_linux_is_taken_for_it(name: str, owner: str) -> None:
    assert is_amazon_linux(image(name, owner))


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server-20251022", CANONICAL),
        ("our-ubuntu-22.04-v3", MINE),
        ("Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20251024", AMAZON),
        ("debian-12-amd64-20251006-2257", "136693071363"),
        ("RHEL-9.6.0_HVM-20251015-x86_64-0-Hourly2-GP3", "309956199498"),
        ("suse-sles-15-sp7-v20251020-hvm-ssd-x86_64", "013907871322"),
        ("openSUSE-Leap-15.6-v20251020-hvm-ssd-x86_64", "679593333241"),
        ("Rocky-9-EC2-Base-9.6-20250531.0.x86_64", "792107900819"),
        ("AlmaLinux OS 9.6.20250522 x86_64", "764336703387"),
        ("CentOS Stream 9 x86_64 20251020", "125523088429"),
        ("Fedora-Cloud-Base-AmazonEC2.x86_64-42", "125523088429"),
        ("bottlerocket-aws-ecs-2-x86_64-v1.49.0", "092701018921"),
        ("golden-image", CANONICAL),
    ],
)
def test_a_name_or_an_owner_shows_another_system(name: str, owner: str) -> None:
    assert not is_amazon_linux(image(name, owner))


@pytest.mark.parametrize("billed_as", ["Red Hat Enterprise Linux", "SUSE Linux", "Ubuntu Pro"])
def test_what_is_billed_shows_another_system(billed_as: str) -> None:
    assert not is_amazon_linux(image("golden-image", billed_as=billed_as))
