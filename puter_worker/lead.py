"""The loops of a target's leader: resolve, launch, replay, explain and observe, as long as it holds the target's lease.

Two leaders at once are harmless (each stage says why); the lease only keeps them from working for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.memory import Memory
from puter_worker.settings import Settings
from puter_worker.stages.explain import explain
from puter_worker.stages.launch import Launcher
from puter_worker.stages.observe import Observer
from puter_worker.stages.quarantine import Quarantine
from puter_worker.stages.resolve import Resolver
from puter_worker.stages.send import replay
from puter_worker.store import names
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target, TargetId, Targets
from puter_worker.tasks import cancel_all

_log = structlog.get_logger("puter.lead")
LEASE_S = 3.0
RENEW_S = 1.0
REPLAY_EVERY_S = 1.0
REPLAY_AT_ONCE = 16
OBSERVE_EVERY_S = 0.25
AFTER_ERROR_S = 1.0


class Leader:
    """Leads every target that this worker's credentials reach and nobody else leads."""

    def __init__(self, store: WorkerStore, targets: Targets, settings: Settings) -> None:
        self._store = store
        self._targets = targets
        self._settings = settings
        self._memory = Memory(settings.memory_folder)
        self._leading: dict[str, asyncio.Task[None]] = {}
        self._draining = asyncio.Event()

    async def turn(self) -> None:
        """Take over targets that have no leader; to be called again and again."""
        targets = await self._store.targets()
        await self._remember(targets)
        for text in targets:
            running = self._leading.get(text)
            if running is not None and not running.done():
                continue
            if running is not None:
                del self._leading[text]
                with suppress(asyncio.CancelledError):
                    running.result()
            target_id = TargetId.parse(text)
            if self._draining.is_set() or not await self._targets.reaches(target_id):
                continue
            if await self._store.lease(names.lease(text), self._settings.worker_id, LEASE_S):
                self._leading[text] = asyncio.create_task(self._lead(self._targets.get(target_id)))

    async def _remember(self, targets: list[str]) -> None:
        """Keep in mind how far Redis has got, for targets that others lead: this worker may lead them next."""
        if not targets:
            return
        shown = await self._store.epoch()
        for target in targets:
            known = self._memory.of(target)
            if known is None or not known.contradicts(shown):
                self._memory.saw(target, shown, time.time())

    async def drain(self) -> None:
        """Let the launches in hand end, and give every lease up."""
        self._draining.set()
        if self._leading:
            await asyncio.gather(*self._leading.values(), return_exceptions=True)

    async def _lead(self, target: Target) -> None:
        name = names.lease(str(target))
        gate = Quarantine(self._store, target, self._memory, quarantine_s=self._settings.quarantine_s)
        resolver = Resolver(self._store, target)
        launcher = Launcher(self._store, target, gate, most=self._settings.max_group)
        observer = Observer(self._store, target, quiet_s=self._settings.quiet_sweep_s)

        async def explaining() -> float:
            most = self._settings.max_group
            return await explain(self._store, target, most=most, shut_s=gate.left_s, busy=launcher.is_busy)

        _log.info("lease.taken", target=str(target))
        over = asyncio.Event()
        loops = [
            asyncio.create_task(self._repeat(target, over, what, once))
            for what, once in (
                ("resolve", resolver.turn),
                ("launch", launcher.turn),
                ("explain", explaining),
                ("replay", lambda: self._replay(target, gate)),
                ("observe", lambda: _every(OBSERVE_EVERY_S, observer.turn())),
            )
        ]
        try:
            while not self._draining.is_set():
                if not await self._targets.reaches(target.target_id):
                    break
                try:
                    if not await self._store.lease(name, self._settings.worker_id, LEASE_S):
                        break
                except self._store.errors as error:
                    # Redis is away: the loops find that out for themselves; the lease runs out or is renewed.
                    _log.warning("lease.not_renewed", target=str(target), error=type(error).__name__)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._draining.wait(), RENEW_S)
        finally:
            over.set()
            try:
                # What a turn has claimed would else be nobody's until its claim runs out.
                await asyncio.wait(loops)
                await asyncio.gather(resolver.drain(), launcher.drain())
            finally:
                await cancel_all(loops)
            with suppress(*self._store.errors):
                await self._store.release(name, self._settings.worker_id)
            _log.info("lease.released", target=str(target))

    async def _replay(self, target: Target, gate: Quarantine) -> float:
        if not await gate.open():
            return REPLAY_EVERY_S
        found = await self._store.open_intents(str(target), self._store.now())
        await asyncio.gather(*(replay(self._store, target, kept) for kept in found[:REPLAY_AT_ONCE]))
        return 0.0 if len(found) > REPLAY_AT_ONCE else REPLAY_EVERY_S

    async def _repeat(
        self, target: Target, over: asyncio.Event, what: str, once: Callable[[], Awaitable[float]]
    ) -> None:
        """Run a stage again and again until it is over; what it raises is told, and it goes on."""
        while not over.is_set():
            try:
                pause_s = await once()
            except Ec2Error as error:
                pause_s = 5.0 if error.handling is Handling.CREDENTIALS else AFTER_ERROR_S
                _log.warning("stage.refused", stage=what, target=str(target), code=error.code, message=error.message)
            except self._store.errors as error:
                pause_s = AFTER_ERROR_S
                _log.warning("redis.unavailable", stage=what, error=type(error).__name__)
            except Exception:  # noqa: BLE001 - a defect in one stage must not end the others
                pause_s = AFTER_ERROR_S
                _log.exception("stage.failed", stage=what, target=str(target))
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), pause_s)


async def _every(pause_s: float, turn: Awaitable[None]) -> float:
    await turn
    return pause_s
