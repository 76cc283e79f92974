"""announce: publishes that this worker runs, and the health of its stages. Repeating it is harmless.

A Redis that was emptied has forgotten who is there. So it also looks whether the worker is still announced: every two
seconds, and soon after a client has asked for something.
"""

from __future__ import annotations

from collections.abc import Callable

from puter_client.contract.health import OwnHealth, StageHealth, WorkerHealth
from puter_worker import __version__
from puter_worker.settings import WorkerSettings
from puter_worker.stages.stage import Stage
from puter_worker.store import wakeups
from puter_worker.store.store import Store
from puter_worker.target import TargetId
from puter_worker.targets import Targets
from puter_worker.timings import Timings

_COLONS = 2  # in the name of a target


def profile_of(stage: StageHealth) -> str | None:
    """The AWS profile of the target that a stage is about; None: none by name. Pure."""
    target = stage.name.partition(" ")[2]
    return TargetId.parse(target).profile or None if target.count(":") >= _COLONS else None


class Announce(Stage):
    """Announces one worker, with its health."""

    name = "announce"
    topics = frozenset({wakeups.REQUESTS})
    least_gap_s = 0.25  # a client may publish without end

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
        self._due_at = 0.0

    async def run_once(self) -> float:
        """Announce the worker if it is time to, or if it is not announced any more."""
        left_s = self._due_at - self._store.db.clock.monotonic()
        if left_s <= 0 or not await self._store.workers.is_announced(self._settings.worker_id):
            await self._announce()
            left_s = self._timings.health_s
        return min(left_s, self._timings.health_look_s)

    async def _announce(self) -> None:
        await self._store.db.sync_clock()
        now = self._store.now()
        self._started_at = self._started_at or now
        offered, stages, failing = self._targets.offered(), self._stages(), self._targets.failing.now(now)
        public = self._targets.rules.public_profiles(offered)
        await self._store.workers.announce(
            WorkerHealth(
                worker_id=self._settings.worker_id,
                host=self._settings.host,
                pid=int(self._settings.worker_id.split(":")[1]),
                version=__version__,
                started_at=self._started_at,
                seen_at=now,
                profiles=public,
                draining=self._draining,
                stages=tuple(one for one in stages if (of := profile_of(one)) is None or of in public),
                credentials=tuple(one for one in failing if not one.profile or one.profile in public),
            ),
            offered=offered,
            own={
                namespace: OwnHealth(
                    profiles=profiles,
                    stages=tuple(one for one in stages if profile_of(one) in profiles),
                    credentials=tuple(one for one in failing if one.profile in profiles),
                )
                for namespace, profiles in self._targets.rules.own_profiles(offered).items()
            },
        )
        self._due_at = self._store.db.clock.monotonic() + self._timings.health_s

    async def announce_draining(self) -> None:
        """Announce that the worker takes nothing new."""
        self._draining = True
        await self._announce()
