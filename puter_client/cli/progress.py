"""The progress of a wait: a live message or overview on a terminal, else a line when something has changed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from puter_client.cli.groups import Group, counted, grouped, why_waiting
from puter_client.cli.overview import overview
from puter_client.cli.terminal import Row, Size, live, plain, say
from puter_client.cli.when import rough_duration
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings
from puter_client.view import View, WaitFor, WaitState

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.live import Live
    from rich.progress import Progress as Bar
    from rich.text import Text

WIDEST_BAR = 20
DRAWN_A_SECOND = 2
_BESIDE_THE_OVERVIEW = 2  # lines: the bar, and the one of the cursor


class Progress:
    """Shows views as they change; use it as a context manager."""

    def __init__(self, wait: WaitFor, timings: ClientTimings = DEFAULT_TIMINGS) -> None:
        self._wait = wait
        self._timings = timings
        self._began = time.monotonic()
        self._board: Board | None = None
        self._told = ""
        self._told_at = self._began  # a wait that ends at once needs no line
        self._drawn_at = float("-inf")
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.stop()
        live.clear()

    def update(self, views: Sequence[View]) -> None:
        """Show the present state. A closed terminal must not end the wait."""
        if self._broken or not views or not self._due():
            return
        try:
            if len(views) == 1:
                self._one(views[0])
            else:
                self._many(views)
        except OSError:
            self._broken = True

    def _due(self) -> bool:
        now = time.monotonic()
        if not live.possible:
            return now - self._told_at >= self._timings.progress_line_s
        if now - self._drawn_at < self._timings.progress_draw_s:
            return False
        self._drawn_at = now
        return True

    def _one(self, view: View) -> None:
        text = f"{view.tag}: {view.state}"
        if view.reason:
            text += f" - {plain(view.reason)}"
        if live.possible:
            live.show(f"{text} ({rough_duration(time.monotonic() - self._began)})")
        else:
            self._plain(text)

    def _many(self, views: Sequence[View]) -> None:
        done = sum(view.wait_state(self._wait) is not WaitState.WAITING for view in views)
        if not live.possible:
            self._plain(f"{done:,} of {len(views):,} {self._wait.value}: {counted(views)}{shared_reason(views)}")
            return
        if self._board is None:
            self._board = Board(self._wait)
        self._board.show(views, done)

    def _plain(self, text: str) -> None:
        if text != self._told:
            say(text)
            self._told, self._told_at = text, time.monotonic()


def shared_reason(views: Sequence[View]) -> str:
    """The reason for which most of those wait that wait, as the end of a line; empty if none waits."""
    waiting = grouped(views).get(Group.WAITING, [])
    if not waiting:
        return ""
    reason, alike = why_waiting(waiting)[0]
    return f" - {'' if len(alike) == len(waiting) else f'{len(alike):,} '}{plain(reason)}"


class Board:
    """A bar and the overview of what is waited for, which stand on the terminal and change."""

    def __init__(self, wait: WaitFor) -> None:
        from rich.console import Console, Group
        from rich.live import Live

        console = Console(stderr=True)
        self._bar = bar_on(console)
        self._task: Any = self._bar.add_task("", total=None, count="", goal=wait.value)
        self._picture = Picture()
        self._live: Live = Live(
            Group(self._bar, self._picture),
            console=console,
            refresh_per_second=DRAWN_A_SECOND,
            transient=True,
            redirect_stdout=False,
            vertical_overflow="crop",
        )

    def show(self, views: Sequence[View], done: int) -> None:
        """Show these views from now on; so many of them have reached what is waited for, or cannot."""
        total = f"{len(views):,}"
        count = f"{done:,}".rjust(len(total)) + f"/{total}"
        self._bar.update(self._task, completed=done, total=len(views), count=count)
        self._picture.views = views
        self._live.start()  # does nothing if it has started

    def stop(self) -> None:
        """Take everything off the terminal."""
        self._live.stop()


class Picture:
    """The overview, as rich draws it: anew for each size of the terminal.

    Attributes:
        views: what it shows.
    """

    def __init__(self) -> None:
        self.views: Sequence[View] = ()
        self._drawn: tuple[Sequence[View], Size, list[Row]] | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        """The rows that fit on the terminal now."""
        from rich.text import Text

        views, size = self.views, Size(options.max_width, console.height - _BESIDE_THE_OVERVIEW)
        if self._drawn is None or self._drawn[0] is not views or self._drawn[1] != size:
            self._drawn = (views, size, overview(views, time.time(), size))
        for row in self._drawn[2]:
            yield Text.assemble(plain(row.head), (plain(row.tail), row.style or ""), no_wrap=True, overflow="crop")


def bar_on(console: Console) -> Bar:
    """A bar with count and time, and what is waited for."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    return RichProgress(
        BarColumn(bar_width=min(WIDEST_BAR, console.width // 4)),
        TextColumn("{task.fields[count]}", style="progress.download", markup=False, table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[goal]}", markup=False, table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        console=console,
        auto_refresh=False,
    )
