"""A simulated instance: a folder in the place of `/`, on which the agent of its user data runs as on a machine.

The agent is the real one, an ordinary process. The commands that it calls are stand-ins (`commands.sh`) and a closed
list of harmless tools: whatever its script says, it reaches no systemctl, shutdown or package manager of this computer.
Of the user data, the parts that set the deadline and install software are not run, nor is a user's own part.
"""

from __future__ import annotations

import email
import gzip
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path

from puter_client.contract.userdata import PUTERS

# What the agent and its workload part call; all of it is on Linux and macOS.
_TOOLS = ("bash", "cat", "chmod", "cp", "date", "grep", "head", "mkdir", "mv", "rm", "sed", "sleep", "tail", "touch")
_GNU_TOOLS = ("base64", "sha256sum", "stat")
_STAND_INS = ("chown", "curl", "docker", "id", "setpriv", "shutdown", "systemctl")
_NOT_RUN = frozenset(PUTERS + name for name in ("0-deadline", "1-at", "2-docker"))
_HOMES = ("home/admin", "home/ec2-user", "home/ubuntu", "root")
_PAUSE = re.compile(rb"^shutdown_after_s=.*$", re.MULTILINE)
_TAG = re.compile(r"[A-Za-z0-9+\-=.,_:@]{1,200}(?<!\.)")  # what EC2's metadata service shows, as names of files
_CONSOLE_BYTES = 65_536  # as much as EC2 keeps
_RESTART_S = 1.0  # RestartSec of puter-agent.service


class Machine:
    """One instance."""

    def __init__(self, folder: Path, commands: Path, user_data: bytes, *, taken_back: bool = False) -> None:
        """A machine that has not booted.

        Args:
            folder: for all that is the machine's.
            commands: what `make_commands` has filled.
            user_data: what it was launched with, as Puter composes it.
            taken_back: whether EC2 takes the Spot machine back as soon as it runs.
        """
        self._folder = folder
        self._commands = commands
        self._root = folder / "root"
        self._user_data = user_data
        self._taken_back = taken_back
        self._agent: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @property
    def console(self) -> bytes:
        """What its console shows."""
        try:
            return (self._root / "dev/console").read_bytes()[-_CONSOLE_BYTES:]
        except FileNotFoundError:
            return b""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Have its metadata service show these tags too, as far as it can."""
        folder = self._folder / "metadata/tags/instance"
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in tags.items():
            if _TAG.fullmatch(name):
                (folder / f"{name}.new").write_text(value)
                (folder / f"{name}.new").rename(folder / name)

    def run(self) -> None:
        """Boot, and return when it has shut down, or was ended."""
        self._furnish()
        for part in sorted(self._parts(), key=lambda path: path.name):
            # Not by its name: while another thread starts a process, that one may still hold the file open.
            bash = [self._commands / "bash", part]
            subprocess.run(bash, env=self._environ(), stdin=subprocess.DEVNULL, check=False)  # noqa: S603 - Puter's
        agent = self._root / "usr/local/sbin/puter-agent"
        while agent.exists() and self._start(agent):
            if self._agent is not None:
                self._agent.wait()
            if (self._folder / "shut-down").exists():
                return
            self._ended.wait(_RESTART_S)

    def _start(self, agent: Path) -> bool:
        with self._lock:
            if not self._ended.is_set():
                self._agent = subprocess.Popen([agent, "watch"], env=self._environ(), stdin=subprocess.DEVNULL)  # noqa: S603
            return not self._ended.is_set()

    def end(self) -> None:
        """Kill the agent and all processes of the workload."""
        with self._lock:
            self._ended.set()
            if self._agent is not None:
                self._agent.kill()
        with suppress(OSError, ValueError):
            (self._folder / "off").touch()
            if not (self._folder / "workload.status").exists():
                os.killpg(int((self._folder / "workload.pid").read_text()), signal.SIGKILL)

    def _furnish(self) -> None:
        for name in ("dev", "tmp", *_HOMES):
            (self._root / name).mkdir(parents=True)
        (self._root / "dev/console").touch()
        if self._taken_back:
            notice = self._folder / "metadata/spot/instance-action"
            notice.parent.mkdir(parents=True)
            notice.write_text('{"action": "terminate"}')

    def _parts(self) -> list[Path]:
        """The parts that are run, each in a file of its name."""
        paths = []
        for part in email.message_from_bytes(gzip.decompress(self._user_data)).walk():
            name = part.get_filename() or ""
            if name.startswith(PUTERS) and name not in _NOT_RUN:
                path = self._folder / Path(name).name
                path.write_bytes(_PAUSE.sub(b"shutdown_after_s=0", bytes(part.get_payload(decode=True))))
                paths.append(path)
        return paths

    def _environ(self) -> dict[str, str]:
        python = Path(sys.executable)
        return {
            "LC_ALL": "C",
            "MACHINE": str(self._folder),
            "PATH": str(self._commands),
            "PUTER_ROOT": str(self._root),
            "PYTHON": str(python),
            "TMPDIR": str(self._root / "tmp"),
            "WORKLOAD_PATH": f"{python.parent}:{os.environ.get('PATH', os.defpath)}",
        }


def make_commands(folder: Path) -> None:
    """Fill a new folder with the commands of machines, before any of them boots."""
    folder.mkdir(parents=True)
    gnu = sys.platform == "linux"
    for name in (*_TOOLS, *(_GNU_TOOLS if gnu else ())):
        (folder / name).symlink_to(shutil.which(name) or name)
    for name in (*_STAND_INS, *(() if gnu else _GNU_TOOLS)):
        (folder / name).write_bytes(resources.files(__package__).joinpath("commands.sh").read_bytes())
        (folder / name).chmod(0o700)
