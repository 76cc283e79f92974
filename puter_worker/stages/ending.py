"""Stages of a worker that ends by itself: with `--burst` when no work is left, or in a local engine when it is idle."""

from __future__ import annotations

import os
from collections.abc import Callable

import structlog

from puter_client.local.idle import exit_if_unused
from puter_client.paths import Paths
from puter_worker.clock import Clock
from puter_worker.settings import WorkerSettings
from puter_worker.stages.stage import Stage
from puter_worker.store.store import Store
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.worker")
BURST_LOOKS = 3


class EndWhenDone(Stage):
    """Ends a worker when no work is left. What it reads may be old: work that it misses is left to another worker."""

    name = "burst"

    def __init__(self, store: Store, timings: Timings, *, stop: Callable[[], None]) -> None:
        super().__init__()
        self._store = store
        self._timings = timings
        self._stop = stop

    async def run_once(self) -> float:
        """Check several times in a row whether any work is left: a key may be between two stages."""
        for _ in range(BURST_LOOKS):
            if await self._store.activity.unfinished() or await self._store.activity.any_starting():
                return self._timings.burst_look_s
        self._stop()
        return self._timings.burst_look_s


class EndWhenIdle(Stage):
    """Ends the local engine when, for a long time, no machine was alive, no key was on its way, and nobody used it.

    `puter_client.local.idle.exit_if_unused` checks once more, and says why no request is left behind.
    """

    name = "idle"

    def __init__(
        self, store: Store, settings: WorkerSettings, *, clock: Clock, timings: Timings, stop: Callable[[], None]
    ) -> None:
        super().__init__()
        self._store = store
        self._settings = settings
        self._clock = clock
        self._timings = timings
        self._stop = stop
        self._idle_since: float | None = None
        self._alone_since: float | None = None

    async def run_once(self) -> float:
        """Check whether the engine is used, and end it if it has not been used for long enough."""
        now = self._clock.monotonic()
        try:
            used = await self._store.activity.in_use()
        except self._store.errors:
            self._see_to_server(now)
            raise
        self._alone_since = None
        # Checks are rare compared with `idle_exit_s`: a use that is noticed a little later still counts.
        pause_s = min(self._timings.idle_look_s, self._settings.idle_exit_s / 10)
        if used:
            self._idle_since = None
            return pause_s
        self._idle_since = self._idle_since or now
        if now - self._idle_since >= self._settings.idle_exit_s:
            await self._end()
        return pause_s

    def _see_to_server(self, now: float) -> None:
        """The engine's server is gone: end after a while. The user's next command starts a new server and worker."""
        self._alone_since = self._alone_since or now
        if now - self._alone_since > self._timings.server_gone_s:
            _log.warning("worker.alone", why="the engine's server does not come back")
            self._stop()

    async def _end(self) -> None:
        async def still_idle() -> bool:
            return not await self._store.activity.in_use()

        paths = Paths.from_environ(os.environ)
        if await exit_if_unused(paths, self._settings.redis_url, still_idle=still_idle):
            _log.info("engine.ended", why="nothing is alive or on its way")
            os._exit(0)  # the server has ended with all its data on disk: there is nothing to clean up
