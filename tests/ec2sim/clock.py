"""The simulator's time: real by default, by hand in unit tests, and always possible to move forwards."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds since 1970, never going back."""

    def now(self) -> float:
        """The time."""
        ...

    def advance(self, seconds: float) -> None:
        """Moves the time forwards at once."""
        ...


class RealClock:
    """The machine's time plus what was skipped; what an hour fades can so be seen in a moment."""

    def __init__(self) -> None:
        # Monotonic beneath, so that a step of the machine's clock does not empty a bucket.
        self._offset = time.time() - time.monotonic()

    def now(self) -> float:
        return time.monotonic() + self._offset

    def advance(self, seconds: float) -> None:
        self._offset += seconds


class ManualClock:
    """Stands still until it is moved."""

    def __init__(self, start: float = 1_800_000_000.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds
