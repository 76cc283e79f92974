"""The three clocks of a worker: Redis's clock, this host's clock, and one that is never set back.

All times that are stored, or compared between workers, are Redis TIME. A test gives stages a clock of its own.
"""

from __future__ import annotations

import time

# The error is up to half of the round trip: a slower answer is too inaccurate.
SURE_WITHIN_S = 1.0


class Clock:
    """The clocks of one process."""

    def __init__(self) -> None:
        self._offset_s: float | None = None

    def now(self) -> float:
        """Redis TIME, accurate to milliseconds, without a round trip; seconds since 1970."""
        return time.time() + (self._offset_s or 0.0)

    def host_now(self) -> float:
        """This host's own clock, for what must survive a loss of Redis's data; seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since an arbitrary moment; this clock is never set back."""
        return time.monotonic()

    def learn(self, redis_time: float, *, sent_at: float, answered_at: float) -> None:
        """Use the answer of a TIME command that was sent and answered at these times of this host's clock."""
        if answered_at - sent_at < SURE_WITHIN_S or self._offset_s is None:
            self._offset_s = redis_time - (sent_at + answered_at) / 2
