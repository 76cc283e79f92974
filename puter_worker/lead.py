"""Leads targets: runs their stages as long as this worker holds their leases. A stage of every worker.

Two leaders of one target at once are harmless (each stage says why); the lease only avoids work that is done twice.

A target in which nothing is alive, waits or is to be read any more is given up after a while: its lease, its stages,
and in every worker what belonged to it. The next request for it has it led again.
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
from puter_worker.target import Target, TargetId
from puter_worker.targets import Targets
from puter_worker.tasks import cancel_all
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.lead")


class Use:
    """Whether a target is still in use, as its leader sees it."""

    def __init__(self, store: Store, target: str, *, clock: Clock, timings: Timings) -> None:
        self._store = store
        self._target = target
        self._clock = clock
        self._timings = timings
        self._looked_at = self._used_at = clock.monotonic()

    async def ended(self) -> bool:
        """Whether the target is given up now; looks only every `target_look_s`."""
        now = self._clock.monotonic()
        if now - self._looked_at < self._timings.target_look_s:
            return False
        self._looked_at = now
        last_put = await self._store.targets.last_put(self._target)
        if await self._store.targets_of.renew(self._target):
            self._used_at = now
        if now - self._used_at < self._timings.target_idle_s:
            return False
        if last_put is not None and not await self._store.targets.give_up(self._target, last_put):
            return False
        _log.info("target.given_up", target=self._target, idle_s=self._timings.target_idle_s)
        return True


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
        for text, running in list(self._leading.items()):
            if running.done():
                del self._leading[text]
                with suppress(asyncio.CancelledError):
                    running.result()
        await self._targets.forget_others({TargetId.parse(text) for text in (*targets, *self._leading)})
        for text in targets:
            if text in self._leading:
                continue
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
        leading = list(self._leading.values())
        try:
            await asyncio.gather(*leading, return_exceptions=True)
        finally:
            await cancel_all(leading)  # a worker that has no more time closes what their stages use

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
        observe = Observe(
            store, target, timings, quiet_s=self._settings.quiet_sweep_s, is_end_awaited=launch.is_end_awaited
        )
        return [
            Resolve(store, target, self._forgotten, timings),
            launch,
            Explain(store, target, gate, timings, most=most, busy=launch.is_busy),
            Replay(store, target, gate, timings),
            CarryOut(store, target, timings, expect_ends=observe.expect_ends),
            ReadResults(store, target, timings),
            ShowConsoles(store, target, timings),
            observe,
        ]

    async def _lead(self, target: Target) -> None:
        name, stages = str(target), self._stages_of(target)
        use = Use(self._store, name, clock=self._clock, timings=self._timings)
        _log.info("lease.taken", target=name)
        self._runner.start(stages, where=name)
        try:
            while not self._draining.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), self._timings.lease_renew_s)
                if not await self._targets.reaches(target.target_id):
                    break
                try:
                    if await use.ended():
                        break
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
