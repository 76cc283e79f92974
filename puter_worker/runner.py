"""Runs stages: wakes them, pauses them, and handles all their errors in one way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf

import structlog

from puter_client.contract.health import StageHealth
from puter_worker.clock import Clock
from puter_worker.errors import Handling, StageError
from puter_worker.metrics import NO_METRICS, Metrics
from puter_worker.stages.stage import Stage
from puter_worker.store import wakeups
from puter_worker.store.database import Database
from puter_worker.store.wakeups import Wakeups
from puter_worker.tasks import cancel_all
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.stage")


@dataclass(slots=True)
class _Running:
    """A stage that runs, and its health."""

    stage: Stage
    where: str
    task: asyncio.Task[None] | None = None
    runs: int = 0
    pace_s: float | None = None
    last_success_at: float | None = None
    last_error_at: float | None = None
    last_error: str | None = None
    told_at: float = -inf
    began_at: float | None = None
    runs_since: float | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        return f"{self.stage.name} {self.where}".rstrip()


class Runner:
    """All stages of one worker, each in a task of its own."""

    def __init__(self, wakeups: Wakeups, *, clock: Clock, timings: Timings, metrics: Metrics = NO_METRICS) -> None:
        self._metrics = metrics
        self._wakeups = wakeups
        self._clock = clock
        self._timings = timings
        self._running: list[_Running] = []

    async def listen(self) -> None:
        """Wake stages when messages come, until cancelled; a lost subscription is made again."""
        await asyncio.gather(self._listen(self._wakeups.topics), self._listen(self._wakeups.requests))

    async def _listen(self, topics: Callable[[], AsyncIterator[str]]) -> None:
        while True:
            try:
                async for topic in topics():
                    for running in self._running:
                        if topic == wakeups.EVERYTHING or topic in running.stage.topics:
                            running.stage.wake()
            except Database.errors as error:
                _log.warning("redis.unavailable", stage="wakeups", error=type(error).__name__)
            except Exception:  # noqa: BLE001 - without messages stages would only look every sweep_s
                _log.exception("stage.failed", stage="wakeups")
            await asyncio.sleep(self._timings.after_error_s)

    def start(self, stages: Iterable[Stage], *, where: str = "") -> None:
        """Run these stages from now on; `where` names their target in logs and health."""
        for stage in stages:
            running = _Running(stage, where)
            self._running.append(running)
            running.task = asyncio.create_task(self._repeat(running))

    async def stop(self, stages: Sequence[Stage]) -> None:
        """Let these stages finish their runs and drain; if this is interrupted, they are cancelled.

        If a run were cancelled, no worker could take up what it has claimed until the claim runs out.
        """
        ending = [running for running in self._running if running.stage in stages]
        for running in ending:
            running.ended.set()
            running.stage.wake()
        # Each drains as soon as its own run ends: a slow call of one stage must not take the time of the others.
        endings = [asyncio.create_task(self._end(running)) for running in ending]
        try:
            await asyncio.gather(*endings)
        finally:
            await cancel_all([*endings, *(running.task for running in ending if running.task is not None)])
            self._running = [running for running in self._running if running not in ending]

    @staticmethod
    async def _end(running: _Running) -> None:
        if running.task is not None:
            await asyncio.wait([running.task])
        await running.stage.drain()

    def health(self) -> tuple[StageHealth, ...]:
        """The health of each stage."""
        return tuple(
            StageHealth(
                name=running.name,
                last_success_at=running.last_success_at,
                last_error_at=running.last_error_at,
                last_error=running.last_error,
                began_at=running.began_at,
                runs=running.runs,
                pace_s=running.pace_s,
            )
            for running in self._running
        )

    def hanging(self, longer_than_s: float) -> list[str]:
        """Names of stages whose run takes longer than that, or that have ended without having been told to."""
        now = self._clock.monotonic()
        return [
            running.name
            for running in self._running
            if (running.runs_since is not None and now - running.runs_since > longer_than_s)
            or (running.task is not None and running.task.done() and not running.ended.is_set())
        ]

    async def _repeat(self, running: _Running) -> None:
        stage = running.stage
        gap_s = self._timings.least_gap_s if stage.least_gap_s is None else stage.least_gap_s
        while not running.ended.is_set():
            began = self._clock.monotonic()
            running.runs += 1
            running.began_at, running.runs_since = self._clock.now(), began
            try:
                pause_s = await stage.run_once()
            except Exception as error:  # noqa: BLE001 - one stage's defect must not end the others
                self._metrics.ran(stage.name, self._clock.monotonic() - began, succeeded=False)
                running.runs_since = None
                pause_s = self._after(error, running)
                await self._pause(running, pause_s)
                continue
            self._metrics.ran(stage.name, self._clock.monotonic() - began, succeeded=True)
            running.runs_since = None
            running.last_success_at, running.pace_s = self._clock.now(), round(pause_s, 3)
            held_s = max(0.0, gap_s - (self._clock.monotonic() - began))
            await self._pause(running, held_s)
            if not running.ended.is_set():
                await stage.rest(max(0.0, pause_s - held_s))

    def _after(self, error: Exception, running: _Running) -> float:
        """The one policy: log the error; returns the stage's pause, which no message shortens."""
        again = (running.last_success_at or 0.0) <= (running.last_error_at or 0.0)
        before, now = running.last_error if again else None, self._clock.monotonic()
        running.last_error_at = self._clock.now()
        running.last_error = type(error).__name__
        name, where = running.stage.name, running.where
        if isinstance(error, StageError):
            running.last_error = str(error)
            if running.last_error != before or now - running.told_at >= self._timings.repeated_error_s:
                running.told_at = now
                _log.warning("stage.refused", stage=name, target=where, code=error.code, message=error.message)
            if error.handling is Handling.CREDENTIALS:
                return self._timings.after_credentials_error_s
        elif isinstance(error, Database.errors):
            _log.warning("redis.unavailable", stage=name, error=type(error).__name__)
        else:
            _log.error("stage.failed", stage=name, target=where, exc_info=error)
        return self._timings.after_error_s

    @staticmethod
    async def _pause(running: _Running, pause_s: float) -> None:
        if pause_s <= 0:
            return
        try:
            await asyncio.wait_for(running.ended.wait(), pause_s)
        except TimeoutError:
            return
