"""Where Prometheus reads a worker's metrics: `GET /metrics`.

Nothing runs between two reads. What is in Redis is read once for all reads of 5 s, with a bounded number of commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog
from aiohttp import web

from puter_client.contract.errors import InvalidInput
from puter_client.contract.health import StageHealth
from puter_worker.ec2.credentials.failing import FailingCredentials
from puter_worker.prometheus import PrometheusMetrics
from puter_worker.settings import Address
from puter_worker.store.overview import Overview, Waiting, read_overview
from puter_worker.store.store import Store

_log = structlog.get_logger("puter.metrics")
KEPT_S = 5.0
ANSWERS_WITHIN_S = 5.0


class Waits:
    """For how long nothing was taken from inboxes, as far as looks at them tell."""

    def __init__(self) -> None:
        self._since: dict[str, tuple[int, float]] = {}

    def ages(self, waiting: Mapping[str, Waiting], now: float) -> dict[str, float]:
        """The ages of these inboxes in seconds, by namespace; `now`: of a clock that nobody sets."""
        self._since = {
            name: known
            if (known := self._since.get(name)) is not None and known[0] == inbox.taken
            else (inbox.taken, now)
            for name, inbox in waiting.items()
        }
        return {name: now - since for name, (_, since) in self._since.items()}


class Endpoint:
    """The metrics of one worker, by HTTP."""

    def __init__(
        self,
        metrics: PrometheusMetrics,
        store: Store,
        *,
        stages: Callable[[], tuple[StageHealth, ...]],
        failing: FailingCredentials,
    ) -> None:
        """`stages`: returns the health of the worker's stages; `failing`: its profiles whose credentials fail."""
        self._metrics = metrics
        self._store = store
        self._stages = stages
        self._failing = failing
        self._waits = Waits()
        self._reading = asyncio.Lock()
        self._read_at: float | None = None
        self._overview: Overview | None = None
        self._ages_s: Mapping[str, float] = {}
        self._started_at = 0.0
        self._runner: web.AppRunner | None = None

    async def start(self, address: Address) -> None:
        """Listen.

        Raises:
            InvalidInput: the address cannot be used.
        """
        self._started_at = self._store.now()
        app = web.Application()
        app.router.add_get("/metrics", self._answer)
        self._runner = web.AppRunner(app, access_log=None, keepalive_timeout=30.0, shutdown_timeout=1.0)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, address.host, address.port).start()
        except OSError as error:
            await self.aclose()
            why = error.strerror or type(error).__name__
            raise InvalidInput(f"--metrics {address}: cannot listen there ({why}): choose another address") from None
        _log.info("metrics.served", address=str(address))

    async def aclose(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        async with self._reading:
            await self._look()
        now = self._store.now()
        text, content_type = self._metrics.text(
            request.headers.get("Accept", ""),
            overview=self._overview,
            inbox_ages_s=self._ages_s,
            stages=self._stages(),
            failing_s={one.profile: now - one.since for one in self._failing.now(now)},
            started_at=self._started_at,
        )
        return web.Response(body=text, headers={"Content-Type": content_type})

    async def _look(self) -> None:
        now = self._store.db.clock.monotonic()
        if self._read_at is not None and now - self._read_at < KEPT_S:
            return
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_S):
                self._overview = await read_overview(self._store.db)
        except self._store.errors:  # also a TimeoutError
            self._overview = None
        self._read_at = self._store.db.clock.monotonic()
        self._ages_s = self._waits.ages(self._overview.waiting, now) if self._overview is not None else {}
