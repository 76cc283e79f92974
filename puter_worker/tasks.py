"""Waiting for asyncio tasks, and ending them for good."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any

from puter_worker.timings import Timings


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
