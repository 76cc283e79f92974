"""Waiting for something that nothing announces: a released lock, a written file, an ended process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def poll(condition: Callable[[], bool], within_s: float, every_s: float) -> bool:
    """Whether the condition came true within `within_s`, checked every `every_s`; other tasks run meanwhile."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        await asyncio.sleep(every_s)
    return True
