"""One machine: a disk laid over the root folder, and systemd-nspawn that boots it on a console.

It ends with this process, however that ends, and leaves nothing mounted: the overlay is in a mount namespace that
nobody else sees, and the machine in a PID namespace whose first process gets SIGKILL when this process is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.machine.abandoned import abandoned, named
from tests.machine.cgroup import Cgroup, hierarchy
from tests.machine.image import Image, Packages, lay_over

PATIENCE_S = 300.0
_PREFIX = "puter-machine-"
# systemd-nspawn, without a service manager of its own, ends with this code when the machine wants to boot again.
_REBOOT = 133
_START = """\
folder=$1 root=$2 network=$3
shift 3
for procs; do echo $$ >"$procs"; done
mount -t overlay overlay -o "lowerdir=$root,upperdir=$folder/disk,workdir=$folder/work" "$folder/root"
mount --bind "$network" "$folder/network"
exec unshare --pid --fork --kill-child --mount-proc sh -c 'systemd-nspawn "$@"; exit $?' sh \\
    --directory="$folder/root" --network-namespace-path="$folder/network" \\
    --quiet --boot --register=no --keep-unit --link-journal=no --resolv-conf=off
"""


class CommandFailed(Exception):
    """A command inside a machine ended with another code than 0; the text has what it said."""


class Machine:
    """A machine that boots, runs and ends.

    Attributes:
        name: for people, such as an instance's id.
        image: what it looks like.
        console: all that it wrote there so far.
        boots: how often it has booted.
        disk: what was written on its disk since the image; readable at any time, also after its end.
        over: set once it is off for good, and whoever switched it on has seen to that.
    """

    def __init__(self, name: str, root: Path, network: str, image: Image, packages: Packages) -> None:
        """`network`: path of a network namespace."""
        self.name = name
        self.image = image
        self.console = bytearray()
        self.boots = 0
        self._root = root
        self._network = network
        for folder in abandoned(Path(tempfile.gettempdir()), _PREFIX):
            shutil.rmtree(folder, ignore_errors=True)
        self._folder = Path(tempfile.mkdtemp(prefix=named(_PREFIX)))
        self.disk = self._folder / "disk"
        for each in ("disk", "work", "root"):
            (self._folder / each).mkdir(mode=0o755)
        (self._folder / "network").touch()
        lay_over(self.disk, image, packages)
        self._cgroup = Cgroup(self._folder.name)
        self._process: Process | None = None
        self._silent = asyncio.Event()
        self._init: int | None = None
        self._news = asyncio.Event()
        self.over = asyncio.Event()

    # -- what a test waits for ----------------------------------------------------------------------------------

    async def console_shows(self, text: str, times: int = 1) -> None:
        """Return once it has written this on its console, so often."""
        await self.until(f"shows {text!r} on its console", lambda: self.console.count(text.encode()) >= times)

    async def booted(self) -> None:
        """Return once all scripts of its user data have ended."""
        await self.until("has booted", lambda: self.ready)

    async def reboot(self) -> None:
        """Have it boot again, in order; return once it has booted."""
        boots = self.boots
        await self.restart()
        await self.until("boots again", lambda: self.boots > boots)
        await self.booted()

    async def restart(self) -> None:
        """Have it shut down in order, and boot again."""
        with contextlib.suppress(CommandFailed):  # it may be too quick to say that it has begun
            await self.run("systemctl --no-block reboot")

    async def shut_down(self) -> None:
        """Have it end itself; return once it is off for good, and EC2 knows."""
        with contextlib.suppress(CommandFailed):
            await self.run("shutdown -h now")
        await self.ended()

    async def ended(self) -> None:
        """Return once it is off for good, and EC2 knows."""
        await self.until("ends", self.over.is_set)

    async def until(self, what: str, holds: Callable[[], object]) -> None:
        """Return once something is so; fail if the machine ends, or too much time passes, before it is."""
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            over = self.over.is_set()
            if holds():
                return
            late = time.monotonic() > give_up_at
            why = "it has ended" if over else f"{PATIENCE_S:.0f} s have passed"
            if over or late:
                pytest.fail(f"waited until {self.name} {what}, and {why}. Its console:\n{self.last_words()}")
            await asyncio.sleep(0.05)

    def last_words(self) -> str:
        """The end of its console, for people."""
        return self.console[-4_096:].decode(errors="replace").replace("\r\n", "\n")

    # -- from outside -------------------------------------------------------------------------------------------

    async def boot(self) -> None:
        """Switch it on."""
        ours, theirs = os.openpty()
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "sh", "-euc", _START, "sh"]
        command += [str(self._folder), str(self._root), self._network, *map(str, self._cgroup.procs)]
        environment = {"PATH": os.environ["PATH"], "TERM": "vt220"} | hierarchy()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
            )
        finally:
            os.close(theirs)
        self.boots += 1
        self._silent.clear()
        self._init = None
        os.set_blocking(ours, False)
        asyncio.get_running_loop().add_reader(ours, self._read, ours)

    async def halted(self) -> bool:
        """Return when it has ended, and tell whether it wants to boot again."""
        assert self._process is not None
        code = await self._process.wait()
        await self._silent.wait()
        return code == _REBOOT

    def press_power_button(self) -> None:
        """Ask it to shut down, as EC2 does before it ends an instance."""
        leader = self._leader()
        if leader is not None:
            os.kill(leader, signal.SIGRTMIN + 4)  # systemd(1): starts poweroff.target

    def cut_power(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def close(self) -> None:
        """End it if it runs, and remove all that it has on this host."""
        self.cut_power()
        if self._process is not None:
            await self.halted()
        await self._cgroup.remove()
        shutil.rmtree(self._folder)

    async def news(self, wait_s: float) -> None:
        """Return when it writes on its console, or ends, or the time is over."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), wait_s)
        self._news.clear()

    @property
    def silent(self) -> bool:
        """Whether it will write nothing more before it boots again."""
        return self._silent.is_set()

    # -- inside -------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether cloud-init is through with this boot: all scripts of its user data have ended."""
        leader = self._leader()
        # /run is new with each boot.
        return leader is not None and Path(f"/proc/{leader}/root/run/cloud-init/result.json").exists()

    async def run(self, command: str) -> str:
        """What a shell command prints inside, as root.

        Raises:
            CommandFailed: it failed, or the machine does not run.
        """
        leader = self._leader()
        if leader is None:
            raise CommandFailed(f"{self.name} does not run")
        process = await asyncio.create_subprocess_exec(
            *("nsenter", "--target", str(leader), "--all", "--", "/bin/sh", "-c", command),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        said, complained = await process.communicate()
        if process.returncode:
            what = f"{command!r} in {self.name} ended with {process.returncode}"
            raise CommandFailed(f"{what}: {(said + complained).decode(errors='replace')}")
        return said.decode()

    async def kill(self, unit: str, *, sent: str = "KILL", whom: str = "main") -> None:
        """Send a signal to a systemd unit: to its `main` process, or to `all`."""
        await self.run(f"systemctl kill --signal={sent} --kill-whom={whom} {unit}")

    def _leader(self) -> int | None:
        """Its init, as this host counts processes; None if there is none yet."""
        if self._process is None or self._process.returncode is not None:
            return None
        if self._init is None:
            self._init = _init_of(self._process.pid)
        return self._init

    def _read(self, ours: int) -> None:
        try:
            got = os.read(ours, 65_536)
        except BlockingIOError:
            return
        except OSError:  # EIO: nobody holds the other end any more
            got = b""
        self._news.set()
        self.console += got
        if not got:
            asyncio.get_running_loop().remove_reader(ours)
            os.close(ours)
            self._silent.set()


def _init_of(outermost: int) -> int | None:
    """The first process of the machine's own PID namespace, which is within that of systemd-nspawn."""
    parents: dict[int, int] = {}
    inits: list[int] = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            rows = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except (FileNotFoundError, ProcessLookupError):
            continue
        ids = rows["NSpid"].split()
        parents[int(ids[0])] = int(rows["PPid"])
        if len(ids) > 2 and ids[-1] == "1":
            inits.append(int(ids[0]))
    # outermost → first of the namespace → systemd-nspawn → init
    return next((pid for pid in inits if parents.get(parents.get(parents[pid], 0)) == outermost), None)
