"""asyncio tasks: their turns, waiting for them, and ending them for good."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from typing import Any, TypeVar

from puter_worker.timings import Timings

T = TypeVar("T")
SLICE = 50


async def in_slices(items: Iterable[T]) -> AsyncIterator[T]:
    """The items; after every SLICE of them other tasks have their turn, as work on many takes long."""
    for number, item in enumerate(items, start=1):
        yield item
        if number % SLICE == 0:
            await asyncio.sleep(0)


async def cancel_all(tasks: Iterable[asyncio.Task[Any]], *, again_s: float = Timings().cancel_again_s) -> None:
    """Cancel tasks again and again until they have ended.

    One cancellation is not enough: redis-py sends its commands inside asyncio.wait_for and asyncio.timeout, which
    before Python 3.12 may mistake it for their own and swallow it.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=again_s)


async def wait_for_all(work: Iterable[Awaitable[None]]) -> None:
    """Wait until all have ended, then raise the first error: one that fails leaves none of the others unattended."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
