"""`puter worker`: run a worker in this process's place."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from typing import ClassVar

import click

from puter_client.cli.group import COMMANDS
from puter_client.contract.errors import PuterError

NEEDED = ("arq", "aioboto3", "puter_worker")


class WorkerNotInstalled(PuterError):
    """The packages that only workers need are missing."""

    exit_code: ClassVar[int] = 3


@click.command(short_help=COMMANDS["worker"][2])
@click.option("--burst", is_flag=True, help="End when nothing is left to do.")
def worker(burst: bool) -> None:
    """Run a worker, which grants the requests of all clients of its Redis.

    Any number may run, on any hosts. It uses the AWS credentials found here,
    and those of the profiles that requests name. SIGTERM has it finish what it
    is at. The local engine has one of its own.

    \b
    Examples:
      PUTER_REDIS_URL=rediss://puter:…@redis.example:6379 puter worker
      puter worker --burst
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise WorkerNotInstalled(f"{missing[0]} is not installed: `pip install '.[worker]'` in Puter's folder")
    from puter_client.cli.session import here

    config, _ = here()
    environ = dict(os.environ)
    if not environ.get("PUTER_REDIS_URL") and config.redis_url:
        environ["PUTER_REDIS_URL"] = config.redis_url
    command = [sys.executable, "-m", "puter_worker", *(["--burst"] if burst else [])]
    sys.stdout.flush()
    # Held back until the worker can drain: half loaded, it could only die of them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        os.execve(sys.executable, command, environ)  # noqa: S606 - no shell reads it
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # it could not be started
