"""What is known now of workloads' outputs: by end frames, of machines that live by ssh, else by the console."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from puter_client.cli.log_text import is_over, known_bytes, last_of, record_of_run
from puter_client.cli.machine_log import NOT_BEGUN, MachineLog
from puter_client.cli.ssh import NoMachine
from puter_client.cli.terminal import plain
from puter_client.config import ClientSettings
from puter_client.contract.errors import NoWorker, PuterError
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_client.ssh_commands import address
from puter_client.view import View

if TYPE_CHECKING:
    from puter_client.client import PuterClient

RUNNING_LINES = 100
MOST_LIVE = 20  # connections by ssh at the same time
Tell = Callable[[str, str], None]
"""Called with a tag, and with what people should know about it."""


class NoOutput(PuterError):
    """Nothing is known of what a workload has printed."""

    code: ClassVar[str] = "NoOutput"


class Lines(NamedTuple):
    """How many lines from the end are shown; None is all.

    Attributes:
        known: of what is known of a workload that has ended.
        running: of a log or console of a machine that lives.
    """

    known: int | None = None
    running: int | None = RUNNING_LINES


class Found(NamedTuple):
    """Where a workload's output was found.

    Attributes:
        source: `end` (its end frame), `ssh` or `console`.
        known_bytes: how much of what it has printed is known; of a console, which shows other things, None.
        total_bytes: how much it has printed in all; None of a console.
    """

    source: str
    known_bytes: int | None = None
    total_bytes: int | None = None

    @property
    def is_part(self) -> bool:
        """Whether more was printed than is known."""
        return self.known_bytes is not None and self.total_bytes is not None and self.known_bytes < self.total_bytes


async def by_end(client: PuterClient, views: Sequence[View], lines: Lines) -> dict[str, tuple[Found, str]]:
    """What is known of workloads that have ended, by tag, with as few reads as possible."""
    outputs = await client.outputs([view for view in views if is_over(view) and record_of_run(view)])
    return {
        tag: (Found("end", known_bytes(output), output.total_bytes), last_of(output.text, lines.known))
        for tag, output in outputs.items()
    }


async def by_ssh(
    settings: ClientSettings, record: Record, lines: Lines, write: Callable[[bytes], None], tell: Tell
) -> Found | None:
    """Read the log of a machine that lives, by ssh; None, and why is told, if that is not possible."""
    tag = record.tag
    if not record.has_workload:
        tell(tag, "it has no workload (--run)")
        return None
    if address(record) is None:
        tell(tag, "it has no address for ssh")
        return None
    try:
        log = MachineLog(settings, record)
    except NoMachine as error:
        tell(tag, str(error))
        return None
    ended = await log.read(write, last=lines.running, follow=False)
    if log.at is None:
        tell(tag, why_not_by_ssh(ended.code, ended.said))
        return None
    if log.begins_at and lines == Lines():
        tell(tag, f"the last {RUNNING_LINES} lines; --tail all prints everything")
    elif log.at == 0:
        tell(tag, "it has printed nothing yet")
    return Found("ssh", log.at - log.begins_at, log.at)


def why_not_by_ssh(code: int, said: str) -> str:
    """Why a log was not read, by the exit code of ssh and the last line that it said. Pure."""
    if code == NOT_BEGUN:
        return "its workload has not begun yet"
    return f"it does not answer ssh ({said})" if said else "it does not answer ssh"


async def each_by_ssh(
    settings: ClientSettings, views: Sequence[View], lines: Lines, tell: Tell
) -> dict[str, tuple[Found, bytes]]:
    """What the logs of living machines hold, by tag; of those that were not read, why is told."""
    records = [record for view in views if not is_over(view) and (record := record_of_run(view))]
    alive = [record for record in records if record.phase in LIVE]

    async def read(record: Record) -> tuple[str, Found | None, bytes]:
        data = bytearray()
        return record.tag, await by_ssh(settings, record, lines, data.extend, tell), bytes(data)

    for record in alive[MOST_LIVE:]:
        tell(record.tag, f"it runs; at most {MOST_LIVE} machines are asked at once: name it alone")
    reads = await asyncio.gather(*map(read, alive[:MOST_LIVE]))
    return {tag: (found, data) for tag, found, data in reads if found is not None}


async def by_console(
    client: PuterClient, settings: ClientSettings, record: Record, lines: Lines, tell: Tell
) -> tuple[Found, str]:
    """What the console of a machine that lives shows.

    Raises:
        NoOutput: it cannot be read.
        NoWorker: there is no worker that could read it.
        WaitTimedOut: no worker has read it in time.
    """
    from puter_client.cli.session import why_no_worker

    if no_worker := await why_no_worker(client, settings, within_s=client.timings.worker_tells_within_s):
        raise NoWorker(no_worker)
    console = await client.console(record)
    if console.problem is not None:
        raise NoOutput(f"{record.tag}: its console cannot be read: {plain(console.problem)}")
    if not console.text.strip():
        tell(record.tag, "its console is empty so far")
    return Found("console"), last_of(console.text, lines.running)
