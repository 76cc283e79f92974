"""What EC2 does not show, although it was launched: when that means that it is gone."""

from __future__ import annotations

from puter_worker.clock import Clock

# Of what was missed no more for so long, nothing is remembered.
_REMEMBERED_S = 3_600.0
_PRUNE_S = 60.0


class Absences:
    """Counts the looks that did not show something.

    EC2 may miss for seconds what exists, show it and miss it again, and gives no bound. So absence is concluded from
    several looks in a row over a stretch of time, measured in this process on a clock that nobody sets. A worker that
    begins anew counts anew: it only concludes later.
    """

    def __init__(self, clock: Clock, *, over_s: float) -> None:
        """`over_s`: the shortest stretch of time over which something must have been missed."""
        self._clock = clock
        self._over_s = over_s
        self._pruned_at = clock.monotonic()
        self._missed: dict[str, tuple[float, float, int]] = {}  # the first look, the latest one, how many

    def knows(self, name: str) -> bool:
        """Whether a look has missed it."""
        return name in self._missed

    def asked(self) -> float:
        """When a look begins, for `missed`: by the time of its answer this process may have stood still."""
        return self._clock.monotonic()

    def missed(self, name: str, *, looks: int, asked_at: float) -> bool:
        """Note a look that did not show it; whether now so many looks, over long enough, say that it is gone."""
        now = self._clock.monotonic()
        if now - self._pruned_at > _PRUNE_S:
            self._pruned_at = now
            self._missed = {one: seen for one, seen in self._missed.items() if now - seen[1] < _REMEMBERED_S}
        first, _, count = self._missed.get(name, (now, now, 0))
        self._missed[name] = (first, now, count + 1)
        return count + 1 >= looks and asked_at - first >= self._over_s

    def shown(self, name: str) -> None:
        """EC2 shows it, or it is of no interest any more."""
        self._missed.pop(name, None)
