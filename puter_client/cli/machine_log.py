"""The log of a workload on its machine, read over ssh."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import NamedTuple

from puter_client.cli.ssh import host_of, known_hosts, ssh_program
from puter_client.cli.terminal import plain
from puter_client.config import ClientSettings
from puter_client.contract.record import Record
from puter_client.ssh_commands import ssh_user

LOG = "/var/log/puter/workload.log"  # written by the agent; its owner is the machine's user
NOT_BEGUN = 3
BEGINS_WITHIN_S = 10  # how long one connection waits for a log to be followed; then its machine's console is shown
SSH_FAILED = 255  # ssh's own exit code where it does not reach the machine, or loses it
NOT_INSTALLED = 127
_FOR_A_PROGRAM = {
    "BatchMode": "yes",  # ask for nothing
    "ConnectTimeout": "5",
    "ServerAliveInterval": "10",  # a machine that has gone says nothing
    "ServerAliveCountMax": "3",
    "ControlPath": "none",  # a connection that other commands share would outlive this one, and hold its streams
    "LogLevel": "ERROR",
}
_MARK = re.compile(rb"puter-log-at ([0-9]{1,15})")
_CHUNK = 65_536
_MOST_SAID = 2_000


class LogRead(NamedTuple):
    """How the reading of a log has ended.

    Attributes:
        code: 0, NOT_BEGUN, or the exit code of ssh.
        said: the last line that ssh said, safe to print; "" if it said nothing.
    """

    code: int
    said: str = ""


class MachineLog:
    """One machine's log, read as far as it has got.

    Attributes:
        at: how many bytes of the log are read or passed over; None until the machine has answered.
        begins_at: the place in the log at which the first reading began.
    """

    def __init__(self, settings: ClientSettings, record: Record) -> None:
        """`record`: of a machine with an address.

        Raises:
            NoMachine: ssh cannot use its address.
        """
        options = [word for name, value in _FOR_A_PROGRAM.items() for word in ("-o", f"{name}={value}")]
        target = f"{ssh_user(record)}@{host_of(record)}"
        self._command = [*ssh_program(record, known_hosts(settings)), *options, "-T", target, "--"]
        self.at: int | None = None
        self.begins_at = 0

    async def read(self, write: Callable[[bytes], None], *, last: int | None, follow: bool) -> LogRead:
        """Read the log, or go on where the last reading has ended; `write` gets its bytes as they come.

        Args:
            write: called with the next bytes.
            last: begin with so many lines from the log's end; None begins at its beginning.
            follow: go on until ssh ends or the task is cancelled.
        """
        words = script(last=last, after=self.at, follow=follow)
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command, words, stdin=asyncio.subprocess.DEVNULL, stdout=pipe, stderr=pipe
            )
        except FileNotFoundError:
            return LogRead(NOT_INSTALLED, "ssh is not installed on this computer")
        saying = asyncio.create_task(_last_said(process.stderr))
        try:
            await self._take(process.stdout, write)
            return LogRead(await process.wait(), await saying)
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            saying.cancel()

    async def _take(self, stream: asyncio.StreamReader | None, write: Callable[[bytes], None]) -> None:
        begun: bytes | None = b""  # what comes before the mark is of the machine's shell; then None
        while stream is not None and (data := await stream.read(_CHUNK)):
            if begun is not None:
                begun += data
                found = _MARK.search(begun)
                if found is None or begun.find(b"\n", found.end()) < 0:
                    begun = begun[-_CHUNK:]
                    continue
                at = int(found[1])
                self.begins_at = at if self.at is None else self.begins_at
                self.at = at
                data, begun = begun[begun.index(b"\n", found.end()) + 1 :], None
            self.at = (self.at or 0) + len(data)
            write(data)


def script(*, last: int | None, after: int | None, follow: bool) -> str:
    """What a machine's shell does: say where it begins, then print the log from there. Pure.

    `after`: begin behind so many bytes; it outdoes `last`, a number of lines.
    """
    wait = f"n=0; until [ -r $f ] || [ $n -ge {BEGINS_WITHIN_S} ]; do sleep 1; n=$((n+1)); done; " if follow else ""
    if after is not None:
        begin = f"a={after}"
    elif last is None:
        begin = "a=0"
    else:
        begin = f"s=$(stat -c %s $f); a=$((s-$(head -c $s $f | tail -n {last} | wc -c)))"
    return (
        f"f={LOG}; {wait}[ -r $f ] || exit {NOT_BEGUN}; {begin}; echo puter-log-at $a; "
        f"exec tail -c +$((a+1)) {'-F ' if follow else ''}$f"
    )


async def _last_said(stream: asyncio.StreamReader | None) -> str:
    """The last line of a stream, safe to print."""
    kept = b""
    while stream is not None and (data := await stream.read(_CHUNK)):
        kept = (kept + data)[-_MOST_SAID:]
    lines = [line for line in kept.decode(errors="replace").splitlines() if line.strip()]
    return plain(lines[-1]) if lines else ""
