"""The three clocks of a worker: Redis's clock, this host's clock, and one that nobody sets.

All times that are stored, or compared between workers, are Redis TIME. Between two measurements it is counted on a
clock that nobody sets: NTP, or a user who sets this host's clock, moves nothing. Where Redis's own clock is set, times
that were stored before mean something else. `age` then counts no more than what has passed since, so nobody concludes
from a step that something is old; `store.due_items` finds what a clock that was set back has put off.
"""

from __future__ import annotations

import time

# The error is up to half of the round trip: a slower answer is too inaccurate.
SURE_WITHIN_S = 1.0
# A larger difference between two measurements is a clock that was set: clocks drift by less than 1 ms a second.
STEP_S = 2.0
# Goes on while a laptop sleeps. Linux's CLOCK_MONOTONIC does not; that of macOS, which has no CLOCK_BOOTTIME, does.
_UPTIME: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock:
    """The clocks of one process."""

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._is_sure = False
        self._stepped_at: float | None = None
        self._began_with_s = time.time() - time.clock_gettime(_UPTIME)

    def now(self) -> float:
        """Redis TIME, accurate to milliseconds, without a round trip; seconds since 1970."""
        return self.monotonic() + (self._began_with_s if self._offset_s is None else self._offset_s)

    def host_now(self) -> float:
        """This host's own clock, for what must survive a loss of Redis's data; seconds since 1970."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since this host was started: this clock is never set, and goes on while the host sleeps."""
        return time.clock_gettime(_UPTIME)

    def age(self, at: float) -> float:
        """How many seconds have surely passed since a moment of Redis TIME; 0 for one that is to come.

        After Redis's clock was set: at most what has passed since this process noticed it.
        """
        passed_s = max(0.0, self.now() - at)
        return passed_s if self._stepped_at is None else min(passed_s, self.monotonic() - self._stepped_at)

    def was_set_within(self, for_s: float) -> bool:
        """Whether this process has noticed within so many seconds that Redis's clock was set."""
        return self._stepped_at is not None and self.monotonic() - self._stepped_at < for_s

    @property
    def is_sure(self) -> bool:
        """Whether Redis has told its time, and not too slowly."""
        return self._is_sure

    def learn(self, redis_time: float, *, sent_at: float, answered_at: float) -> float | None:
        """Use the answer of a TIME command that was sent and answered at these times of `monotonic`.

        An answer that is too slow is better than none, and no more.

        Returns by how many seconds Redis's clock was set since the last measurement; None: it was not, or nobody knows.
        """
        is_sure = answered_at - sent_at < SURE_WITHIN_S
        if self._is_sure and not is_sure:
            return None
        before, self._offset_s = self._offset_s, redis_time - (sent_at + answered_at) / 2
        was_sure, self._is_sure = self._is_sure, is_sure
        if before is None or not was_sure or abs(self._offset_s - before) < STEP_S:
            return None
        self._stepped_at = self.monotonic()
        return self._offset_s - before
