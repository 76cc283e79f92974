"""The protocol that all stages share."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress


class Stage(ABC):
    """One step that keys pass through: idempotent work that a runner does again and again.

    A stage may run on two workers at once, may work on old data, and may be killed between any two lines; each stage's
    docstring says why that is harmless. Its constructor gets what it needs (store, target, timings).

    Attributes:
        name: the stage's name in logs and in the worker's health.
        topics: a message for one of these wakes the stage (see `puter_worker.store.wakeups`).
        least_gap_s: the least time between the beginnings of two runs; None: the runner's default.
    """

    name: str
    topics: frozenset[str] = frozenset()
    least_gap_s: float | None = None

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    @abstractmethod
    async def run_once(self) -> float:
        """Do the work that is due; returns the seconds until the next run, if no message wakes the stage sooner."""

    async def drain(self) -> None:
        """Wait until the work that has begun is done; `run_once` is not called any more, so no new work begins."""
        return

    def wake(self) -> None:
        """Make the stage run soon: something was written for it, or a task that it began has ended."""
        self._woken.set()

    async def rest(self, pause_s: float) -> None:
        """Return when the stage is woken, or after the pause."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), pause_s)
        self._woken.clear()


def until_due(due: float | None, now: float, *, at_most: float) -> float:
    """The pause of a stage whose next item is due at `due` (None: there is no item). Pure."""
    return at_most if due is None else min(at_most, max(0.0, due - now))
