"""How the engine's server is ended: by SHUTDOWN if it answers, by signals if it does not.

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
from puter_client.local.poll import poll
from puter_client.local.process import end_holder
from puter_client.local.server import Answer, Say, ask, server_pid, silent
from puter_client.paths import Paths
from puter_client.timings import ClientTimings


async def answers(
    lock: FileLock, socket: Path | str, paths: Paths, *, say: Say, force: bool, timings: ClientTimings
) -> bool:
    """Whether the server that holds the lock can be told to end; a silent one is waited for, or woken with `force`.

    The caller must hold `engine.start`, because the lock is tried here.

    Returns:
        False: it does not answer; if it still runs, only signals can end it.

    Raises:
        EngineError: it does not answer in time, and `force` was not given.
    """
    if await ask(socket, timings) is not Answer.NONE:
        return True
    pid = server_pid(paths)
    who = f"the engine's server{f' (pid {pid})' if pid else ''} does not answer"
    if force:
        say(f"{who}: resuming it, then killing it if it stays silent …")
        if pid is not None:
            await end_holder(lock, pid, signal.SIGCONT, 0, timings.poll_s)
    else:
        say(f"{who}: waiting up to {timings.server_answer_s:.0f} s …")
    within_s = min(timings.server_wakes_within_s, timings.server_answer_s) if force else timings.server_answer_s
    deadline = time.monotonic() + within_s
    while not lock.try_lock() and time.monotonic() < deadline:
        if await ask(socket, timings) is not Answer.NONE:
            return True
        await asyncio.sleep(timings.poll_s)
    if not force and not lock.try_lock():
        raise silent(paths)
    return False


async def end_silent(lock: FileLock, paths: Paths, timings: ClientTimings) -> None:
    """End a server that does not answer; afterwards the caller holds the lock, and the lock's note is empty.

    The caller must hold `engine.start`.

    Raises:
        EngineError: the server does not end although it was killed, or its process id is not known.
    """
    pid = server_pid(paths)
    if not lock.try_lock():
        if pid is None:
            raise silent(paths)
        heeds_within_s = min(timings.server_heeds_within_s, timings.server_answer_s)
        ended = await end_holder(lock, pid, signal.SIGTERM, heeds_within_s, timings.poll_s)
        if not ended and not await end_holder(lock, pid, signal.SIGKILL, timings.server_answer_s, timings.poll_s):
            raise EngineError(
                f"the engine's server (pid {pid}) was killed but does not end: check `ps -p {pid}` "
                "(state D: it waits for a disk), then run this again"
            )
    lock.write(None)


async def shut_down(lock: FileLock, url: str, paths: Paths, within_s: float, every_s: float) -> None:
    """End the server in order; afterwards the caller holds the lock, and the lock's note is empty.

    Nothing written is lost: NOSAVE is about snapshots, and SHUTDOWN always syncs the append-only file.

    Raises:
        EngineError: the server refused, or did not end in time.
    """
    from redis.asyncio import Redis
    from redis.exceptions import RedisError, ResponseError

    client = Redis.from_url(url, socket_timeout=within_s, socket_connect_timeout=within_s)
    answered = True
    try:
        await client.shutdown(nosave=True)
    except ResponseError:
        raise EngineError(
            "the engine's server refuses to end, because data would be lost; it keeps running; "
            f"the reason is in its log, {shown(paths.logs / 'server.log', 200)}"
        ) from None
    except (RedisError, OSError):
        answered = False
    finally:
        await client.aclose()
    if not await poll(lock.try_lock, within_s if answered else 0, every_s):
        raise silent(paths)
    lock.write(None)
