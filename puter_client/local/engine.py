"""The local engine: a server and a worker on this computer that commands start, share and leave running.

```
engine.use     shared: a command works with the engine       exclusive: the engine is being ended
engine.start   exclusive: a command checks, starts or replaces its processes
engine.lock    exclusive: held by the server while it runs
worker.lock    exclusive: held by the worker while it runs
```
The locks are taken in this order, so there is no deadlock. Only the holder of `engine.start` tries `engine.lock` and
`worker.lock` (and a worker that ends the engine, which no command can be using then): a lock that is not free is
held by a running process, and never by another command that only checks it. `engine.use` is tried out of order in one
place, without waiting: by a holder of `engine.start` that got no worker for its server.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Literal, Self

import msgspec

from puter_client.contract.errors import EngineError
from puter_client.contract.key import shown
from puter_client.local.ending import answers, end_silent, shut_down
from puter_client.local.locks import FileLock
from puter_client.local.notes import (
    ENGINE_LOCK,
    START_LOCK,
    USE_LOCK,
    WORKER_LOCK,
    EngineNote,
    StartNote,
    WorkerNote,
    this_host,
)
from puter_client.local.poll import poll
from puter_client.local.server import (
    Answer,
    Say,
    ask,
    ensure_server,
    refuse_other_host,
    server_pid,
    url_of,
)
from puter_client.local.worker_process import end_worker, ensure_worker, has_died, ready_pid
from puter_client.paths import ELSEWHERE, Paths
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings


class Engine:
    """A running engine in use: while this is open, the engine does not end itself.

    Attributes:
        url: URL of its server, `unix://…`.
    """

    def __init__(self, url: str, use: FileLock, revive: Callable[[], Awaitable[None]]) -> None:
        self.url = url
        self._use = use
        self._revive = revive

    async def revive(self) -> None:
        """Start the worker again if it has died; while commands wait, nothing else would start it.

        Raises:
            EngineError: the worker cannot be started.
        """
        await self._revive()

    def close(self) -> None:
        """Stop using the engine. Server and worker keep running."""
        self._use.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The state of an engine.

    Attributes:
        state: stopped; starting (a command is starting it); running; silent (its server runs but does not answer).
        folder: folder of its data and locks.
        url: URL of its server, unless the engine is stopped.
        server_pid: process id of its server.
        worker_running: whether a worker process runs.
        worker_pid: process id of that worker, if known.
        worker_version: Puter version of that worker.
        worker_ready: whether the worker takes requests.
        in_use: whether a command uses the engine.
    """

    state: Literal["stopped", "starting", "running", "silent"]
    folder: str
    url: str | None = None
    server_pid: int | None = None
    worker_running: bool = False
    worker_pid: int | None = None
    worker_version: str | None = None
    worker_ready: bool = False
    in_use: bool = False


async def ensure_engine(
    paths: Paths,
    environ: Mapping[str, str],
    *,
    say: Say,
    worker_command: Sequence[str] | None = None,
    timings: ClientTimings = DEFAULT_TIMINGS,
) -> Engine:
    """Start the server or the worker if it is missing, and return when both are usable.

    Args:
        paths: the engine's folders.
        environ: the environment of a new worker; a running worker with other settings is replaced.
        say: called with one line for everything that takes time or is changed.
        worker_command: the command to run instead of Puter's worker.
        timings: of the client.

    Raises:
        EngineError: the engine cannot be started or used; the message says why and what to do.
        InvalidInput: the state folder or the AWS settings cannot be used.
    """
    with _told_in_a_line():
        paths.secure()
        use = FileLock(paths.engine / USE_LOCK)
        try:
            await _join(use, paths, say, timings)
            async with _starting(paths, say, timings):
                url = await ensure_server(paths, environ, say=say, timings=timings)
                try:
                    await ensure_worker(paths, environ, url, say=say, timings=timings, command=worker_command)
                except BaseException:
                    await _end_unless_used(use, url, paths, say, timings)
                    raise
        except BaseException:
            use.close()
            raise
    return Engine(url, use, partial(_revive, paths, environ, url, say, timings, worker_command))


async def engine_status(paths: Paths, *, timings: ClientTimings = DEFAULT_TIMINGS) -> EngineStatus:
    """The state of the engine; starts and changes nothing.

    Raises:
        EngineError: the engine's files cannot be read.
    """
    folder = str(paths.engine)
    if not _is_there(paths):
        return EngineStatus(state="stopped", folder=folder)
    with _told_in_a_line(), FileLock(paths.engine / START_LOCK) as start:
        if not await poll(start.try_lock, timings.lock_glance_s, timings.poll_s):
            return EngineStatus(state="starting", folder=folder)
        with FileLock(paths.engine / USE_LOCK) as use:
            in_use = not use.try_lock()
        with FileLock(paths.engine / WORKER_LOCK) as lock:
            worker_runs = not lock.try_lock(shared=True)
            worker = lock.read(WorkerNote) if worker_runs else None
        with FileLock(paths.engine / ENGINE_LOCK) as lock:
            free = partial(lock.try_lock, shared=True)
            running = not free()
            engine = lock.read(EngineNote)
            socket = engine.socket if engine else str(paths.socket)
            if running:
                refuse_other_host(engine, lock.path, held=True)
            heard = running and await ask(socket, timings) is not Answer.NONE
            # A server that was just killed holds its lock until the last of its threads has ended.
            running = heard or (running and not await poll(free, timings.server_dies_within_s, timings.poll_s))
        return EngineStatus(
            state="running" if heard else "silent" if running else "stopped",
            folder=folder,
            url=url_of(socket) if running else None,
            server_pid=server_pid(paths) if running else None,
            worker_running=worker_runs,
            worker_pid=worker.pid if worker else None,
            worker_version=worker.version if worker else None,
            worker_ready=worker is not None and worker.pid is not None and ready_pid(paths) == worker.pid,
            in_use=in_use,
        )


async def stop_engine(paths: Paths, *, say: Say, force: bool = False, timings: ClientTimings = DEFAULT_TIMINGS) -> bool:
    """End worker and server in order; everything queued stays on disk for the next start.

    Args:
        paths: the engine's folders.
        say: called with one line for everything that takes time.
        force: end the engine although commands use it or its server does not answer.
        timings: of the client.

    Returns:
        Whether a server or a worker was running.

    Raises:
        EngineError: the engine is in use, or does not end.
    """
    if not _is_there(paths):
        return False
    with _told_in_a_line(), FileLock(paths.engine / USE_LOCK) as use:
        if not await poll(use.try_lock, 0 if force else timings.lock_glance_s, timings.poll_s) and not force:
            raise EngineError(
                "the engine is in use by another command (perhaps a wait): end that command, or use --force"
            )
        async with _starting(paths, say, timings):
            with FileLock(paths.engine / ENGINE_LOCK) as server, FileLock(paths.engine / WORKER_LOCK) as worker:
                server_runs = not server.try_lock()
                note = server.read(EngineNote)
                socket = note.socket if note else paths.socket
                heard = False
                if server_runs:
                    refuse_other_host(note, server.path, held=True)
                    heard = await answers(server, socket, paths, say=say, force=force, timings=timings)
                worker_runs = not worker.try_lock()
                if worker_runs:
                    say("ending the engine's worker …")
                    longest_s = timings.worker_drain_s if heard else timings.worker_drain_without_server_s
                    drain_s = min(longest_s, timings.worker_drain_s)
                    await end_worker(worker, paths, timings, drain_s)
                if heard:
                    await shut_down(server, url_of(socket), paths, timings.server_answer_s, timings.poll_s)
                elif server_runs:
                    await end_silent(server, paths, timings)
                elif note is not None and this_host().sees(note.host):
                    server.write(None)
                return server_runs or worker_runs


async def _end_unless_used(use: FileLock, url: str, paths: Paths, say: Say, timings: ClientTimings) -> None:
    """End a server that got no worker and has no other user; without a worker nothing else would end it.

    The caller must hold `engine.start`. A command that waits for that lock already shares `engine.use`: the server
    stays for it, and if it gets no worker either, it calls this function itself. A command that comes later waits at
    `engine.use` until this command is done, and starts the server again.
    """
    with (
        suppress(EngineError, OSError),  # the user needs the reason why there is no worker
        FileLock(paths.engine / ENGINE_LOCK) as server,
        FileLock(paths.engine / WORKER_LOCK) as worker,
    ):
        if not worker.try_lock():
            return  # it is slow to start or to end; if it serves after all, it ends the idle engine itself
        if not use.try_lock():
            # Released while engine.start is held: the next command that comes here must not count this one as a user.
            use.close()
            return
        say("ending the engine's server, because it has no worker …")
        await shut_down(server, url, paths, timings.server_answer_s, timings.poll_s)


async def _join(use: FileLock, paths: Paths, say: Say, timings: ClientTimings) -> None:
    """Start using the engine; if it is ending, wait until it has ended, so that it can be started again."""
    free = partial(use.try_lock, shared=True)
    if await poll(free, timings.lock_glance_s, timings.poll_s):
        return
    say("the engine is ending: waiting to start it again …")
    if not await poll(free, timings.engine_busy_s, timings.poll_s):
        with FileLock(paths.engine / WORKER_LOCK) as lock:
            note = lock.read(WorkerNote)
        who = f"its worker (pid {note.pid})" if note and note.pid else "one of its processes"
        raise EngineError(f"the engine does not end: {who} still holds {shown(use.path, 200)}")


async def _revive(
    paths: Paths,
    environ: Mapping[str, str],
    url: str,
    say: Say,
    timings: ClientTimings,
    worker_command: Sequence[str] | None,
) -> None:
    if not has_died(paths):
        return
    with _told_in_a_line():
        async with _starting(paths, say, timings):
            with FileLock(paths.engine / ENGINE_LOCK) as server:
                # Without a server the engine was stopped, and a worker has nothing to do.
                if server.try_lock(shared=True) or not has_died(paths):
                    return
            say("the engine's worker has died: starting another one …")
            await ensure_worker(paths, environ, url, say=say, timings=timings, command=worker_command)


@asynccontextmanager
async def _starting(paths: Paths, say: Say, timings: ClientTimings) -> AsyncIterator[None]:
    with FileLock(paths.engine / START_LOCK) as start:
        if not await poll(start.try_lock, timings.lock_glance_s, timings.poll_s):
            say("another command is starting the engine: waiting for it …")
            if not await poll(start.try_lock, timings.engine_busy_s, timings.poll_s):
                note = start.read(StartNote)
                who = f"pid {note.pid}; `kill {note.pid}` if it hangs" if note else "pid unknown"
                waited = f"{timings.engine_busy_s:.0f} s"
                raise EngineError(f"another command ({who}) has been starting the engine for over {waited}")
        start.write(StartNote(pid=os.getpid()))
        yield


def _is_there(paths: Paths) -> bool:
    """Whether an engine was ever started here. Files in a folder that others can write to are not trusted."""
    with _told_in_a_line():
        try:
            paths.engine.lstat()
        except FileNotFoundError:
            return False
        paths.secure()
    return True


@contextmanager
def _told_in_a_line() -> Iterator[None]:
    """Turn a full disk or a forbidden file into an error of one line, instead of a traceback."""
    try:
        yield
    except OSError as error:
        where = f"{shown(error.filename, 200)}: " if error.filename else ""
        raise EngineError(f"the local engine: {where}{error.strerror or error}: fix it, or {ELSEWHERE}") from None
