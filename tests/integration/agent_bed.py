"""The real agent of user data, run as real processes on a folder that is a machine, with stand-ins for its commands.

`systemctl start` starts a unit's ExecStart as processes of their own, so the agent can be killed without its workload,
and the workload without its agent. Instance metadata are files. Where hundreds of machines share a host, `run_alone`
runs the agent's code for the workload and its end frame as one process, without the loop that watches it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from puter_client.contract.key import PuterKey
from puter_worker.ec2.frame import Frame, read_frame
from puter_worker.ec2.userdata import Boot, Machine, compose
from tests.integration.standin_machine import parts_for

NONCE = "0123456789abcdef"
BORN_TO_END_AT = "2026-11-27T05:00:00Z"
STAND_IN = Path(__file__).with_name("agent_bed.sh")
STAND_INS = ("systemctl", "id", "setpriv", "docker", "shutdown", "sleep", "curl", "chown", "at", "atrm", "mv")
TOOLS = (
    "sh", "bash", "cat", "cp", "rm", "mkdir", "chmod", "touch", "grep", "sed", "head", "tail", "stat", "base64",
    "sha256sum", "date", "kill", "setsid", "env", "ps",
)  # fmt: skip
PATIENCE_S = 120.0


def user_data(run: str | None, **machine: object) -> bytes:
    """The user data of one machine, of a launch of its own or of a Spot launch.

    `machine`: further fields of Boot (`docker`, `ttl_s`) and Machine (`env`, `ends_with_workload`), and `after`: how
    many members of its Spot launch come before it.
    """
    boots = {name: machine.pop(name) for name in ("docker", "ttl_s") if name in machine}
    boot = Boot(**{"ttl_s": None, "nonce": NONCE, "expires_at": BORN_TO_END_AT, "user": "ec2-user"} | boots)  # type: ignore[arg-type]
    key = PuterKey("alice", "sweep-17")
    fields: dict[str, object] = {"key": key, "generation": 3, "run": run, "env": {}, "user_data": None} | machine
    others = int(str(fields.pop("after", 0)))
    machines = [Machine(**fields | {"run": "echo not mine"})] * others + [Machine(**fields)]  # type: ignore[arg-type]
    return compose(boot, machines, by_tag=others > 0)


def commands_in(folder: Path) -> Path:
    """A folder with all commands of a machine; machines may share it."""
    folder.mkdir(parents=True)
    for name in TOOLS:
        (folder / name).symlink_to(shutil.which(name) or name)
    for name in STAND_INS:
        command = folder / name
        shutil.copyfile(STAND_IN, command)
        command.chmod(0o755)
    return folder


class AgentBed:
    """A machine with one workload and the agent; the files are as on a machine, below `root`."""

    def __init__(self, folder: Path, data: bytes, *, index: int = 0, commands: Path | None = None) -> None:
        """`data`: the user data of its launch, in which it has this index; `commands`: see `commands_in`."""
        self.bed, self.root = folder / "bed", folder / "root"
        self.state = self.root / "var/lib/puter"
        for path in (self.bed / "broken", self.bed / "enabled", self.bed / "metadata/tags/instance"):
            path.mkdir(parents=True)
        for path in (self.state, self.root / "dev", self.root / "home/ec2-user"):
            path.mkdir(parents=True)
        self.env = {
            "PATH": str(commands or commands_in(self.bed / "bin")),
            "BED": str(self.bed),
            "PUTER_ROOT": str(self.root),
            "LC_ALL": "C.UTF-8",
        }
        self.console.touch()
        for part, _, content in parts_for(data, index):
            path = self.bed / (part or "part")
            path.write_bytes(content)
            path.chmod(0o700)
        self._agent: subprocess.Popen[bytes] | None = None
        self.quick()

    # -- files --------------------------------------------------------------------------------------------------------

    @property
    def console(self) -> Path:
        """The console."""
        return self.root / "dev/console"

    @property
    def frame(self) -> Frame | None:
        """The end frame on the console."""
        return read_frame(self.console.read_text(errors="replace"), NONCE)

    @property
    def output(self) -> str:
        """What the workload has printed so far."""
        path = self.root / "var/log/puter/workload.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def shutdowns(self) -> list[str]:
        """How `shutdown` was called, once for each time."""
        path = self.bed / "shutdowns"
        return path.read_text().splitlines() if path.exists() else []

    def quick(self, **seconds: int) -> None:
        """Make the agent's pauses short, or as given."""
        script = (self.bed / "000-puter-3-agent").read_text()
        pauses = {"shutdown_after_s": 0, "orders_every_s": 0, "kill_after_s": 30} | seconds
        lines = script.splitlines(keepends=True)
        for name, value in pauses.items():
            lines = [f"{name}={value}\n" if line.startswith(f"{name}=") else line for line in lines]
        (self.bed / "000-puter-3-agent").write_text("".join(lines))

    def metadata(self, item: str, value: str) -> None:
        """The metadata service has this item from now on."""
        path = self.bed / "metadata" / item
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(value)
        path.with_suffix(".new").rename(path)

    # -- processes ----------------------------------------------------------------------------------------------------

    def boot(self) -> Self:
        """Run the parts of the user data as cloud-init does; the agent is installed, and started by `start`."""
        for name in ("000-puter-3-agent", "000-puter-4-task"):
            if (self.bed / name).exists():
                # The stand-in does not start the agent: the test does.
                (self.bed / "broken/start-puter-agent.service").touch()
                subprocess.run([self.bed / name], env=self.env, check=False, timeout=60)
        return self

    def start(self, **env: str) -> subprocess.Popen[bytes]:
        """Start the agent."""
        with (self.bed / "agent.err").open("ab") as errors:
            command = ["bash", str(self.root / "usr/local/sbin/puter-agent"), "watch"]
            self._agent = subprocess.Popen(
                command, env=self.env | env, stdout=errors, stderr=errors, start_new_session=True
            )
        return self._agent

    async def run_alone(self) -> asyncio.subprocess.Process:
        """Start the workload by the agent's own code, which then writes the end frame; all of it is one process group.

        The process ends with the frame. Nobody watches it: no order is obeyed, and the machine is not shut down.
        """
        agent = self.root / "usr/local/sbin/puter-agent"
        agent.parent.mkdir(parents=True)
        shutil.copy(self.bed / "000-puter-3-agent", agent)
        return await asyncio.create_subprocess_exec(
            *("bash", "-c", f'sh "$BED/000-puter-4-task" && . {agent} run && write_frame'),
            env=self.env,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop_agent(self, *, told: bool = True) -> None:
        """Stop the agent as systemd does at a shutdown, which has stopped the workload before; `told`: send SIGTERM."""
        assert self._agent is not None
        if told:
            os.killpg(self._agent.pid, signal.SIGTERM)
        self._agent.wait(PATIENCE_S)
        unit = (self.root / "etc/systemd/system/puter-agent.service").read_text()
        [last] = [line.partition("=")[2] for line in unit.splitlines() if line.startswith("ExecStopPost=")]
        subprocess.run(["bash", *last.split()], env=self.env, check=True, timeout=PATIENCE_S)

    @property
    def agent(self) -> subprocess.Popen[bytes] | None:
        """The agent that was started last."""
        return self._agent

    def kill_group(self, unit: str, with_signal: signal.Signals) -> None:
        """Signal all processes of a unit."""
        os.killpg(int((self.bed / f"{unit}.pid").read_text()), with_signal)

    def looks(self, times: int) -> None:
        """Return when the agent has looked at its orders so many times more."""
        seen = self.bed / "looks"
        before = len(seen.read_text()) if seen.exists() else 0
        self.until("the agent looks", lambda: seen.exists() and len(seen.read_text()) >= before + times)

    def until(self, what: str, holds: Callable[[], object]) -> None:
        """Return as soon as it holds; fail if it does not for long."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within {PATIENCE_S:g} s\n{self.console.read_text()}"
            time.sleep(0.02)

    def close(self) -> None:
        """End all processes of this machine."""
        if self._agent is not None and self._agent.poll() is None:
            self._agent.kill()
            self._agent.wait()
        pid = self.bed / "puter-workload.service.pid"
        if pid.exists():
            with suppress(ProcessLookupError):
                os.killpg(int(pid.read_text()), signal.SIGKILL)
