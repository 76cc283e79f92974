"""Leads targets: runs their stages as long as this worker holds their leases. A stage of every worker.

Two leaders of one target at once are harmless (each stage says why); the lease only avoids work that is done twice.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import structlog

from puter_worker.clock import Clock
from puter_worker.memory import Memory
from puter_worker.runner import Runner
from puter_worker.settings import WorkerSettings
from puter_worker.stages.consoles import ShowConsoles
from puter_worker.stages.explain import Explain
from puter_worker.stages.forgotten import Forgotten
from puter_worker.stages.launch import Launch
from puter_worker.stages.observe import Observe
from puter_worker.stages.orders import CarryOut
from puter_worker.stages.quarantine import Quarantine
from puter_worker.stages.replay import Replay
from puter_worker.stages.resolve import Resolve
from puter_worker.stages.results import ReadResults
from puter_worker.stages.stage import Stage
from puter_worker.store import wakeups
from puter_worker.store.store import Store
from puter_worker.target import Target, TargetId, Targets
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.lead")


class Lead(Stage):
    """Leads every target that this worker's credentials reach and that no other worker leads."""

    name = "lead"
    topics = frozenset({wakeups.TARGETS})
    least_gap_s = 0.1

    def __init__(
        self,
        store: Store,
        targets: Targets,
        runner: Runner,
        settings: WorkerSettings,
        *,
        clock: Clock,
        timings: Timings,
    ) -> None:
        super().__init__()
        self._store = store
        self._targets = targets
        self._runner = runner
        self._settings = settings
        self._clock = clock
        self._timings = timings
        self._memory = Memory(settings.memory_folder, clock=clock)
        self._forgotten = Forgotten(store, targets, self._memory)
        self._leading: dict[str, asyncio.Task[None]] = {}
        self._draining = asyncio.Event()

    async def run_once(self) -> float:
        """Take over targets that have no leader."""
        targets = await self._store.targets.all()
        await self._forgotten.compare(targets)  # a target that it notes is led in the next run, which that wakes
        pause_s = self._timings.lease_renew_s if targets else self._timings.sweep_s
        for text in targets:
            running = self._leading.get(text)
            if running is not None and not running.done():
                continue
            if running is not None:
                del self._leading[text]
                with suppress(asyncio.CancelledError):
                    running.result()
            target_id = TargetId.parse(text)
            if not await self._targets.reaches(target_id):
                continue
            anothers_s = await self._store.leases.acquire(text, self._settings.worker_id)
            if anothers_s > 0:
                pause_s = min(pause_s, anothers_s)
            else:
                self._leading[text] = asyncio.create_task(self._lead(self._targets.get(target_id)))
        return pause_s

    async def drain(self) -> None:
        """Let the launches in progress end, and release every lease."""
        self._draining.set()
        if self._leading:
            await asyncio.gather(*self._leading.values(), return_exceptions=True)

    def _stages_of(self, target: Target) -> list[Stage]:
        """The stages of a target, in the order in which a key passes them."""
        store, timings, most = self._store, self._timings, self._settings.max_group
        gate = Quarantine(
            store,
            target,
            self._memory,
            clock=self._clock,
            timings=timings,
            quarantine_s=self._settings.quarantine_s,
        )
        launch = Launch(store, target, gate, timings, most=most)
        return [
            Resolve(store, target, self._forgotten, timings),
            launch,
            Explain(store, target, gate, timings, most=most, busy=launch.is_busy),
            Replay(store, target, gate, timings),
            CarryOut(store, target, timings),
            ReadResults(store, target, timings),
            ShowConsoles(store, target, timings),
            Observe(
                store,
                target,
                timings,
                quiet_s=self._settings.quiet_sweep_s,
                is_end_awaited=launch.is_end_awaited,
            ),
        ]

    async def _lead(self, target: Target) -> None:
        name, stages = str(target), self._stages_of(target)
        _log.info("lease.taken", target=name)
        self._runner.start(stages, where=name)
        try:
            while not self._draining.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), self._timings.lease_renew_s)
                if not await self._targets.reaches(target.target_id):
                    break
                try:
                    if await self._store.leases.acquire(name, self._settings.worker_id) > 0:
                        break
                except self._store.errors as error:
                    # Redis does not answer. The stages notice it themselves; the lease is renewed later or runs out.
                    _log.warning("lease.not_renewed", target=name, error=type(error).__name__)
        finally:
            await self._runner.stop(stages)
            target.metrics.left(name)
            with suppress(*self._store.errors):
                await self._store.leases.release(name, self._settings.worker_id)
            _log.info("lease.released", target=name)
