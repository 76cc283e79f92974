"""A worker: its store, its targets and its stages, from start to drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

import puter_worker
from puter_client.contract.errors import StoreUnavailable
from puter_client.store.redis_connection import connection_pool
from puter_client.store.redis_errors import CLUSTER_MODE
from puter_client.store.redis_url import RedisUrl
from puter_worker.clock import Clock
from puter_worker.ec2.session import Sessions
from puter_worker.lead import Lead
from puter_worker.metrics import NO_METRICS, Metrics
from puter_worker.policy import Rules
from puter_worker.rates import Rates
from puter_worker.runner import Runner
from puter_worker.settings import WorkerSettings
from puter_worker.stages.announce import Announce
from puter_worker.stages.ending import EndWhenDone, EndWhenIdle
from puter_worker.stages.ensure import Ensure, Jobs
from puter_worker.stages.ingress import Ingress
from puter_worker.stages.intake import Intake
from puter_worker.stages.label import Labelling
from puter_worker.stages.max_fails import MaxFails
from puter_worker.stages.reload_policy import ReloadPolicy
from puter_worker.stages.restart import Restart
from puter_worker.stages.stage import Stage
from puter_worker.store.arq_adapter import arq_redis
from puter_worker.store.store import Store
from puter_worker.targets import Targets
from puter_worker.tasks import cancel_all
from puter_worker.timings import Timings

if TYPE_CHECKING:
    from puter_worker.endpoint import Endpoint
    from puter_worker.prometheus import PrometheusMetrics

_log = structlog.get_logger("puter.worker")
MAX_CONNECTIONS = 96


class Worker:
    """One worker process.

    Attributes:
        store: all that it reads and writes in Redis.
        targets: the targets that it reaches in AWS.
        rules: what namespaces may request.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        timings: Timings | None = None,
        rates: Rates | None = None,
        sessions: Sessions | None = None,
        clock: Clock | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_ready` is called when the worker begins to take requests; None gives the production value.

        Raises:
            InvalidInput: the policy file cannot be used.
        """
        timings = timings or Timings()
        counting = None if settings.metrics is None else _counting()
        metrics = counting or NO_METRICS
        self._settings = settings
        self._timings = timings
        self._on_ready = on_ready
        self._clock = clock or Clock()
        self.rules = Rules(settings.policy_file, shared=settings.local_engine is None)
        self._redis = arq_redis(connection_pool(settings.redis_url, max_connections=MAX_CONNECTIONS))
        self._sessions = sessions or Sessions(timings, version=puter_worker.__version__)
        self.store = Store(self._redis, clock=self._clock, timings=timings)
        self.targets = Targets(
            self.store,
            self._sessions,
            timings,
            rates=rates,
            pace=settings.pace,
            private_keys=settings.local_engine / "private_keys" if settings.local_engine else None,
            metrics=metrics,
            rules=self.rules,
        )
        self._runner = Runner(self.store.wakeups, clock=self._clock, timings=timings, metrics=metrics)
        self._announce = Announce(self.store, self.targets, settings, timings, stages=self._runner.health)
        self._stages = self._stages_of(timings, metrics)
        self._endpoint = None if counting is None else _endpoint(counting, self.store, self._runner, self.targets)
        self._stop = asyncio.Event()

    def _stages_of(self, timings: Timings, metrics: Metrics) -> list[Stage]:
        """The stages of every worker, in the order in which a key passes them; Lead runs those of targets."""
        store, targets, settings, clock = self.store, self.targets, self._settings, self._clock
        stages: list[Stage] = [
            Intake(store, timings, rules=self.rules, metrics=metrics),
            Jobs(store, Ensure(store, targets, timings), timings, max_jobs=settings.max_jobs),
            Lead(store, targets, self._runner, settings, clock=clock, timings=timings),
            Labelling(store, targets, timings),
            Ingress(store, targets, timings),
            MaxFails(store, timings),
            Restart(store, timings),
            self._announce,
        ]
        if settings.policy_file is not None:
            stages.append(ReloadPolicy(self.rules, timings))
        if settings.burst:
            stages.append(EndWhenDone(store, timings, stop=self.stop))
        if settings.local_engine is not None:
            stages.append(EndWhenIdle(store, settings, clock=clock, timings=timings, stop=self.stop))
        return stages

    async def check(self) -> None:
        """Check this host's AWS settings, as far as every request needs them; no credentials are resolved.

        Raises:
            StageError: they cannot be used.
        """
        await self._sessions.check()

    async def run(self) -> None:
        """Work until told to stop, or (with `burst`) until nothing is left; then drain.

        Raises:
            RedisError: Redis cannot be reached at the start; later the worker waits for it.
            StoreUnavailable: Redis is in cluster mode.
            InvalidInput: the address for metrics cannot be used.
        """
        if self._endpoint is not None and self._settings.metrics is not None:
            await self._endpoint.start(self._settings.metrics)
        await self._check_redis()
        if self.rules.is_missing:
            _log.warning(
                "policy.missing",
                why="every namespace may request whatever the worker's AWS credentials allow",
                remedy="say who may request what in a file, and name it with PUTER_POLICY (docs/policy.md)",
            )
        await self._announce.run_once()
        _log.info("worker.started", worker_id=self._settings.worker_id, version=puter_worker.__version__)
        listening = asyncio.create_task(self._runner.listen())
        self._runner.start(self._stages)
        self._on_ready()
        await self._stop.wait()
        await self._drain(listening)

    async def _check_redis(self) -> None:
        server = await self.store.db.server_settings()
        if server.cluster_enabled:
            raise StoreUnavailable(f"Redis at {RedisUrl.parse(self._settings.redis_url)} {CLUSTER_MODE}")
        if server.deletes_when_full:
            _log.warning(
                "redis.may_evict",
                maxmemory_policy=server.maxmemory_policy,
                why="a full Redis deletes records and stored launches, and machines may be launched twice",
                remedy="set maxmemory-policy noeviction",
            )

    def hanging(self) -> list[str]:
        """Names of stages that neither run to an end nor pause; only what starts the worker again can help."""
        return self._runner.hanging(self._timings.hangs_after_s)

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()

    async def _drain(self, listening: asyncio.Task[None]) -> None:
        _log.info("worker.draining", for_s=self._settings.drain_s)
        self._sessions.hurry()
        try:
            async with asyncio.timeout(self._settings.drain_s), asyncio.TaskGroup() as ending:
                # At once: a Redis that does not answer must not have the stages begin anything more.
                ending.create_task(self._runner.stop(self._stages))
                ending.create_task(self._announce_draining())
        except TimeoutError:
            _log.warning("worker.not_drained", why="other workers continue what is in progress")
        finally:
            await cancel_all([listening])
            if self._endpoint is not None:
                await self._endpoint.aclose()
            with suppress(*self.store.errors):
                await self.store.workers.remove(self._settings.worker_id)
            await self._sessions.aclose()
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()
            _log.info("worker.ended")

    async def _announce_draining(self) -> None:
        with suppress(*self.store.errors):
            await self._announce.announce_draining()


def _counting() -> PrometheusMetrics:
    """What counts; it is loaded only if somebody wants metrics."""
    from puter_worker.prometheus import PrometheusMetrics

    return PrometheusMetrics(version=puter_worker.__version__)


def _endpoint(metrics: PrometheusMetrics, store: Store, runner: Runner, targets: Targets) -> Endpoint:
    from puter_worker.endpoint import Endpoint

    return Endpoint(metrics, store, stages=runner.health, failing=targets.failing)
