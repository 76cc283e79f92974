"""How an engine that is not in use ends itself; called by its worker."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from puter_client.contract.errors import EngineError
from puter_client.local.ending import shut_down
from puter_client.local.locks import FileLock
from puter_client.local.notes import ENGINE_LOCK, USE_LOCK, WORKER_LOCK, WORKER_READY
from puter_client.local.worker_process import LOCK_FD_VARIABLE
from puter_client.paths import Paths
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings

# Kept open until this process ends; see exit_if_unused.
_held_to_the_end: list[FileLock] = []


async def exit_if_unused(
    paths: Paths,
    redis_url: str,
    *,
    still_idle: Callable[[], Awaitable[bool]],
    timings: ClientTimings = DEFAULT_TIMINGS,
) -> bool:
    """End the engine's server if no command uses the engine; then the calling worker must exit.

    Why no request is lost: a command shares `engine.use` from before it looks for a server until it is done, and
    this function needs that lock exclusively. A command that came earlier makes the attempt fail. A command that
    came and went between the worker's last check and the attempt has left its request in Redis: so `still_idle`
    checks once more while no command can start. A command that comes later waits, finds no server, and starts one.
    For that the lock stays held until this process has ended: a command that continued earlier would take the
    ending worker for a serving one.

    It may be called twice, and by two workers: only one gets the lock.

    Args:
        paths: the engine's folders.
        redis_url: URL of its server.
        still_idle: whether no machine is live or on its way; called while no command can use the engine.
        timings: of the client.

    Returns:
        True: the server has ended with all its data on disk; exit at once. False: continue.
    """
    if _folder_was_replaced(paths):
        return True  # an engine that runs in the new folder is not this worker's
    use = FileLock(paths.engine / USE_LOCK)
    ended = False
    try:
        if not use.try_lock() or not await still_idle():
            return False
        with FileLock(paths.engine / ENGINE_LOCK) as lock:
            try:
                await shut_down(lock, redis_url, paths, timings.server_shutdown_s, timings.poll_s)
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
    """Whether somebody removed the state folder of this worker, so that another file is at its lock's path."""
    fd = os.environ.get(LOCK_FD_VARIABLE, "")
    if not fd.isdigit():
        return False
    try:
        return not os.path.samestat(os.fstat(int(fd)), (paths.engine / WORKER_LOCK).lstat())
    except FileNotFoundError:
        return True
    except OSError:
        return False
