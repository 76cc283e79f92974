"""The commands of a page, and a host on which bash runs them as they stand there.

The host is a folder that stands for `/`: what a command calls /etc/puter is `etc/puter` of that folder. It has a Redis
as Debian installs it, on a port of its own. `systemctl` and `docker` have stand-ins, `useradd` only notes what it was
told, and `pip` finds the locked packages where the tests' own are, since nothing is downloaded here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import site
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import redis

from tests.integration.redis_servers import server_binaries

ROOT = Path(__file__).parents[2]
FOLDERS = ("/etc/puter", "/etc/redis", "/etc/systemd/system", "/opt/puter", "/var/lib/puter", "/var/lib/redis",
           "/var/backups/puter")  # fmt: skip
_PATH = re.compile(r"(?<![\w.~$}/*-])/[a-z][\w./@-]*")
# What Debian's redis.conf says otherwise than Puter's.
_DEBIANS = "bind 127.0.0.1 -::1\nport {port}\ndir {data}\nappendonly no\nappendfsync everysec\nsave 900 1\n"
PROJECT = ("deploy", "requirements", "puter_client", "puter_worker", "compose.yaml", "Makefile", "pyproject.toml",
           "README.md", "CHANGELOG.md", "LICENSE")  # fmt: skip


class Block(NamedTuple):
    """A block of a page, and the heading that it stands under."""

    heading: str
    language: str
    text: str


def blocks(page: str, language: str = "bash") -> list[Block]:
    """The blocks of a page of docs/ in a language."""
    return [
        Block(section.partition("\n")[0], language, text)
        for section in (ROOT / "docs" / page).read_text().split("\n## ")[1:]
        for text in re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    ]


class PageHost:
    """The host.

    Attributes:
        folder: stands for `/`.
        project: a copy of the project's folder, in which commands run.
        port: of its Redis.
        environ: what a shell on it finds in its environment.
    """

    def __init__(self, folder: Path, *, containers: bool = False) -> None:
        """`containers`: whether the paths in commands are those in containers, whose mounts are in compose.yaml."""
        self._containers = containers
        self.folder, self.project = folder / "host", folder / "project"
        for name in (
            "etc/redis",
            "etc/systemd/system",
            "etc/puter",
            "var/lib/redis",
            "var/backups",
            "opt",
            "run",
            "bin",
        ):
            (self.folder / name).mkdir(parents=True)
        self.project.mkdir()
        for name in PROJECT:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
            copy(ROOT / name, self.project / name)
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = int(taken.getsockname()[1])
        (self.folder / "etc/redis/redis.conf").write_text(
            _DEBIANS.format(port=self.port, data=self.folder / "var/lib/redis")
        )
        self.environ = {
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}", "HOME": str(folder), "LANG": "C.UTF-8",
            "PYTHONPATH": str(self._packages(folder)), "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            # The default is /etc/puter, which is a real place.
            "PUTER_HOST_FOLDER": str(self.folder / "etc/puter"),
            "PUTER_REDIS_ADDRESS": f"127.0.0.1:{self.port}", "EDITOR": "test -w",
            "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        systemctl = [
            Path(__file__).with_name("standin_systemctl.py"),
            self.folder,
            self.port,
            server_binaries()["valkey"],
        ]
        self.program("systemctl", f'exec {sys.executable} {shlex.join(map(str, systemctl))} "$@"')
        docker = Path(__file__).with_name("standin_docker.py")
        self.program("docker", f'PYTHONPATH={ROOT} exec {sys.executable} {docker} "$@"')
        self.program("useradd", f'echo "$@" >>{self.folder}/run/useradd')
        self.program("redis-cli", f'exec {shutil.which("redis-cli")} -p {self.port} --no-auth-warning "$@"')
        self.program("python3", f'exec {sys.executable} "$@"')

    def program(self, name: str, script: str) -> None:
        """A program that is found before all others of its name."""
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o700)

    def place(self, text: str) -> str:
        """A text with the host's paths as they are outside of it; a path that no host has is an error of the page."""

        def moved(found: re.Match[str]) -> str:
            assert any(f"{found[0]}/".startswith(f"{folder}/") for folder in FOLDERS), f"{found[0]} is no place here"
            return found[0] if self._containers else f"{self.folder}{found[0]}"

        return _PATH.sub(moved, text)

    def run(self, script: str, **changed: str) -> str:
        """Run commands as a person would type them, but that the first that fails ends them; what they wrote."""
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.place(script)], env=self.environ | changed, cwd=self.project,
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert ran.returncode == 0, f"{script}\n{ran.stdout}{ran.stderr}"
        return ran.stdout

    def run_from_source(self) -> None:
        """Have `/opt/puter` be this source code, in the place of an installation, which takes some seconds."""
        folder = self.folder / "opt/puter/bin"
        folder.mkdir(parents=True)
        for name, module in (("python", ""), ("puter", "-m puter_client.cli")):
            (folder / name).write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} {module} "$@"\n')
            (folder / name).chmod(0o700)

    def make_ready(self) -> None:
        """Have `make` find its `.venv` set up: it has the same packages as this one."""
        folder = self.project / ".venv/bin"
        folder.mkdir(parents=True)
        (folder / "python").write_text(f'#!/bin/sh\nPYTHONPATH= exec {sys.executable} "$@"\n')
        (folder / "python").chmod(0o700)
        (folder.parent / ".ready").touch()

    def as_user(self, url: str) -> Any:
        """A plain client with the URL of a user."""
        return redis.Redis.from_url(url, decode_responses=True)

    def as_admin(self) -> Any:
        """A plain client that is the user `admin`."""
        written = (self.folder / "etc/puter/admin.env").read_text()
        return self.as_user(written.strip().partition("=")[2])

    def log(self, unit: str) -> str:
        """What a unit has written."""
        return (self.folder / "run" / f"{unit}.log").read_text()

    def close(self) -> None:
        """End its processes."""
        for written in (self.folder / "run").glob("*.pid"):
            try:
                os.kill(int(written.read_text()), signal.SIGKILL)
            except ProcessLookupError:
                continue

    @staticmethod
    def _packages(folder: Path) -> Path:
        """The packages of the tests without Puter, which is to be installed, and without pip: the host has its own."""
        packages = folder / "packages"
        packages.mkdir()
        for path in (path for where in site.getsitepackages() for path in Path(where).glob("*")):
            if not re.match(r"_editable_impl_puter|puter|pip\b|.*\.pth$|__pycache__", path.name):
                (packages / path.name).symlink_to(path)
        return packages
