"""How an engine that nobody needs ends itself, called by its worker."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from puter_client.contract.errors import EngineError
from puter_client.local.ending import shut_down
from puter_client.local.locks import FileLock
from puter_client.local.notes import ENGINE_LOCK, USE_LOCK, WORKER_LOCK, WORKER_READY
from puter_client.local.worker_process import LOCK_FD_VARIABLE
from puter_client.paths import Paths

_SHUTDOWN_S = 30.0

# Open until this process ends; see exit_if_unused.
_held_to_the_end: list[FileLock] = []


async def exit_if_unused(paths: Paths, redis_url: str, *, still_idle: Callable[[], Awaitable[bool]]) -> bool:
    """Ends the engine's server if no command works with the engine; then the calling worker has to exit.

    Why no request is left behind: a command shares `engine.use` from before it looks for a server until it is done,
    and this needs it exclusively. A command that came before makes the try fail. One that came and went between
    the worker's last look and the try has left its request in Redis: so `still_idle` looks once more, when nobody can
    come any more. One that comes after it waits, then finds no server and starts one. For that the lock stays held
    until this process is gone: a command that went on sooner would take the leaving worker for a serving one.

    May be called twice, and by two workers: one gets the lock.

    Args:
        paths: of the engine.
        redis_url: of its server.
        still_idle: whether nothing is alive or on its way; asked with the engine closed to commands.

    Returns:
        True: the server has ended with all its data on disk; exit at once. False: go on as before.
    """
    if _folder_was_replaced(paths):
        return True  # whatever runs in that folder now is not this worker's to end
    use = FileLock(paths.engine / USE_LOCK)
    ended = False
    try:
        if not use.try_lock() or not await still_idle():
            return False
        with FileLock(paths.engine / ENGINE_LOCK) as lock:
            try:
                await shut_down(lock, redis_url, paths, _SHUTDOWN_S)
            except EngineError:
                return False
        ended = True
    finally:
        if ended:
            _held_to_the_end.append(use)
            (paths.engine / WORKER_READY).unlink(missing_ok=True)
        else:
            use.close()
    return True


def _folder_was_replaced(paths: Paths) -> bool:
    """Whether somebody removed the state folder under this worker: its lock is no more the one at the path."""
    fd = os.environ.get(LOCK_FD_VARIABLE, "")
    if not fd.isdigit():
        return False
    try:
        return not os.path.samestat(os.fstat(int(fd)), (paths.engine / WORKER_LOCK).lstat())
    except FileNotFoundError:
        return True
    except OSError:
        return False
