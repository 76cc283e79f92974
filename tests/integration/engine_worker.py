"""A stand-in for the local engine's worker: connects, announces itself and serves until it is told to end.

Whoever starts it sets STUB_STARTS, a file that gets a line a start (pid, digest of the AWS secret it was given),
and STUB_IDLE, a folder in which the file `try` makes it try to end the engine, and into which it writes the outcome;
and may set STUB_END, `late` to ignore SIGTERM, and STUB_CONFIG_SEEN, a file that gets the AWS_CONFIG_FILE it was given.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from pathlib import Path

from redis.asyncio import Redis

from puter_client.local import exit_if_unused
from puter_client.paths import Paths


async def serve() -> None:
    os.set_inheritable(int(os.environ["PUTER_WORKER_LOCK_FD"]), False)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    late = os.environ.get("STUB_END") == "late"
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if late else ended.set)
    secret = hashlib.sha256(os.environ.get("AWS_SECRET_ACCESS_KEY", "").encode()).hexdigest()
    _tell_the_test(secret)
    async with Redis.from_url(os.environ["PUTER_REDIS_URL"]) as redis:
        await redis.set(f"puter:_public:worker:{os.getpid()}", "{}", ex=60)
    ready = Path(os.environ["PUTER_WORKER_READY"])
    fresh = ready.with_name("worker.ready.new")
    fresh.write_text(str(os.getpid()))
    fresh.replace(ready)
    while not ended.is_set():
        if await _tried_to_end(Path(os.environ["STUB_IDLE"])):
            return
        await asyncio.sleep(0.01)


def _tell_the_test(secret: str) -> None:
    with Path(os.environ["STUB_STARTS"]).open("a") as starts:
        starts.write(f"{os.getpid()} {secret}\n")
    if seen := os.environ.get("STUB_CONFIG_SEEN"):
        Path(seen).write_text(os.environ["AWS_CONFIG_FILE"])


async def _tried_to_end(folder: Path) -> bool:
    asked = folder / "try"
    if not asked.exists():
        return False
    asked.unlink()

    async def still_idle() -> bool:
        (folder / "asked").write_text("")
        while (folder / "hold").exists():
            await asyncio.sleep(0.01)
        return not (folder / "busy").exists()

    paths = Paths.from_environ(os.environ)
    left = await exit_if_unused(paths, os.environ["PUTER_REDIS_URL"], still_idle=still_idle)
    while left and (folder / "linger").exists():
        await asyncio.sleep(0.01)
    fresh = folder / "outcome.new"
    fresh.write_text(str(left))
    fresh.replace(folder / "outcome")
    return left


if __name__ == "__main__":
    sys.exit(asyncio.run(serve()))
