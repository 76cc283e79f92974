"""`puter logs -f`: prints what workloads print until their ends are known, and then what their end frames add."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from puter_client.cli.follow import end_if_interrupted
from puter_client.cli.log_read import MOST_LIVE, Lines, Tell, why_not_by_ssh
from puter_client.cli.log_text import (
    beyond,
    is_over,
    known_bytes,
    last_of,
    part_of,
    record_of_run,
    rest_of,
    why_nothing,
)
from puter_client.cli.machine_log import MachineLog
from puter_client.cli.printer import Printer
from puter_client.cli.session import Served
from puter_client.cli.ssh import NoMachine
from puter_client.cli.terminal import plain
from puter_client.client import PuterClient
from puter_client.config import ClientSettings
from puter_client.contract.errors import WaitTimedOut
from puter_client.contract.output import Output
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_client.ssh_commands import address
from puter_client.view import View, WaitFor

T = TypeVar("T")


class Follow(NamedTuple):
    """What is followed, and how.

    Attributes:
        tags: the tags; none with a batch.
        batch_id: the batch, if it is one that is followed: its tags may come to be known one by one.
        size: number of requests of the batch.
        shown: tags whose output is printed already.
        lines: how many lines from the end are shown at the beginning.
        failed: print only workloads that did not succeed, each at its end.
        alone: it is one machine: its console is shown while it does not answer ssh.
    """

    tags: Sequence[str]
    batch_id: str | None
    size: int | None
    shown: frozenset[str]
    lines: Lines
    failed: bool
    alone: bool


async def follow(
    client: PuterClient,
    settings: ClientSettings,
    what: Follow,
    *,
    printer: Callable[[str], Printer],
    tell: Tell,
) -> int:
    """Follow until the end of every workload is known; returns of how many something was printed.

    `printer`: makes what prints a tag's output. `tell`: called with a tag and what people should know about it.

    Raises:
        StoreUnavailable: Redis does not answer.
        NoWorker: no worker is running any more.
    """
    latest, slots = _Latest(), asyncio.Semaphore(MOST_LIVE)
    followers: dict[str, _Follower] = {}
    try:
        async with asyncio.TaskGroup() as group:

            def changed(views: Sequence[View]) -> None:
                end_if_interrupted()
                latest.update(views)
                for view in views:
                    if view.tag not in what.shown and view.tag not in followers:
                        one = _Follower(client, settings, view.tag, what, latest, slots, printer(view.tag), tell)
                        followers[view.tag] = one
                        group.create_task(one.run())

            await client.wait(
                wait=WaitFor.FINISHED,
                batch_id=what.batch_id,
                tags=what.tags,
                size=what.size,
                on_change=changed,
                meanwhile=Served(client, settings).look,
            )
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return sum(one.has_printed for one in followers.values())


class _Latest:
    """The followed tags as last seen."""

    def __init__(self) -> None:
        self._views: dict[str, View] = {}
        self._changed = asyncio.Event()

    def update(self, views: Sequence[View]) -> None:
        """Note what was seen, and wake whoever waits for a change."""
        self._views = {view.tag: view for view in views}
        self._changed.set()
        self._changed = asyncio.Event()

    def of(self, tag: str) -> View:
        """The tag as last seen."""
        return self._views[tag]

    async def moved_on(self, tag: str, generation: int | None) -> None:
        """Return when the tag's run is over, or (unless None) it is another machine's."""
        while not is_over(view := self.of(tag)):
            if generation is not None and view.record is not None and view.record.generation != generation:
                return
            await self._changed.wait()

    async def changed(self) -> None:
        """Return when something has changed."""
        await self._changed.wait()


class _Follower:
    """Follows one tag.

    Attributes:
        has_printed: whether something of its output is known.
    """

    def __init__(
        self,
        client: PuterClient,
        settings: ClientSettings,
        tag: str,
        what: Follow,
        latest: _Latest,
        slots: asyncio.Semaphore,
        printer: Printer,
        tell: Tell,
    ) -> None:
        self.has_printed = False
        self._client = client
        self._settings = settings
        self._tag = tag
        self._what = what
        self._latest = latest
        self._slots = slots
        self._printer = printer
        self._tell = tell
        self._told = ""
        self._generation: int | None = None
        self._log: MachineLog | None = None
        self._console: tuple[float, str] | None = None

    async def run(self) -> None:
        """Print what comes, then what the end frame adds."""
        while not is_over(view := self._latest.of(self._tag)):
            record = record_of_run(view)
            if record is not None and self._generation not in (None, record.generation):
                await self._begin_again(view, record)
            if self._what.failed:
                await self._latest.changed()
            elif record is None or record.phase not in LIVE:
                await self._wait(view)
            else:
                await self._look(record)
        await self._end(view)
        self._printer.end()

    async def _wait(self, view: View) -> None:
        """Wait for the machine, or for the end that its console tells."""
        self._say_alone(f"{view.phase.value}: {plain(view.reason or 'waiting')}")
        await self._latest.changed()

    async def _look(self, record: Record) -> None:
        """Print the log as long as ssh shows it; where it shows none yet, what is new on the console."""
        self._generation = record.generation
        if record.has_workload and address(record) is not None:
            await self._unless_over(self._over_ssh(record))
        elif record.has_workload:
            self._say_alone("it has no address for ssh yet; its console:")
        else:
            self._say_alone("it has no workload (--run); its console:")
        if self._what.alone and (self._log is None or self._log.at is None):
            await self._unless_over(self._show_console(record))
        await self._unless_over(asyncio.sleep(self._client.timings.follow_again_s))

    async def _begin_again(self, view: View, record: Record) -> None:
        """Print the rest of what the workload's earlier machine has printed, and begin with its next one."""
        earlier = msgspec.structs.replace(view, record=record.replace(generation=self._generation))
        if output := (await self._client.outputs([earlier])).get(self._tag):
            self._print_rest(output)
        self._printer.end()
        ended = f" ({record.attempts[-1].result.value})" if record.attempts else ""
        self._say(f"its workload is run again on another machine{ended}")
        self._generation, self._log, self._console = record.generation, None, None

    async def _over_ssh(self, record: Record) -> None:
        async with self._slots:
            if self._log is None:
                try:
                    self._log = MachineLog(self._settings, record)
                except NoMachine as error:
                    self._say_alone(str(error))
                    return
            ended = await self._log.read(self._write, last=self._what.lines.running, follow=True)
        if self._log.at is not None:
            return  # it has ended, or the connection has: the next turn goes on where this one has stopped
        self._say_alone(f"{why_not_by_ssh(ended.code, ended.said)}; its console:")

    async def _show_console(self, record: Record) -> None:
        """Print what is new on the console since it was last read."""
        at, before = self._console or (None, None)
        try:
            console = await self._client.console(record, after=at)
        except WaitTimedOut as error:
            self._say(str(error))
            return
        if console.problem is not None:
            self._say(f"its console cannot be read: {plain(console.problem)}")
            self._console = (console.read_at, before or "")
            return
        lines = console.text[: console.text.rfind("\n") + 1]  # a line that has not ended is shown when it has
        new = last_of(lines, self._what.lines.running) if not before else beyond(before, lines)
        self._write(new.encode(errors="replace"))
        self._console = (console.read_at, lines)

    async def _unless_over(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What the work comes to; None if the workload's end is known first, or it is run again: the work is ended."""
        working = asyncio.create_task(work)
        over = asyncio.create_task(self._latest.moved_on(self._tag, self._generation))
        try:
            await asyncio.wait({working, over}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            working.cancel()
            over.cancel()
            await asyncio.wait({working, over})

    async def _end(self, view: View) -> None:
        if self._what.failed and not view.has_failed:
            return
        output = (await self._client.outputs([view])).get(self._tag) if record_of_run(view) else None
        if output is None:
            begun = self._log is not None and self._log.at is not None
            self._say(("the rest of its output is not known: " if begun else "") + why_nothing(view))
            return
        self._print_rest(output)
        self._printer.end()
        if self._what.alone or view.has_failed:
            self._say(plain(view.reason or view.state))

    def _print_rest(self, output: Output) -> None:
        """Print what is known of an output and was not printed yet."""
        self.has_printed = True
        if self._log is not None and self._log.at is not None:
            missing, rest = rest_of(output, self._log.at)
            if missing:
                self._say(f"{missing:,} bytes of its output are missing before the next line")
            self._write(rest.encode(errors="replace"))
            return
        self._printer.end()
        if self._console is not None:
            self._say("its output:")
        if (known := known_bytes(output)) < output.total_bytes:
            self._say(part_of(known, output.total_bytes))
        self._write(last_of(output.text, self._what.lines.known).encode(errors="replace"))

    def _write(self, data: bytes) -> None:
        self.has_printed = self.has_printed or bool(data)
        self._printer.write(data)

    def _say_alone(self, text: str) -> None:
        """Tell why nothing is printed now: of one machine; of many it would hide what is printed."""
        if self._what.alone:
            self._say(text)

    def _say(self, text: str) -> None:
        """Tell what is not told already."""
        if text != self._told:
            self._told = text
            self._tell(self._tag, text)
