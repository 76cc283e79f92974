"""announce: publishes that this worker runs, and the health of its stages. Repeating it is harmless."""

from __future__ import annotations

from collections.abc import Callable

from puter_client.contract.health import StageHealth, WorkerHealth
from puter_worker import __version__
from puter_worker.settings import WorkerSettings
from puter_worker.stages.stage import Stage
from puter_worker.store.store import Store
from puter_worker.target import Targets
from puter_worker.timings import Timings


class Announce(Stage):
    """Announces one worker, with its health."""

    name = "announce"

    def __init__(
        self,
        store: Store,
        targets: Targets,
        settings: WorkerSettings,
        timings: Timings,
        *,
        stages: Callable[[], tuple[StageHealth, ...]],
    ) -> None:
        """`stages`: returns the health of the worker's stages."""
        super().__init__()
        self._store = store
        self._targets = targets
        self._settings = settings
        self._timings = timings
        self._stages = stages
        self._started_at: float | None = None
        self._draining = False

    async def run_once(self) -> float:
        """Announce the worker once."""
        await self._store.db.sync_clock()
        now = self._store.now()
        self._started_at = self._started_at or now
        await self._store.workers.announce(
            WorkerHealth(
                worker_id=self._settings.worker_id,
                host=self._settings.host,
                pid=int(self._settings.worker_id.split(":")[1]),
                version=__version__,
                started_at=self._started_at,
                seen_at=now,
                profiles=tuple(self._targets.sessions.offered_profiles()),
                draining=self._draining,
                stages=self._stages(),
            )
        )
        return self._timings.health_s

    async def announce_draining(self) -> None:
        """Announce that the worker takes nothing new."""
        self._draining = True
        await self.run_once()
