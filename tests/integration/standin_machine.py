"""A machine on which the scripts of user data are run as cloud-init runs them, with stand-ins for its commands.

It is two folders: one in the place of `/`, and one of commands that write down how they were called and keep a little
state (units that are enabled or active, jobs of `at`, a clock). No real command of these names can be reached: the
PATH holds the stand-ins and a few harmless tools.
"""

from __future__ import annotations

import email
import gzip
import re
import shlex
import shutil
import subprocess
from datetime import UTC, datetime
from email.message import Message
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from puter_client.contract.os_image import Os

FIRST_BOOT = 1_790_000_030
STAND_IN = Path(__file__).with_name("standin_machine.sh")
TOOLS = (
    "sh", "bash", "cat", "mv", "cp", "rm", "mkdir", "chmod", "touch", "grep", "sed", "timeout", "env", "head",
)  # fmt: skip
STAND_INS = ("systemctl", "shutdown", "usermod", "chown", "id", "setpriv", "sleep", "date")
# What installs packages on each system, and what is installed on its images.
INSTALLS = {
    Os.AL2023: ("dnf", "yum"),
    Os.AL2: ("yum", "amazon-linux-extras"),
    Os.AL2023_GPU: ("dnf", "yum", "docker"),
    Os.UBUNTU_24_04: ("apt-get",),
    Os.UBUNTU_22_04: ("apt-get",),
    Os.DEBIAN_12: ("apt-get",),
}


class Handle(NamedTuple):
    """What will end a machine: `kind`, at which second of its clock, and how."""

    kind: Literal["timer", "at"]
    at: int
    command: str


class StandIn:
    """A machine that was launched with some user data.

    Attributes:
        system: what it has booted.
    """

    system: ClassVar[Os] = Os.AL2023

    def __init__(self, folder: Path, data: bytes, instance: str = "i-1") -> None:
        self.root = folder / "root"
        self.state = self.root / "var/lib/puter"
        self.machine = folder / "machine"
        for name in ("bin", "enabled", "active", "jobs", "broken", "scripts"):
            (self.machine / name).mkdir(parents=True)
        for name in ("dev", "root", "home/ec2-user", "home/ubuntu", "home/admin"):
            (self.root / name).mkdir(parents=True)
        (self.machine / "last-job").write_text("0")
        (self.machine / "calls").touch()
        for name in TOOLS:
            (self.machine / "bin" / name).symlink_to(shutil.which(name) or name)
        for name in (*STAND_INS, *INSTALLS[self.system]):
            command = self.machine / "bin" / name
            command.write_text(STAND_IN.read_text().replace("@date@", shutil.which("date") or "date"))
            command.chmod(0o755)
        self.env = {
            "PATH": str(self.machine / "bin"),
            "MACHINE": str(self.machine),
            "PUTER_ROOT": str(self.root),
            "LC_ALL": "C",
        }
        self.launch(data, instance)

    def launch(self, data: bytes, instance: str) -> None:
        """Makes it another instance, whose image is this machine's disk."""
        self.instance = instance
        self.booted = False
        self.scripts: dict[str, Path] = {}
        for number, (name, content_type, content) in enumerate(parts_of(data)):
            script = self.machine / "scripts" / (name or f"part-{number:03d}")
            script.write_bytes(content)
            script.chmod(0o700)
            if content_type == "text/cloud-boothook":
                self.boothook = script
            else:
                self.scripts[script.name] = script

    def broken(self, *what: str) -> StandIn:
        for name in what:
            (self.machine / "broken" / name).touch()
        return self

    def locked(self, *locks: str) -> StandIn:
        """The next calls of apt-get find these locks held, one each."""
        (self.machine / "locks").write_text("".join(f"{lock}\n" for lock in locks))
        return self

    def repaired(self) -> StandIn:
        for name in (self.machine / "broken").iterdir():
            name.unlink()
        return self

    def boot(self, at: int = FIRST_BOOT, *, as_far_as_scripts: bool = True) -> StandIn:
        """Starts what systemd has enabled, the boothook, and at the first boot the scripts and the workload."""
        (self.machine / "clock").write_text(f"{at}\n")
        for unit in (self.machine / "active").iterdir():
            unit.unlink()
        for unit in (self.machine / "enabled").iterdir():
            (self.machine / "active" / unit.name).touch()
        self.run(str(self.boothook), INSTANCE_ID=self.instance)
        if as_far_as_scripts and not self.booted:
            self.run_scripts()
            self.run_workload()
        self.booted = True
        return self

    def run_scripts(self) -> None:
        for _, script in sorted(self.scripts.items()):
            self.run(str(script))

    def run_workload(self) -> None:
        """Runs what the agent would start: the agent itself is for test_agent."""
        if "puter-agent.service" in self.active and (self.state / "workload.conf").exists():
            self.run(*self.workload_command())

    def workload_command(self) -> list[str]:
        unit = (self.root / "etc/systemd/system/puter-workload.service").read_text()
        return shlex.split(setting(unit, "ExecStart"))

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.env | env, capture_output=True, text=True, check=False, timeout=60)

    def cancel(self) -> StandIn:
        """What the machine's owner does to keep it."""
        self.run("atrm", (self.state / "at-job").read_text().strip())
        return self

    def uninstall_at(self) -> StandIn:
        for name in ("bin/at", "bin/atrm", "enabled/atd", "active/atd"):
            (self.machine / name).unlink()
        return self

    @property
    def active(self) -> set[str]:
        return {unit.name for unit in (self.machine / "active").iterdir()}

    @property
    def enabled(self) -> set[str]:
        return {unit.name for unit in (self.machine / "enabled").iterdir()}

    @property
    def calls(self) -> list[str]:
        return (self.machine / "calls").read_text().splitlines()

    @property
    def shutdowns(self) -> list[str]:
        return [call for call in self.calls if call.startswith("shutdown ")]

    @property
    def console(self) -> str:
        path = self.root / "dev/console"
        return path.read_text() if path.exists() else ""

    @property
    def exit_code(self) -> str | None:
        path = self.state / "workload.end"
        return setting(path.read_text(), "exit_code") if path.exists() else None

    @property
    def handles(self) -> list[Handle]:
        """What will end it, and would again after a reboot."""
        handles = []
        if "puter-deadline.timer" in self.enabled & self.active:
            units = self.root / "etc/systemd/system"
            timer = (units / "puter-deadline.timer").read_text()
            when = datetime.strptime(setting(timer, "OnCalendar"), "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
            assert setting(timer, "Persistent") == "true"
            # Without a time at which it has run, systemd takes no notice of one that has passed before it starts it.
            assert (self.root / "var/lib/systemd/timers/stamp-puter-deadline.timer").stat().st_mtime < when.timestamp()
            command = setting((units / "puter-deadline.service").read_text(), "ExecStart")
            handles.append(Handle("timer", int(when.timestamp()), command))
        if "atd" in self.enabled & self.active:
            for job in (self.machine / "jobs").iterdir():
                stamp, _, command = job.read_text().partition("\n")
                when = datetime.strptime(stamp, "# %Y%m%d%H%M").replace(tzinfo=UTC)
                handles.append(Handle("at", int(when.timestamp()), f"/bin/sh -c {shlex.quote(command)}"))
        return handles

    def ends_by(self, handle: Handle) -> bool:
        """Lets it come to that, and tells whether the machine is shut down."""
        before = len(self.shutdowns)
        self.run(*shlex.split(handle.command))
        return self.shutdowns[before:] == ["shutdown -h now"]


def setting(unit: str, name: str) -> str:
    found = re.search(rf"^{name}=(.*)$", unit, re.MULTILINE)
    assert found, f"no {name} in {unit}"
    return found[1]


def parts_of(data: bytes) -> list[tuple[str | None, str, bytes]]:
    return [_read(part) for part in _leaves(data)]


def parts_for(data: bytes, index: int) -> list[tuple[str | None, str, bytes]]:
    """What the machine with this index in its launch gets."""
    return [_read(part) for part in _leaves(data) if part.get("Launch-Index", str(index)) == str(index)]


@lru_cache(maxsize=4)  # the machines of a launch have the same
def _leaves(data: bytes) -> list[Message]:
    message = email.message_from_bytes(gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data)
    return [part for part in message.walk() if not part.is_multipart()]


def _read(part: Message) -> tuple[str | None, str, bytes]:
    return part.get_filename(), part.get_content_type(), bytes(part.get_payload(decode=True))
