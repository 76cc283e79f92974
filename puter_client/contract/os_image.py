"""The operating systems whose images Puter finds by itself, and the user whom each image has for ssh."""

from __future__ import annotations

from enum import StrEnum

DEFAULT_SSH_USER = "ec2-user"
"""The user of an image that shows nothing of its system; most images on EC2 are made from Amazon Linux."""

SSH_USER = r"[A-Za-z_][A-Za-z0-9_.-]{0,31}"
"""What a user's name is matched against: a word for shells, for scp's `user@host:path` and for useradd (32 at most)."""


class Os(StrEnum):
    """The system that is booted; `al2` ended its support on 2026-06-30."""

    AL2023 = "al2023"
    AL2 = "al2"
    UBUNTU_24_04 = "ubuntu24.04"
    UBUNTU_22_04 = "ubuntu22.04"
    DEBIAN_12 = "debian12"
    AL2023_GPU = "al2023-gpu"

    @property
    def ssh_user(self) -> str:
        """The user of its publisher's images, who may use sudo ("Managing users", EC2's user guide)."""
        match self:
            case Os.UBUNTU_24_04 | Os.UBUNTU_22_04:
                return "ubuntu"
            case Os.DEBIAN_12:
                return "admin"
            case Os.AL2023 | Os.AL2 | Os.AL2023_GPU:
                return "ec2-user"
