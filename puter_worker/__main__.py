"""`python -m puter_worker`: one worker process; `puter worker` runs it."""

# ruff: noqa: E402 - what is imported takes half a second

from __future__ import annotations

import signal

STOPS = (signal.SIGTERM, signal.SIGINT)
if __name__ == "__main__":
    # Held back until the worker can drain; half loaded, it could only die of them.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from puter_client.contract.errors import PuterError
from puter_client.local.worker_process import LOCK_FD_VARIABLE, READY_VARIABLE
from puter_client.store.redis_connection import why_refused
from puter_worker.logs import set_up_logs
from puter_worker.settings import Settings, read_settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run a worker until it is told to stop; the exit code."""
    parser = argparse.ArgumentParser(prog="puter worker", description="Grant requests until told to stop.")
    parser.add_argument("--burst", action="store_true", help="end when nothing is left to do")
    parser.add_argument("--embedded", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    os.umask(0o077)
    try:
        settings = read_settings(os.environ, burst=options.burst, embedded=options.embedded)
    except PuterError as error:
        sys.stderr.write(f"puter worker: {error}\n")
        return error.exit_code
    set_up_logs(options.embedded / "logs" if options.embedded else None)
    _settle_down()
    return asyncio.run(_run(settings))


def _settle_down() -> None:
    """Load what stays for good, and keep the garbage collector from looking through it again and again.

    The SDK's model of EC2 is a hundred thousand objects; collecting as Python does by default, a worker spends a
    tenth of its time on them.
    """
    from puter_worker.ec2.session import Sessions

    Sessions.preload()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _run(settings: Settings) -> int:
    from redis.exceptions import RedisError

    from puter_worker.worker import Worker

    # The lock that says that this process lives was opened by whoever started it; children must not keep it alive.
    if (lock := os.environ.get(LOCK_FD_VARIABLE, "")).isdigit():
        os.set_inheritable(int(lock), False)

    def ready() -> None:
        if path := os.environ.get(READY_VARIABLE):
            written = Path(f"{path}.{os.getpid()}")
            written.write_text(str(os.getpid()))
            written.replace(path)

    try:
        worker = Worker(settings, on_ready=ready)
        for number in STOPS:
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        await worker.run()
    except (RedisError, OSError) as error:
        sys.stderr.write(f"puter worker: {why_refused(settings.redis_url, error, role='worker')}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
