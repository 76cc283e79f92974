"""A time limit for answers that counts the time in which this process could have read them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

PARTS = 4


@asynccontextmanager
async def answer_limit(seconds: float) -> AsyncIterator[None]:
    """End what is inside with TimeoutError after so many seconds, of which a pause takes half at most.

    A process that was suspended (Ctrl-Z), or whose computer had no time for it, finds all its timers due as soon as it
    goes on, although the answer may have come long ago.

    Raises:
        TimeoutError: the time is up.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        parts = _Parts(loop, seconds / PARTS, over=lambda: limit.reschedule(loop.time()))
        try:
            yield
        finally:
            parts.cancel()


class _Parts:
    """Counts the time in parts.

    A part that took longer than two counts as two. If such a part would use up the rest, one more part is given, but
    only once: a process that stands still again and again does not wait for ever.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, part_s: float, over: Callable[[], None]) -> None:
        self._loop = loop
        self._part_s = part_s
        self._over = over
        self._left_s = PARTS * part_s
        self._has_grace = True
        self._begin()

    def _begin(self) -> None:
        self._began = self._loop.time()
        self._timer = self._loop.call_later(min(self._part_s, self._left_s), self._end)

    def _end(self) -> None:
        took_s, most_s = self._loop.time() - self._began, 2 * self._part_s
        self._left_s -= min(took_s, most_s)
        if self._left_s <= 0 and took_s >= most_s and self._has_grace:
            self._left_s, self._has_grace = self._part_s, False
        if self._left_s > 0:
            self._begin()
        else:
            self._over()

    def cancel(self) -> None:
        """Count no further."""
        self._timer.cancel()
