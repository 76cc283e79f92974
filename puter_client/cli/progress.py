"""The progress of a wait: a live line or bar on a terminal, else a line when something has changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from puter_client.cli.table import counted
from puter_client.cli.terminal import live, plain, say
from puter_client.cli.when import rough_duration
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings
from puter_client.view import View, WaitFor, WaitState

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

WIDEST_BAR = 20


class Progress:
    """Shows views as they change; use it as a context manager."""

    def __init__(self, wait: WaitFor, timings: ClientTimings = DEFAULT_TIMINGS) -> None:
        self._wait = wait
        self._timings = timings
        self._began = time.monotonic()
        self._bar: Bar | None = None
        self._task: Any = None
        self._told = ""
        self._told_at = self._began  # a wait that ends at once needs no line
        self._drawn_at = float("-inf")
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
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
        text = f"{view.tag}: {view.phase.value}"
        if view.reason:
            text += f" - {plain(view.reason)}"
        if live.possible:
            live.show(f"{text} ({rough_duration(time.monotonic() - self._began)})")
        else:
            self._plain(text)

    def _many(self, views: Sequence[View]) -> None:
        waiting = [view for view in views if view.wait_state(self._wait) is WaitState.WAITING]
        done, phases = len(views) - len(waiting), counted(views)
        if reason := common_reason(waiting):
            phases = f"{phases} - {plain(reason)}"
        if not live.possible:
            self._plain(f"{done:,} of {len(views):,} {self._wait.value}: {phases}")
            return
        if self._bar is None:
            from rich.console import Console

            self._bar = bar_on(Console(stderr=True))
            self._task = self._bar.add_task("", total=len(views), count="", phases="")
        total = f"{len(views):,}"
        self._bar.update(
            self._task,
            completed=done,
            total=len(views),
            count=f"{done:,}".rjust(len(total)) + f"/{total}",
            phases=phases,
        )
        self._bar.start()  # does nothing if it has started

    def _plain(self, text: str) -> None:
        if text != self._told:
            say(text)
            self._told, self._told_at = text, time.monotonic()


def common_reason(waiting: Sequence[View]) -> str | None:
    """The reason for which all of these wait; None if they have several. An estimate of one of them is left out."""
    reasons = {view.record.reason if view.record and view.estimate else view.reason for view in waiting}
    return reasons.pop() if len(reasons) == 1 else None


def bar_on(console: Console) -> Bar:
    """A bar with count and time, which are never cut, and as much of the task's `phases` as there is room for."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress
    from rich.table import Column

    return RichProgress(
        BarColumn(bar_width=min(WIDEST_BAR, console.width // 4)),
        TextColumn("{task.fields[count]}", style="progress.download", markup=False, table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        # Only the phases are cut, at their end: they get the room that is left.
        TextColumn(
            "{task.fields[phases]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=console,
        transient=True,
        expand=True,
    )
