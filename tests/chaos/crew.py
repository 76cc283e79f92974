"""The worker processes of a run: started, killed, frozen and replaced; each has its own log."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from pathlib import Path

from tests.chaos.chaos_worker import CLOCKS, HURRY, SPEED
from tests.ec2sim.process import ROOT

DRAIN_S = 40.0


class Crew:
    """Keeps a number of workers running, whatever happens to them.

    Attributes:
        history: what was done to which process, for the report.
        killed: how many were.
        stalled: how many were frozen.
        clocks_set: how often clocks were set.
    """

    def __init__(self, environ: Mapping[str, str], folder: Path, *, size: int, speed: float, hurry: float) -> None:
        self._clocks = folder / "clocks"
        self._environ = {**environ, SPEED: str(speed), HURRY: str(hurry), CLOCKS: str(self._clocks)}
        self._folder = folder
        self._size = size
        self._started = 0
        self._workers: dict[int, Process] = {}
        self._logs: dict[int, Path] = {}
        self._frozen: set[int] = set()
        self._frozen_tasks: set[asyncio.Task[None]] = set()
        self.history: list[str] = []
        self.killed = 0
        self.stalled = 0
        self.clocks_set = 0
        self._write_clocks(0.0, 0.0)

    def set_clocks(self, redis_s: float, host_s: float) -> None:
        """Set the clocks of Redis's host and of the workers' host, by so many seconds from the true time."""
        self.clocks_set += 1
        self.history.append(f"clocks set: Redis {redis_s:+.0f} s, workers {host_s:+.0f} s")
        self._write_clocks(redis_s, host_s)

    def _write_clocks(self, redis_s: float, host_s: float) -> None:
        new = self._clocks.with_suffix(".new")
        new.write_text(f"{redis_s} {host_s}")
        new.replace(self._clocks)  # never read half

    @property
    def pids(self) -> list[int]:
        """The workers that run, also frozen ones, the oldest first."""
        return [pid for pid, worker in self._workers.items() if worker.returncode is None]

    async def fill(self) -> None:
        """Start a worker for each that was killed or ended because Redis was away."""
        for pid, worker in list(self._workers.items()):
            if worker.returncode is not None:
                self.history.append(f"{pid} had ended with {worker.returncode}")
                del self._workers[pid]
        while len(self._workers) < self._size:
            await self._start()

    async def _start(self) -> None:
        self._started += 1
        path = self._folder / f"worker-{self._started:03}.log"
        with path.open("wb") as log:
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.chaos.chaos_worker"),
                stdin=DEVNULL,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env=self._environ,
            )
        self._workers[worker.pid] = worker
        self._logs[worker.pid] = path
        self.history.append(f"{worker.pid} started, {path.name}")

    async def kill(self, pid: int) -> None:
        """Kill a worker with SIGKILL and start another one in its place."""
        worker = self._workers.get(pid)
        if worker is None or worker.returncode is not None:
            return
        worker.kill()
        await worker.wait()
        self._frozen.discard(pid)
        self.killed += 1
        self.history.append(f"{pid} killed")
        await self.fill()

    def freeze(self, pid: int, for_s: float) -> None:
        """Suspend a process, as a stalled host does, and resume it later."""
        worker = self._workers.get(pid)
        if worker is None or worker.returncode is not None or pid in self._frozen:
            return
        worker.send_signal(signal.SIGSTOP)
        self._frozen.add(pid)
        self.stalled += 1
        self.history.append(f"{pid} frozen for {for_s:.1f} s")

        async def thaw() -> None:
            await asyncio.sleep(for_s)
            self._thaw(pid)

        task = asyncio.create_task(thaw())
        self._frozen_tasks.add(task)
        task.add_done_callback(self._frozen_tasks.discard)

    def _thaw(self, pid: int) -> None:
        worker = self._workers.get(pid)
        if pid in self._frozen and worker is not None and worker.returncode is None:
            worker.send_signal(signal.SIGCONT)
            self.history.append(f"{pid} goes on")
        self._frozen.discard(pid)

    async def thaw_all(self) -> None:
        """Resume every frozen worker."""
        for task in list(self._frozen_tasks):
            task.cancel()
        for pid in list(self._frozen):
            self._thaw(pid)

    async def end(self) -> dict[int, int]:
        """Send SIGTERM to all workers once they work; their exit codes. One that does not drain in time is killed."""
        await self.thaw_all()
        for pid in self.pids:
            # An interpreter that is still starting dies of the signal.
            while self._workers[pid].returncode is None and not self._logs[pid].stat().st_size:
                await asyncio.sleep(0.05)
        for pid in self.pids:
            self._workers[pid].terminate()
        codes: dict[int, int] = {}
        for pid, worker in self._workers.items():
            try:
                codes[pid] = await asyncio.wait_for(worker.wait(), DRAIN_S)
            except TimeoutError:
                worker.kill()
                codes[pid] = await worker.wait()
        return codes

    def abandon(self) -> None:
        """Kill all workers that still run."""
        for pid in self.pids:
            self._workers[pid].kill()

    def tails(self, lines: int, words: tuple[str, ...] = ()) -> str:
        """The last lines of every log; with `words`, only of lines that contain one of them."""
        parts: list[str] = []
        for path in sorted(self._folder.glob("worker-*.log")):
            text = path.read_text(errors="replace").splitlines()
            shown = [line for line in text if not words or any(word in line for word in words)][-lines:]
            if shown:
                parts.append("\n".join([f"--- {path.name}", *(line[:600] for line in shown)]))
        return "\n".join(parts)


def worker_environ(sim: Mapping[str, str], redis_url: str, home: Path) -> dict[str, str]:
    """The environment of a worker: nothing of this process's AWS or Puter settings, and what the run gives."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "PUTER_"))}
    own = {"PUTER_REDIS_URL": redis_url, "PUTER_QUIET_SWEEP_S": "2", "PUTER_HOME": str(home), "HOME": str(home)}
    return {**kept, **sim, **own}
