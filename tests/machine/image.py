"""What makes the one Debian look like an image that Puter knows: its user, its name, its package manager."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from tests.machine.root import SHELF

Packages = Literal["there", "refused", "unreachable"]


class Image(msgspec.Struct, frozen=True):
    """An image.

    Attributes:
        user: whom cloud-init makes, and the workload runs as.
        os_release: of /etc/os-release.
        managers: commands that install packages.
    """

    user: str
    os_release: dict[str, str]
    managers: tuple[str, ...]


AL2023 = Image("ec2-user", {"ID": "amzn", "ID_LIKE": "fedora", "VERSION_ID": "2023"}, ("dnf", "yum"))
AL2 = Image("ec2-user", {"ID": "amzn", "ID_LIKE": "rhel fedora", "VERSION_ID": "2"}, ("yum", "amazon-linux-extras"))
UBUNTU = Image("ubuntu", {"ID": "ubuntu", "ID_LIKE": "debian", "VERSION_ID": "24.04"}, ("apt-get",))
DEBIAN = Image("admin", {"ID": "debian", "VERSION_ID": "12"}, ("apt-get",))

# Nothing of Debian's own list that would look for a network, a disk or a package mirror.
_CLOUD_INIT = """\
datasource_list: [NoCloud, None]
network: {{config: disabled}}
system_info:
  default_user: {{name: {user}, lock_passwd: true, shell: /bin/bash, sudo: ["ALL=(ALL) NOPASSWD:ALL"]}}
users: [default]
cloud_init_modules: [bootcmd, write-files, set_hostname, users-groups]
cloud_config_modules: [runcmd]
cloud_final_modules: [scripts-per-once, scripts-per-boot, scripts-per-instance, scripts-user, final-message]
"""
# `refused`: the mirror does not have it. `unreachable`: there is no mirror.
_MANAGER = """\
#!/bin/sh
# Stand-in for a package manager: it brings `at`, and a Docker that does nothing, without a network.
for word; do
    case $word in
        at | docker | docker.io)
            case {packages} in
                refused) echo "Error: Unable to find a match: $word" >&2; exit 1 ;;
                unreachable) echo 'Error: Curl error (6): Could not resolve host name' >&2; exit 1 ;;
            esac ;;
    esac
    case $word in
        at) cp -a /{shelf}/. / ;;
        docker | docker.io) cp -a /{shelf}-docker/. / && {{ getent group docker || groupadd -r docker; }} >/dev/null ;;
    esac
done
systemctl daemon-reload
"""
_DOCKER = """\
#!/bin/sh
# Stand-in for Docker's command: it says whether the service is up.
exec systemctl is-active --quiet docker
"""
_DOCKER_SERVICE = """\
[Unit]
Description=Docker (a stand-in)

[Service]
ExecStart=/bin/sleep infinity

[Install]
WantedBy=multi-user.target
"""


def lay_over(disk: Path, image: Image, packages: Packages) -> None:
    """Write on a machine's disk, before its first boot, what the image has and the root folder has not."""
    release = "".join(f'{name}="{value}"\n' for name, value in image.os_release.items())
    _write(disk / "usr/lib/os-release", release)
    _write(disk / "etc/cloud/cloud.cfg.d/99-image.cfg", _CLOUD_INIT.format(user=image.user))
    for name in image.managers:
        _write(disk / "usr/bin" / name, _MANAGER.format(packages=packages, shelf=SHELF), 0o755)
    shelf = disk / f"{SHELF}-docker"
    _write(shelf / "usr/bin/docker", _DOCKER, 0o755)
    _write(shelf / "usr/lib/systemd/system/docker.service", _DOCKER_SERVICE)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
