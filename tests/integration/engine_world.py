"""A folder with an engine of its own, whose processes end with the test."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from redis.asyncio import Redis

from puter_client.local import Engine, ensure_engine
from puter_client.local.locks import FileLock
from puter_client.local.notes import ENGINE_LOCK
from puter_client.paths import Paths
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings

STUB = Path(__file__).with_name("engine_worker.py")


class EngineWorld:
    """Starts engines under a test's folder and remembers every process of theirs by its id."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.idle = folder / "idle"
        self.idle.mkdir()
        self.starts = folder / "starts"
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(STUB.parents[2]),
            "PUTER_HOME": str(self.home),
            "STUB_STARTS": str(self.starts),
            "STUB_IDLE": str(self.idle),
        }
        self.said: list[str] = []
        self.servers: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.note_server()
        pids = self.servers | set(self.workers())
        for pid in pids:
            kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(is_running(pid) for pid in pids), "the engine's processes to be gone")
        self.paths.socket.unlink(missing_ok=True)

    @property
    def paths(self) -> Paths:
        return Paths.from_environ(self.environ)

    async def ensure(
        self, *, command: Sequence[str] | None = None, timings: ClientTimings = DEFAULT_TIMINGS, **changed: str
    ) -> Engine:
        """What a command with this environment does; further variables are added to it."""
        try:
            return await ensure_engine(
                self.paths,
                {**self.environ, **changed},
                say=self.said.append,
                worker_command=command or [sys.executable, str(STUB)],
                timings=timings,
            )
        finally:
            self.note_server()

    def note_server(self) -> None:
        with suppress(OSError, ValueError):
            self.servers.add(int((self.paths.engine / "server.pid").read_text()))

    @property
    def server(self) -> int:
        return int((self.paths.engine / "server.pid").read_text())

    @property
    def has_server(self) -> bool:
        """Whether a server lives; only for a test in which nobody starts one meanwhile."""
        with FileLock(self.paths.engine / ENGINE_LOCK) as lock:
            return not lock.try_lock()

    @property
    def worker(self) -> int:
        return int((self.paths.engine / "worker.ready").read_text())

    def workers(self) -> list[int]:
        """Process ids of all workers that were started, in order."""
        return [int(line.split()[0]) for line in self._started()]

    def secrets_seen(self) -> list[str]:
        """Digests of the AWS secret that each worker was given, in order."""
        return [line.split()[1] for line in self._started()]

    def _started(self) -> list[str]:
        return self.starts.read_text().splitlines() if self.starts.exists() else []

    def end_by_force(self, pid: int) -> None:
        kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid), f"process {pid} to be gone")

    async def put(self, engine: Engine, name: str, value: str) -> None:
        async with Redis.from_url(engine.url) as redis:
            await redis.set(name, value)

    async def get(self, engine: Engine, name: str) -> str | None:
        async with Redis.from_url(engine.url) as redis:
            value = await redis.get(name)
        return value.decode() if value is not None else None

    def modes(self) -> dict[str, str]:
        """Mode of everything in the state folder, by its path there."""
        found = [self.home, *self.home.rglob("*")]
        return {str(p.relative_to(self.home)): f"{stat.S_IMODE(p.lstat().st_mode):04o}" for p in found}


def kill(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def is_running(pid: int) -> bool:
    """Whether a process lives; a zombie that nobody has taken note of yet does not."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()[:1] not in {"", "Z"}


def wait_for(condition: Callable[[], bool], what: str, within_s: float = 120.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {within_s:.0f} s for {what}"
        time.sleep(0.01)
