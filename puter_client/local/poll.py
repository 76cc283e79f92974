"""Waiting for something that tells nobody when it comes: a lock let go, a file written, a process ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# Short beside what is waited for (a server starts in about 20 ms), and no load for a host.
INTERVAL_S = 0.02


async def poll(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether the condition came true within so many seconds; the event loop goes on meanwhile."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(INTERVAL_S)
    return True
