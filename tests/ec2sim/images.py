"""The images of a region: each system in several dates, what resembles it, and what others call by its name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.filters import Field, Filters
from tests.ec2sim.paging import Page
from tests.ec2sim.wire import Node, Params, element, elements, timestamp

AMAZON = "137112412989"
ECS = "591542846629"
DEEP_LEARNING = "898082745236"
WINDOWS = "801119661308"
MARKETPLACE = "679593333241"
STRANGER = "099720109999"
CANONICAL = "099720109477"
DEBIAN = "136693071363"
RED_HAT = "309956199498"
_ALIAS = {
    AMAZON: "amazon",
    ECS: "amazon",
    DEEP_LEARNING: "amazon",
    WINDOWS: "amazon",
    MARKETPLACE: "aws-marketplace",
}
_NEVER = "2099-01-01T00:00:00"
_PAST = "2025-09-23T01:10:00"
_RECALLED = "2025-11-26T00:00:00"


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One AMI.

    Attributes:
        id: differs by region.
        name: unique within its owner alone.
        owner: account id.
        architecture: x86_64 or arm64.
        created: ISO 8601.
        deprecated: ISO 8601; past it only its owner sees the image, unless deprecated ones are requested.
        root_gib: size of its snapshot.
        state: available, or what it is else.
        data_gib: size of the snapshot of a second volume; None: it has none.
    """

    id: str
    name: str
    owner: str
    architecture: str
    created: str
    deprecated: str
    root_gib: int = 8
    state: str = "available"
    data_gib: int | None = None

    @property
    def root_device(self) -> str:
        """As their publishers name it."""
        return "/dev/sda1" if self.owner in (CANONICAL, WINDOWS, RED_HAT) else "/dev/xvda"

    @property
    def platform_details(self) -> str:
        """What it is billed as."""
        return {WINDOWS: "Windows", RED_HAT: "Red Hat Enterprise Linux"}.get(self.owner, "Linux/UNIX")

    @property
    def alias(self) -> str | None:
        """`amazon` and the like, if its owner has one."""
        return _ALIAS.get(self.owner)

    @property
    def snapshot_id(self) -> str:
        """Of its root device."""
        return self.id.replace("ami-", "snap-")

    @property
    def description(self) -> str:
        """As their publishers word them."""
        if self.owner == CANONICAL:
            return f"Canonical, Ubuntu, {'24.04, noble' if 'noble' in self.name else '22.04, jammy'} image"
        if self.owner not in (AMAZON, ECS):
            return self.name
        linux = "Amazon Linux 2023 AMI" if self.name.startswith("al2023") else "Amazon Linux 2 AMI"
        return f"{linux} {self.architecture}"

    @property
    def shown_tags(self) -> Mapping[str, str]:
        """None; another account's tags are not seen."""
        return {}


# Name, owner, created, deprecated, GiB, state. What is newest is never what a careless pattern takes for it: it is of a
# stranger, of the Marketplace, deprecated, not ready, or another kind of its true owner's.
_NOBLE = "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{deb}-server-"
_JAMMY = "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{deb}-server-"
_GPU = "Deep Learning {gpu}Base OSS Nvidia Driver GPU AMI (Amazon Linux 2023) "
_MADE = (
    ("al2023-ami-2023.7.20250623.1-kernel-6.1-{arch}", AMAZON, "2025-06-25T01:10:00", _PAST, 8, "available"),
    ("al2023-ami-2023.8.20250915.0-kernel-6.1-{arch}", AMAZON, "2025-09-17T02:20:00", _NEVER, 8, "available"),
    ("al2023-ami-2023.9.20251105.0-kernel-6.1-{arch}", AMAZON, "2025-11-07T03:30:00", _NEVER, 8, "available"),
    ("al2023-ami-2023.9.20251110.0-kernel-6.1-{arch}", AMAZON, "2025-11-12T03:30:00", _NEVER, 8, "pending"),
    ("al2023-ami-2023.9.20251105.0-kernel-6.12-{arch}", AMAZON, "2025-11-08T03:30:00", _NEVER, 8, "available"),
    ("al2023-ami-minimal-2023.9.20251105.0-kernel-6.1-{arch}", AMAZON, "2025-11-09T03:30:00", _NEVER, 2, "available"),
    ("al2023-ami-ecs-hvm-2023.0.20251112-kernel-6.1-{arch}", ECS, "2025-11-12T04:40:00", _NEVER, 30, "available"),
    ("al2023-ami-2023.9.20251199.0-kernel-6.1-{arch}", STRANGER, "2025-11-20T00:00:00", _NEVER, 8, "available"),
    ("al2023-ami-2023.9.20251105.0-kernel-6.1-{arch}", MARKETPLACE, "2025-11-21T00:00:00", _NEVER, 8, "available"),
    ("amzn2-ami-hvm-2.0.20250929.2-{arch}-gp2", AMAZON, "2025-10-01T05:50:00", _NEVER, 8, "available"),
    ("amzn2-ami-hvm-2.0.20251014.0-{arch}-gp2", AMAZON, "2025-10-16T05:50:00", _NEVER, 8, "available"),
    ("amzn2-ami-kernel-5.10-hvm-2.0.20251020.0-{arch}-gp2", AMAZON, "2025-10-22T05:50:00", _NEVER, 8, "available"),
    ("amzn2-ami-ecs-hvm-2.0.20251103-{arch}-ebs", ECS, "2025-11-04T05:50:00", _NEVER, 30, "available"),
    ("amzn2-ami-hvm-2.0.20251199.0-{arch}-gp2", STRANGER, "2025-11-20T00:00:00", _NEVER, 8, "available"),
    (_NOBLE + "20250821", CANONICAL, "2025-08-21T07:00:00", _NEVER, 8, "available"),
    (_NOBLE + "20251022", CANONICAL, "2025-10-22T07:00:00", _NEVER, 8, "available"),
    (_NOBLE + "20251015", CANONICAL, "2025-11-24T07:00:00", _RECALLED, 8, "available"),
    (_NOBLE + "20251119", CANONICAL, "2025-11-19T07:00:00", _NEVER, 8, "pending"),
    (_NOBLE.replace("images/", "images-testing/") + "20251120", CANONICAL, "2025-11-20T07:00:00", _NEVER,
     8, "available"),
    (_NOBLE.replace("ubuntu/images", "ubuntu-pro-server/images") + "20251121", CANONICAL, "2025-11-21T07:00:00", _NEVER,
     8, "available"),
    (_NOBLE.replace("server", "minimal") + "20251121", CANONICAL, "2025-11-21T07:00:00", _NEVER, 8, "available"),
    (_NOBLE + "20251199", STRANGER, "2025-11-22T00:00:00", _NEVER, 8, "available"),
    (_NOBLE + "20251022-prod-ab3", MARKETPLACE, "2025-11-23T00:00:00", _NEVER, 8, "available"),
    (_JAMMY + "20250930", CANONICAL, "2025-09-30T07:00:00", _NEVER, 8, "available"),
    (_JAMMY + "20251001.1", CANONICAL, "2025-10-02T07:00:00", _NEVER, 8, "available"),
    (_JAMMY + "20251003", CANONICAL, "2025-11-24T07:00:00", _RECALLED, 8, "available"),
    (_JAMMY + "20251199", STRANGER, "2025-11-22T00:00:00", _NEVER, 8, "available"),
    ("debian-12-{deb}-20250814-2204", DEBIAN, "2025-08-14T09:00:00", _NEVER, 8, "available"),
    ("debian-12-{deb}-20251006-2257", DEBIAN, "2025-10-06T09:00:00", _NEVER, 8, "available"),
    ("debian-12-{deb}-20250901-2222", DEBIAN, "2025-11-24T09:00:00", _RECALLED, 8, "available"),
    ("debian-12-backports-{deb}-20251006-2257", DEBIAN, "2025-10-06T09:30:00", _NEVER, 8, "available"),
    ("debian-12-{deb}-daily-20251125-2307", DEBIAN, "2025-11-25T09:00:00", _NEVER, 8, "available"),
    ("debian-13-{deb}-20251117-2299", DEBIAN, "2025-11-17T09:00:00", _NEVER, 8, "available"),
    ("debian-12-{deb}-20251199-2399", STRANGER, "2025-11-22T00:00:00", _NEVER, 8, "available"),
    ("debian-12-{deb}-20251006-2257-prod-x7", MARKETPLACE, "2025-11-23T00:00:00", _NEVER, 8, "available"),
    (_GPU + "20250926", DEEP_LEARNING, "2025-09-26T10:00:00", _NEVER, 75, "available"),
    (_GPU + "20251024", DEEP_LEARNING, "2025-10-24T10:00:00", _NEVER, 75, "available"),
    (_GPU + "20251010", DEEP_LEARNING, "2025-11-24T10:00:00", _RECALLED, 75, "available"),
    (_GPU.replace("2023)", "2)") + "20251103", DEEP_LEARNING, "2025-11-03T10:00:00", _NEVER, 60, "available"),
    ("Deep Learning {gpu}Base OSS Nvidia Driver GPU AMI (Ubuntu 22.04) 20251107", DEEP_LEARNING, "2025-11-07T10:00:00",
     _NEVER, 75, "available"),
    (_GPU + "20251199", STRANGER, "2025-11-22T00:00:00", _NEVER, 75, "available"),
    ("RHEL-9.6.0_HVM-20251015-{arch}-0-Hourly2-GP3", RED_HAT, "2025-10-15T11:00:00", _NEVER, 10, "available"),
    ("Windows_Server-2022-English-Full-Base-2025.11.12", WINDOWS, "2025-11-12T12:00:00", _NEVER, 30, "available"),
    ("our-data-node-v3-{arch}", STRANGER, "2025-11-01T13:00:00", _NEVER, 12, "available"),
)  # fmt: skip


def images_of(region: str) -> dict[str, Image]:
    """A region's images by id; the same at every start."""
    images: dict[str, Image] = {}
    for architecture, of_debian in (("x86_64", "amd64"), ("arm64", "arm64")):
        for name, owner, created, deprecated, gib, state in _MADE:
            if owner == WINDOWS and architecture == "arm64":
                continue
            named = name.format(arch=architecture, deb=of_debian, gpu="ARM64 " if architecture == "arm64" else "")
            digest = hashlib.blake2s(f"{region}:{owner}:{named}".encode()).hexdigest()
            image = Image(
                id=f"ami-0{digest[:16]}",
                name=named,
                owner=owner,
                architecture=architecture,
                created=f"{created}.000Z",
                deprecated=f"{deprecated}.000Z",
                root_gib=gib,
                state=state,
                data_gib=200 if "data-node" in name else None,
            )
            images[image.id] = image
    return images


_FILTERS: dict[str, Field[Image]] = {
    "architecture": lambda i: (i.architecture,),
    "creation-date": lambda i: (i.created,),
    "description": lambda i: (i.description,),
    "hypervisor": lambda _: ("xen",),
    "image-id": lambda i: (i.id,),
    "image-type": lambda _: ("machine",),
    "is-public": lambda _: ("true",),
    "name": lambda i: (i.name,),
    "owner-alias": lambda i: (i.alias,) if i.alias else (),
    "owner-id": lambda i: (i.owner,),
    "platform": lambda i: ("windows",) if i.owner == WINDOWS else (),
    "root-device-name": lambda i: (i.root_device,),
    "root-device-type": lambda _: ("ebs",),
    "state": lambda i: (i.state,),
    "virtualization-type": lambda _: ("hvm",),
}


def find_image(images: Mapping[str, Image], image_id: str) -> Image:
    """The image of a launch; raises InvalidAMIID.* for what is none."""
    if not image_id.startswith("ami-"):
        raise Ec2Error("InvalidAMIID.Malformed", f'Invalid id: "{image_id}" (expecting "ami-...")')
    image = images.get(image_id)
    if image is None:
        raise Ec2Error("InvalidAMIID.NotFound", f"The image id '[{image_id}]' does not exist")
    if image.state != "available":
        raise Ec2Error("InvalidAMIID.Unavailable", f"The image ID '{image_id}' is not available")
    return image


def describe_images(params: Params, images: Mapping[str, Image], account: str, now: float) -> str:
    """DescribeImages."""
    page = Page(params)
    filters = Filters(params, _FILTERS)
    asked = params.texts("ImageId")
    unknown = [image_id for image_id in asked if image_id not in images]
    if unknown:
        raise Ec2Error("InvalidAMIID.NotFound", f"The image id '[{', '.join(unknown)}]' does not exist")
    owners = {account if owner == "self" else owner for owner in params.texts("Owner")}
    deprecated_too = params.flag("IncludeDeprecated") or bool(asked)
    today = timestamp(now)
    rows = [
        image
        for image in ([images[i] for i in asked] if asked else images.values())
        if (not owners or owners & {image.owner, image.alias})
        and (deprecated_too or image.deprecated > today)
        and filters.match(image)
    ]
    shown, token = page.cut(rows)
    return element("imagesSet", [_image_node(image) for image in shown]) + elements({"nextToken": token})


def _image_node(image: Image) -> Node:
    volume_type = "gp2" if image.name.startswith("amzn2") else "gp3"
    # The order of an image's devices says nothing: the root is the one with its name.
    devices: list[Node] = [{"deviceName": "/dev/sdb", "virtualName": "ephemeral0"}] if image.owner == CANONICAL else []
    if image.data_gib is not None:
        devices.append(_device("/dev/sdf", image.snapshot_id + "d", image.data_gib, volume_type))
    devices.append(_device(image.root_device, image.snapshot_id, image.root_gib, volume_type))
    return {
        "imageId": image.id,
        "imageLocation": f"{image.alias or image.owner}/{image.name}",
        "imageState": image.state,
        "imageOwnerId": image.owner,
        "creationDate": image.created,
        "isPublic": True,
        "architecture": image.architecture,
        "imageType": "machine",
        "platform": "windows" if image.owner == WINDOWS else None,
        "platformDetails": image.platform_details,
        "usageOperation": "RunInstances",
        "imageOwnerAlias": image.alias,
        "name": image.name,
        "description": image.description,
        "rootDeviceType": "ebs",
        "rootDeviceName": image.root_device,
        "blockDeviceMapping": devices,
        "virtualizationType": "hvm",
        "hypervisor": "xen",
        "enaSupport": True,
        "deprecationTime": image.deprecated,
        "imdsSupport": "v2.0" if image.name.startswith("al2023") else None,
    }


def _device(name: str, snapshot_id: str, gib: int, volume_type: str) -> Node:
    ebs: Node = {
        "deleteOnTermination": True,
        "snapshotId": snapshot_id,
        "volumeSize": gib,
        "volumeType": volume_type,
        "encrypted": False,
    }
    return {"deviceName": name, "ebs": ebs}
