"""The local engine: a server and a worker on this host that commands start, share and leave behind.

```
engine.use     shared: a command works with the engine       exclusive: it is being ended
engine.start   exclusive: a command looks at, starts or replaces its processes
engine.lock    exclusive: the server, as long as it lives
worker.lock    exclusive: the worker, as long as it lives
```
They are taken in this order, so nobody waits in a circle. `engine.lock` and `worker.lock` are tried by holders of
`engine.start` alone (but for a worker that ends the engine, which nobody can be using then): a lock that cannot be
had means a living process, never somebody else's look at it. Out of order `engine.use` is only tried, never waited
for: by a holder of `engine.start` that got no worker for its server.
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
from puter_client.local.ending import end_silent, hears, shut_down
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
    Patience,
    Say,
    ask,
    ensure_server,
    refuse_other_host,
    server_pid,
    url_of,
)
from puter_client.local.worker_process import end_worker, ensure_worker, has_died, ready_pid
from puter_client.paths import ELSEWHERE, Paths

# Looks of other commands at a lock are over sooner.
_GLANCE_S = 2.0
_DYING_S = 0.5
# What a worker would still do it could not write down without a server.
_DRAIN_IN_VAIN_S = 2.0


class Engine:
    """A running engine in use: while it is open, the engine does not end itself.

    Attributes:
        url: of its server, `unix://…`.
    """

    def __init__(self, url: str, use: FileLock, revive: Callable[[], Awaitable[None]]) -> None:
        self.url = url
        self._use = use
        self._revive = revive

    async def revive(self) -> None:
        """Starts the worker again if it has died: as long as commands wait, nobody else would.

        Raises:
            EngineError: it cannot be started.
        """
        await self._revive()

    def close(self) -> None:
        """Says that this command needs it no more. Server and worker go on."""
        self._use.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How an engine fares.

    Attributes:
        state: stopped; starting (a command is at it); running; silent (its server lives and does not answer).
        folder: of its data and locks.
        url: of its server, unless it is stopped.
        server_pid: process id of its server.
        worker_running: whether a worker lives.
        worker_pid: process id of its worker, if one lives and it is known.
        worker_version: Puter's, as that worker was started.
        worker_ready: whether the worker serves.
        in_use: whether a command works with it.
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
    patience: Patience | None = None,
) -> Engine:
    """Starts what is missing of the engine, and returns when server and worker are usable.

    Args:
        paths: where it is.
        environ: whose `AWS_*` settings the worker shall run with; the whole becomes a new worker's environment.
        say: is told in one line of whatever takes time or is changed.
        worker_command: what to run in place of Puter's worker.
        patience: how long to wait for what.

    Raises:
        EngineError: it cannot be started or used; says why and what to do.
        InvalidInput: the state folder is not fit to be one.
    """
    patience = patience or Patience()
    with _told_in_a_line():
        paths.secure()
        use = FileLock(paths.engine / USE_LOCK)
        try:
            await _join(use, paths, say, patience)
            async with _starting(paths, say, patience):
                url = await ensure_server(paths, environ, say=say, patience=patience)
                try:
                    await ensure_worker(paths, environ, url, say=say, patience=patience, command=worker_command)
                except BaseException:
                    await _end_unless_used(use, url, paths, say, patience)
                    raise
        except BaseException:
            use.close()
            raise
    return Engine(url, use, partial(_revive, paths, environ, url, say, patience, worker_command))


async def engine_status(paths: Paths) -> EngineStatus:
    """How the engine fares; starts and changes nothing.

    Raises:
        EngineError: its files cannot be read.
    """
    folder = str(paths.engine)
    if not _is_there(paths):
        return EngineStatus(state="stopped", folder=folder)
    with _told_in_a_line(), FileLock(paths.engine / START_LOCK) as start:
        if not await poll(start.try_lock, _GLANCE_S):
            return EngineStatus(state="starting", folder=folder)
        with FileLock(paths.engine / USE_LOCK) as use:
            in_use = not use.try_lock()
        with FileLock(paths.engine / WORKER_LOCK) as lock:
            works = not lock.try_lock(shared=True)
            worker = lock.read(WorkerNote) if works else None
        with FileLock(paths.engine / ENGINE_LOCK) as lock:
            free = partial(lock.try_lock, shared=True)
            running = not free()
            engine = lock.read(EngineNote)
            socket = engine.socket if engine else str(paths.socket)
            if running:
                refuse_other_host(engine, lock.path, held=True)
            heard = running and await ask(socket) is not Answer.NONE
            # A server that was killed just now holds its lock until the last of its threads is gone.
            running = heard or (running and not await poll(free, _DYING_S))
        return EngineStatus(
            state="running" if heard else "silent" if running else "stopped",
            folder=folder,
            url=url_of(socket) if running else None,
            server_pid=server_pid(paths) if running else None,
            worker_running=works,
            worker_pid=worker.pid if worker else None,
            worker_version=worker.version if worker else None,
            worker_ready=worker is not None and worker.pid is not None and ready_pid(paths) == worker.pid,
            in_use=in_use,
        )


async def stop_engine(paths: Paths, *, say: Say, force: bool = False, patience: Patience | None = None) -> bool:
    """Ends worker and server in order; all that is queued stays on disk for the next start.

    Args:
        paths: where it is.
        say: is told in one line of whatever takes time.
        force: end it although commands work with it, or its server does not answer.
        patience: how long to wait for what.

    Returns:
        Whether there was anything to end.

    Raises:
        EngineError: it is in use, or does not end.
    """
    patience = patience or Patience()
    if not _is_there(paths):
        return False
    with _told_in_a_line(), FileLock(paths.engine / USE_LOCK) as use:
        if not await poll(use.try_lock, 0 if force else _GLANCE_S) and not force:
            raise EngineError(
                "the engine is in use by another command (a wait or a watch?): end that first, or stop it with --force"
            )
        async with _starting(paths, say, patience):
            with FileLock(paths.engine / ENGINE_LOCK) as server, FileLock(paths.engine / WORKER_LOCK) as worker:
                serves = not server.try_lock()
                note = server.read(EngineNote)
                socket = note.socket if note else paths.socket
                heard = False
                if serves:
                    refuse_other_host(note, server.path, held=True)
                    heard = await hears(server, socket, paths, say=say, force=force, patience=patience)
                works = not worker.try_lock()
                if works:
                    say("ending the engine's worker …")
                    drain = patience.drain if heard else min(_DRAIN_IN_VAIN_S, patience.drain)
                    await end_worker(worker, paths, msgspec.structs.replace(patience, drain=drain))
                if heard:
                    await shut_down(server, url_of(socket), paths, patience.answer)
                elif serves:
                    await end_silent(server, paths, patience)
                elif note is not None and this_host().sees(note.host):
                    server.write(None)
                return serves or works


async def _end_unless_used(use: FileLock, url: str, paths: Paths, say: Say, patience: Patience) -> None:
    """Ends a server that got no worker and has no other user: nobody else would, as the idle exit is the worker's.

    Needs `engine.start`. A command that waits for that lock shares `engine.use` already: the server stays for it, and
    should it get no worker either, it comes here in its turn. One that comes later waits at `engine.use` until this
    command is done, and starts the server anew.
    """
    with (
        suppress(EngineError, OSError),  # why there is no worker is what the user has to know
        FileLock(paths.engine / ENGINE_LOCK) as server,
        FileLock(paths.engine / WORKER_LOCK) as worker,
    ):
        if not worker.try_lock():
            return  # it is slow, or does not heed its end; should it serve after all, it sees to the idle exit
        if not use.try_lock():
            # Let go while engine.start is held: the next command to come here must not take this one for a user.
            use.close()
            return
        say("ending the engine's server, which has no worker …")
        await shut_down(server, url, paths, patience.answer)


async def _join(use: FileLock, paths: Paths, say: Say, patience: Patience) -> None:
    """Takes the engine into use; one that is just ending is waited for, then the way is free to start it anew."""
    free = partial(use.try_lock, shared=True)
    if await poll(free, _GLANCE_S):
        return
    say("the engine is just ending; waiting to start it again …")
    if not await poll(free, patience.others):
        with FileLock(paths.engine / WORKER_LOCK) as lock:
            note = lock.read(WorkerNote)
        who = f"its worker (pid {note.pid})" if note and note.pid else "a process of it"
        raise EngineError(f"the engine does not come to its end: {who} still holds {shown(use.path, 200)}")


async def _revive(
    paths: Paths,
    environ: Mapping[str, str],
    url: str,
    say: Say,
    patience: Patience,
    worker_command: Sequence[str] | None,
) -> None:
    if not has_died(paths):
        return
    with _told_in_a_line():
        async with _starting(paths, say, patience):
            with FileLock(paths.engine / ENGINE_LOCK) as server:
                # Without a server the engine was stopped, or there is nothing for a worker to do.
                if server.try_lock(shared=True) or not has_died(paths):
                    return
            say("the engine's worker has died; starting another one …")
            await ensure_worker(paths, environ, url, say=say, patience=patience, command=worker_command)


@asynccontextmanager
async def _starting(paths: Paths, say: Say, patience: Patience) -> AsyncIterator[None]:
    with FileLock(paths.engine / START_LOCK) as start:
        if not await poll(start.try_lock, _GLANCE_S):
            say("another command is starting the engine; waiting for it …")
            if not await poll(start.try_lock, patience.others):
                note = start.read(StartNote)
                who = f"pid {note.pid}, `kill` it if it hangs" if note else "pid unknown"
                raise EngineError(f"another command ({who}) is starting the engine and does not get done")
        start.write(StartNote(pid=os.getpid()))
        yield


def _is_there(paths: Paths) -> bool:
    """Whether an engine was ever started here. What lies in folders that others could fill is not believed."""
    with _told_in_a_line():
        try:
            paths.engine.lstat()
        except FileNotFoundError:
            return False
        paths.secure()
    return True


@contextmanager
def _told_in_a_line() -> Iterator[None]:
    """A full disk or a forbidden file is nothing that a user should meet as a traceback."""
    try:
        yield
    except OSError as error:
        where = f"{shown(error.filename, 200)}: " if error.filename else ""
        raise EngineError(f"the local engine: {where}{error.strerror or error}: mend it, or {ELSEWHERE}") from None
