"""A table that is drawn over the one before, on all of a terminal."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

from puter_client.cli.terminal import DEFAULT_COLUMNS, DEFAULT_LINES, Row, Size, cells, printed, size

HOME, ERASE_TO_THE_END_OF_THE_LINE, ERASE_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """Standard output, if it is a terminal whose cursor can be moved."""

    def __init__(self) -> None:
        self._picture: Callable[[Size], Sequence[Row]] = lambda _: ()

    @property
    def possible(self) -> bool:
        """Whether there is a terminal to draw on."""
        return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"

    def draw(self, picture: Callable[[Size], Sequence[Row]]) -> None:
        """Draw rows that fit into the size which `picture` is given."""
        self._picture = picture
        self.redraw()

    def redraw(self) -> None:
        """Draw the same in the size that the terminal has now."""
        whole = size() or Size(DEFAULT_COLUMNS, DEFAULT_LINES)
        rows = self._picture(Size(whole.columns, whole.lines - 1))  # the cursor stands below
        # Nothing is erased before it is written anew, so this does not flicker.
        drawn = "".join(f"{printed(row)}{_rest(row, whole.columns)}\n" for row in rows)
        sys.stdout.write(f"{HOME}{drawn}{ERASE_BELOW}")
        sys.stdout.flush()


def _rest(row: Row, width: int) -> str:
    """What erases the rest of a row's line; where there is none, it would erase the last character."""
    return ERASE_TO_THE_END_OF_THE_LINE if cells(row.text) < width else ""


@contextmanager
def resizes() -> Iterator[Callable[[float], Awaitable[bool]]]:
    """A function that waits until the terminal is resized, at most so many seconds; whether it was."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()

    async def resized(within_s: float) -> bool:
        try:
            async with asyncio.timeout(within_s):
                await event.wait()
        except TimeoutError:
            return False
        event.clear()
        return True

    loop.add_signal_handler(signal.SIGWINCH, event.set)
    try:
        yield resized
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
