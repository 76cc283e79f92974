"""restart: runs the job of a key again if no stage has moved the key in time.

May run twice, and on stale data: it is always safe to run a job once more.
"""

from __future__ import annotations

import structlog

from puter_worker.stages.stage import Stage, until_due
from puter_worker.store import wakeups
from puter_worker.store.store import Store
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.worker")


class Restart(Stage):
    """Restarts keys that are due. A key that begins now is not due before `restart_s`, so the stage sleeps as long."""

    name = "restart"
    topics = frozenset({wakeups.MOVING})
    least_gap_s = 0.1

    def __init__(self, store: Store, timings: Timings) -> None:
        super().__init__()
        self._store = store
        self._timings = timings

    async def run_once(self) -> float:
        """Enqueue the keys that are due."""
        stuck = await self._store.restarts.restart()
        if stuck:
            _log.debug("keys.restarted", count=len(stuck))
        due = await self._store.restarts.next_due()
        return until_due(due, self._store.now(), at_most=self._timings.restart_s)
