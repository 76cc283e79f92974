"""The loops of a fleet's leader: resolve, launch, replay, explain and observe, as long as it holds the fleet's lease.

Two leaders at once are harmless (each station says why); the lease only keeps them from working for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.fleet import Fleet, FleetId, Fleets
from puter_worker.memory import Memory
from puter_worker.settings import Settings
from puter_worker.stations.explain import explain
from puter_worker.stations.launch import Launcher
from puter_worker.stations.observe import Observer
from puter_worker.stations.quarantine import Quarantine
from puter_worker.stations.resolve import Resolver
from puter_worker.stations.send import replay
from puter_worker.store import names
from puter_worker.store.workerstore import WorkerStore
from puter_worker.tasks import cancel_all

_log = structlog.get_logger("puter.lead")
LEASE_S = 3.0
RENEW_S = 1.0
REPLAY_EVERY_S = 1.0
REPLAY_AT_ONCE = 16
OBSERVE_EVERY_S = 0.25
AFTER_ERROR_S = 1.0


class Leader:
    """Leads every fleet that this worker's credentials reach and nobody else leads."""

    def __init__(self, store: WorkerStore, fleets: Fleets, settings: Settings) -> None:
        self._store = store
        self._fleets = fleets
        self._settings = settings
        self._memory = Memory(settings.memory_folder)
        self._leading: dict[str, asyncio.Task[None]] = {}
        self._draining = asyncio.Event()

    async def turn(self) -> None:
        """Take over fleets that have no leader; to be called again and again."""
        fleets = await self._store.fleets()
        await self._remember(fleets)
        for text in fleets:
            running = self._leading.get(text)
            if running is not None and not running.done():
                continue
            if running is not None:
                del self._leading[text]
                with suppress(asyncio.CancelledError):
                    running.result()
            fleet_id = FleetId.parse(text)
            if self._draining.is_set() or not await self._fleets.reaches(fleet_id):
                continue
            if await self._store.lease(names.lease(text), self._settings.worker_id, LEASE_S):
                self._leading[text] = asyncio.create_task(self._lead(self._fleets.get(fleet_id)))

    async def _remember(self, fleets: list[str]) -> None:
        """Keep in mind how far Redis has got, for fleets that others lead: this worker may lead them next."""
        if not fleets:
            return
        shown = await self._store.epoch()
        for fleet in fleets:
            known = self._memory.of(fleet)
            if known is None or not known.contradicts(shown):
                self._memory.saw(fleet, shown, time.time())

    async def drain(self) -> None:
        """Let the launches in hand end, and give every lease up."""
        self._draining.set()
        if self._leading:
            await asyncio.gather(*self._leading.values(), return_exceptions=True)

    async def _lead(self, fleet: Fleet) -> None:
        name = names.lease(str(fleet))
        gate = Quarantine(self._store, fleet, self._memory, quarantine_s=self._settings.quarantine_s)
        resolver = Resolver(self._store, fleet)
        launcher = Launcher(self._store, fleet, gate, most=self._settings.max_group)
        observer = Observer(self._store, fleet, quiet_s=self._settings.quiet_sweep_s)

        async def explaining() -> float:
            most = self._settings.max_group
            return await explain(self._store, fleet, most=most, shut_s=gate.left_s, busy=launcher.is_busy)

        _log.info("lease.taken", fleet=str(fleet))
        over = asyncio.Event()
        loops = [
            asyncio.create_task(self._repeat(fleet, over, what, once))
            for what, once in (
                ("resolve", resolver.turn),
                ("launch", launcher.turn),
                ("explain", explaining),
                ("replay", lambda: self._replay(fleet, gate)),
                ("observe", lambda: _every(OBSERVE_EVERY_S, observer.turn())),
            )
        ]
        try:
            while not self._draining.is_set():
                if not await self._fleets.reaches(fleet.fleet_id):
                    break
                try:
                    if not await self._store.lease(name, self._settings.worker_id, LEASE_S):
                        break
                except self._store.errors as error:
                    # Redis is away: the loops find that out for themselves; the lease runs out or is renewed.
                    _log.warning("lease.not_renewed", fleet=str(fleet), error=type(error).__name__)
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
            _log.info("lease.released", fleet=str(fleet))

    async def _replay(self, fleet: Fleet, gate: Quarantine) -> float:
        if not await gate.open():
            return REPLAY_EVERY_S
        found = await self._store.open_intents(str(fleet), self._store.now())
        await asyncio.gather(*(replay(self._store, fleet, kept) for kept in found[:REPLAY_AT_ONCE]))
        return 0.0 if len(found) > REPLAY_AT_ONCE else REPLAY_EVERY_S

    async def _repeat(self, fleet: Fleet, over: asyncio.Event, what: str, once: Callable[[], Awaitable[float]]) -> None:
        """Run a station again and again until it is over; what it raises is told, and it goes on."""
        while not over.is_set():
            try:
                pause_s = await once()
            except Ec2Error as error:
                pause_s = 5.0 if error.handling is Handling.CREDENTIALS else AFTER_ERROR_S
                _log.warning("station.refused", station=what, fleet=str(fleet), code=error.code, message=error.message)
            except self._store.errors as error:
                pause_s = AFTER_ERROR_S
                _log.warning("redis.unavailable", station=what, error=type(error).__name__)
            except Exception:  # noqa: BLE001 - a defect in one station must not end the others
                pause_s = AFTER_ERROR_S
                _log.exception("station.failed", station=what, fleet=str(fleet))
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), pause_s)


async def _every(pause_s: float, turn: Awaitable[None]) -> float:
    await turn
    return pause_s
