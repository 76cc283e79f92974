"""How the engine's server is ended: in order if it answers, by signals if it does not.

Nothing that was acknowledged is lost either way, since every write is on disk by then (see `server_config`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

from puter_client.contract.errors import EngineError
from puter_client.contract.key import shown
from puter_client.local.locks import FileLock
from puter_client.local.poll import INTERVAL_S, poll
from puter_client.local.process import end_holder
from puter_client.local.server import Answer, Patience, Say, ask, server_pid, silent
from puter_client.paths import Paths

# A server that can still be woken, or can still heed a signal, does so in milliseconds.
_WAKING_S = 2.0
_HEEDING_S = 3.0


async def hears(lock: FileLock, socket: Path | str, paths: Paths, *, say: Say, force: bool, patience: Patience) -> bool:
    """Whether the server that holds the lock can be told to end; one that is silent is given time, or woken by force.

    Needs `engine.start`, for it tries the lock.

    Returns:
        False: it cannot; it is for signals to end it, should it not be gone by now.

    Raises:
        EngineError: it does not answer in time, and force was not requested.
    """
    if await ask(socket) is not Answer.NONE:
        return True
    pid = server_pid(paths)
    who = f"the engine's server{f' (pid {pid})' if pid else ''} does not answer"
    if force:
        say(f"{who}; waking it, else it is killed …")
        if pid is not None:
            await end_holder(lock, pid, signal.SIGCONT, 0)
    else:
        say(f"{who}; waiting up to {patience.answer:.0f} s for it …")
    deadline = time.monotonic() + (min(_WAKING_S, patience.answer) if force else patience.answer)
    while not lock.try_lock() and time.monotonic() < deadline:
        if await ask(socket) is not Answer.NONE:
            return True
        await asyncio.sleep(INTERVAL_S)
    if not force and not lock.try_lock():
        raise silent(paths)
    return False


async def end_silent(lock: FileLock, paths: Paths, patience: Patience) -> None:
    """Ends a server that does not answer, and leaves the lock, its note emptied, to the caller. Needs `engine.start`.

    Raises:
        EngineError: it does not even end when it is killed, or its process id is not known.
    """
    pid = server_pid(paths)
    if not lock.try_lock():
        if pid is None:
            raise silent(paths)
        heeded = await end_holder(lock, pid, signal.SIGTERM, min(_HEEDING_S, patience.answer))
        if not heeded and not await end_holder(lock, pid, signal.SIGKILL, patience.answer):
            raise EngineError(
                f"the engine's server (pid {pid}) does not end, though it was killed: "
                f"see `ps -p {pid}` (state D waits for a disk), and run this again"
            )
    lock.write(None)


async def shut_down(lock: FileLock, url: str, paths: Paths, within_s: float) -> None:
    """Ends the server in order and leaves the lock, its note emptied, to the caller. Nothing written is lost.

    NOSAVE speaks of snapshots alone; the append-only file is written out and synced whatever SHUTDOWN is told.

    Raises:
        EngineError: it refused, or did not end in time.
    """
    from redis.asyncio import Redis
    from redis.exceptions import RedisError, ResponseError

    client = Redis.from_url(url, socket_timeout=within_s, socket_connect_timeout=within_s)
    answered = True
    try:
        await client.shutdown(nosave=True)
    except ResponseError:
        raise EngineError(
            f"the engine's server cannot end without losing something and goes on; why is in its log, "
            f"{shown(paths.logs / 'server.log', 200)}"
        ) from None
    except (RedisError, OSError):
        answered = False
    finally:
        await client.aclose()
    if not await poll(lock.try_lock, within_s if answered else 0):
        raise silent(paths)
    lock.write(None)
