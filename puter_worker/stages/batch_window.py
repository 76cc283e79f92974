"""A batch window: how long the first of several items waits for others that share its call. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class BatchWindow(msgspec.Struct, frozen=True):
    """When items that come one by one are sent together.

    Attributes:
        idle_s: they are sent when no item came for this long,
        longest_s: at the latest this long after the first item,
        most: and at once when there are this many.
    """

    idle_s: float
    longest_s: float
    most: int

    def wait_s(self, times: Iterable[float], now: float) -> float:
        """Seconds until items that came at these times are sent; 0: now."""
        came = sorted(times)
        if not came or len(came) >= self.most:
            return 0.0
        return max(0.0, min(came[0] + self.longest_s, came[-1] + self.idle_s) - now)

    def without_idle(self) -> BatchWindow:
        """The window for items of which more are known to come: a pause between two items does not end it."""
        return msgspec.structs.replace(self, idle_s=self.longest_s)
