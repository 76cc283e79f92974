"""A worker: intake, arq's ensure jobs, label and admit, and the loops of the targets it leads, from start to drain."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog
from arq import Retry
from arq.connections import ArqRedis

import puter_worker
from puter_client.contract.health import WorkerHealth
from puter_client.contract.key import PuterKey
from puter_client.local.idle import exit_if_unused
from puter_client.paths import Paths
from puter_client.store.redis_connection import connection_pool
from puter_worker.ec2.session import Sessions
from puter_worker.jobs import JobWorker
from puter_worker.lead import Leader
from puter_worker.settings import Settings
from puter_worker.stages.admit import admit
from puter_worker.stages.ensure import ensure
from puter_worker.stages.intake import intake
from puter_worker.stages.label import Labeller
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Targets
from puter_worker.tasks import cancel_all

if TYPE_CHECKING:
    from arq.typing import WorkerCoroutine

_log = structlog.get_logger("puter.worker")
INTAKE_EVERY_S = 0.03
RESTART_EVERY_S = 0.5
HEALTH_EVERY_S = 10.0
LEAD_EVERY_S = 0.1
LABEL_EVERY_S = 0.1
ADMIT_EVERY_S = 0.2
AFTER_ERROR_S = 1.0
IDLE_EVERY_S = 1.0
ALONE_S = 60.0
BURST_LOOKS = 3


class Worker:
    """One worker process."""

    def __init__(self, settings: Settings, *, on_ready: Callable[[], None] = lambda: None) -> None:
        """`on_ready` is called once requests are taken."""
        self._settings = settings
        self._on_ready = on_ready
        # arq's serializer is pickle unless told otherwise: whoever can write to Redis could run code here.
        self._redis = ArqRedis(
            pool_or_conn=connection_pool(settings.redis_url, max_connections=96),
            job_serializer=msgspec.json.encode,
            job_deserializer=msgspec.json.decode,
        )
        self._store = WorkerStore(self._redis)
        self._sessions = Sessions(version=puter_worker.__version__)
        self._targets = Targets(
            self._store,
            self._sessions,
            pace=settings.pace,
            private_keys=settings.embedded / "private_keys" if settings.embedded else None,
        )
        self._labeller = Labeller(self._store, self._targets)
        self._leader = Leader(self._store, self._targets, settings)
        self._stop = asyncio.Event()
        self._arq: JobWorker | None = None
        self._started_at = 0.0
        self._idle_since: float | None = None
        self._alone_since: float | None = None

    async def run(self) -> None:
        """Work until told to stop, or (with `burst`) until nothing is left; then drain.

        Raises:
            RedisError: Redis cannot be reached at the start; later it is waited for.
        """
        await self._store.set_clock()
        self._started_at = self._store.now()
        await self._announce()
        _log.info("worker.started", worker_id=self._settings.worker_id, version=puter_worker.__version__)
        arq = asyncio.create_task(self._run_arq())
        loops = [
            asyncio.create_task(self._repeat(what, once, every_s))
            for what, once, every_s in (
                ("intake", self._intake, INTAKE_EVERY_S),
                ("restart", self._restart, RESTART_EVERY_S),
                ("health", self._announce, HEALTH_EVERY_S),
                ("lead", self._leader.turn, LEAD_EVERY_S),
                ("label", self._labeller.turn, LABEL_EVERY_S),
                ("admit", lambda: admit(self._store, self._targets), ADMIT_EVERY_S),
            )
        ]
        if self._settings.burst:
            loops.append(asyncio.create_task(self._repeat("burst", self._end_when_done, INTAKE_EVERY_S)))
        if self._settings.embedded is not None:
            loops.append(asyncio.create_task(self._repeat("idle", self._end_when_idle, IDLE_EVERY_S)))
        self._on_ready()
        await self._stop.wait()
        await self._drain(arq, loops)

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()

    @property
    def store(self) -> WorkerStore:
        """Its view of Redis."""
        return self._store

    # -- loops --------------------------------------------------------------------------------------------------

    async def _intake(self) -> None:
        try:
            namespaces = await self._store.ready_namespaces()
            random.shuffle(namespaces)  # workers that start at the same one would only meet each other
            while namespaces and not self._stop.is_set() and await intake(self._store, namespaces):
                await self._store.feed()
                namespaces = await self._store.ready_namespaces()
        finally:
            await self._store.feed()

    async def _restart(self) -> None:
        stuck = await self._store.restart_stuck()
        if stuck:
            _log.info("keys.restarted", count=len(stuck))

    async def _announce(self) -> None:
        await self._store.set_clock()
        await self._store.announce(
            WorkerHealth(
                worker_id=self._settings.worker_id,
                host=self._settings.host,
                pid=int(self._settings.worker_id.split(":")[1]),
                version=puter_worker.__version__,
                started_at=self._started_at,
                seen_at=self._store.now(),
                profiles=tuple(self._sessions.offered_profiles()),
                draining=self._stop.is_set(),
            )
        )

    async def _end_when_done(self) -> None:
        for _ in range(BURST_LOOKS):
            if await self._store.unfinished() or await self._store.any_starting():
                return
        self.stop()

    async def _end_when_idle(self) -> None:
        """End the local engine when it has long had nothing alive or on its way, and nobody uses it."""
        now = asyncio.get_running_loop().time()
        try:
            used = await self._store.in_use()
        except self._store.errors:
            # Its server is gone; the next command starts another one, and a worker with it.
            self._alone_since = self._alone_since or now
            if now - self._alone_since > ALONE_S:
                _log.warning("worker.alone", why="the engine's server does not come back")
                self.stop()
            raise
        self._alone_since = None
        if used:
            self._idle_since = None
            return
        self._idle_since = self._idle_since or now
        if now - self._idle_since < self._settings.idle_exit_s:
            return

        async def still_idle() -> bool:
            return not await self._store.in_use()

        paths = Paths.from_environ(os.environ)
        if await exit_if_unused(paths, self._settings.redis_url, still_idle=still_idle):
            _log.info("engine.ended", why="nothing is alive or on its way")
            os._exit(0)  # the server is gone with all its data on disk: there is nothing left to put in order

    async def _repeat(self, what: str, once: Callable[[], Awaitable[Any]], every_s: float) -> None:
        """Run a loop until this worker stops; what it raises is told, and it goes on."""
        while not self._stop.is_set():
            pause_s = every_s
            try:
                await once()
            except self._store.errors as error:
                pause_s = AFTER_ERROR_S
                _log.warning("redis.unavailable", loop=what, error=type(error).__name__)
            except Exception:  # noqa: BLE001 - a defect in one stage must not end the others
                pause_s = AFTER_ERROR_S
                _log.exception("loop.failed", loop=what)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), pause_s)

    # -- arq ----------------------------------------------------------------------------------------------------

    async def _run_arq(self) -> None:
        """Keep an arq worker running: a Redis error around a job ends it, and leaves nothing that is lost."""
        ensure_puter = cast("WorkerCoroutine", self._ensure_puter)
        while not self._stop.is_set():
            self._arq = arq = JobWorker(self._store, self._redis, ensure_puter, max_jobs=self._settings.max_jobs)
            try:
                await arq.async_run()
            except asyncio.CancelledError:
                raise
            except self._store.errors as error:
                _log.warning("redis.unavailable", loop="arq", error=type(error).__name__)
            except Exception:  # noqa: BLE001 - a defect in one stage must not end the others
                _log.exception("loop.failed", loop="arq")
            for task in arq.tasks.values():
                task.cancel()
            await asyncio.gather(*arq.tasks.values(), return_exceptions=True)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), AFTER_ERROR_S)

    async def _ensure_puter(self, _ctx: dict[str, Any], namespace: str, tag: str) -> None:
        key = PuterKey.checked(namespace, tag)
        try:
            await ensure(self._store, self._targets, key)
        except self._store.errors as error:
            _log.warning("redis.unavailable", loop="ensure", error=type(error).__name__)
            raise Retry(defer=random.uniform(0.5, 1.5)) from None  # noqa: S311 - only spreads the load
        except Exception:  # noqa: BLE001 - a defect in one stage must not end the others
            # A defect fails this job alone; its key is restarted when nothing has moved it.
            _log.exception("stage.failed", stage="ensure")

    # -- drain --------------------------------------------------------------------------------------------------

    async def _drain(self, arq: asyncio.Task[None], loops: list[asyncio.Task[None]]) -> None:
        _log.info("worker.draining", for_s=self._settings.drain_s)
        try:
            async with asyncio.timeout(self._settings.drain_s):
                with suppress(*self._store.errors):
                    await self._announce()
                # What a turn has claimed would else be nobody's until its claim runs out.
                await asyncio.gather(
                    asyncio.wait(loops), self._end_arq(arq), self._leader.drain(), self._labeller.drain()
                )
        except TimeoutError:
            _log.warning("worker.not_drained", why="what is in hand is left to other workers")
        finally:
            await cancel_all([arq, *loops])
            with suppress(*self._store.errors):
                await self._store.withdraw(self._settings.worker_id)
            await self._sessions.aclose()
            await self._redis.aclose()
            await self._redis.connection_pool.disconnect()
            _log.info("worker.ended")

    async def _end_arq(self, arq: asyncio.Task[None]) -> None:
        draining = asyncio.create_task(self._arq.drain()) if self._arq else arq
        try:
            await asyncio.wait({arq, draining}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel_all({arq, draining})
