"""`puter worker`: replace this process by a worker."""

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
from puter_client.cli.options import json_option
from puter_client.config import redis_url
from puter_client.contract.errors import InvalidInput, PuterError
from puter_client.packages import how_to_install
from puter_client.store.redis_url import URL_VARIABLE

NEEDED = ("arq", "aioboto3", "puter_worker")


class WorkerNotInstalled(PuterError):
    """The packages that only workers need are missing."""

    exit_code: ClassVar[int] = 3


@click.command(short_help=COMMANDS["worker"][2])
@click.option("--burst", is_flag=True, help="End when there is nothing left to do.")
@click.option("--metrics", metavar="ADDRESS", help="Serve metrics for Prometheus there, such as on 127.0.0.1:9464.")
@click.option("--health", is_flag=True, help="Only tell whether the workers of this host work; exit code 0 or 1.")
@json_option
def worker(burst: bool, metrics: str | None, health: bool, as_json: bool) -> int:
    """Run a worker, which serves the requests of all clients of its Redis.

    Any number of workers may run, on any hosts. A worker uses the AWS
    credentials of its environment, and the profiles that requests name. After
    SIGTERM it finishes its work and ends. The local engine has its own worker.
    PUTER_POLICY names the file that says what each namespace may request.

    --health starts nothing: it prints a line for each worker of this host, with
    the last success of its stages, or with what is wrong.

    \b
    Examples:
      PUTER_REDIS_URL=rediss://worker:…@redis.example:6379 puter worker
      puter worker --burst
      puter worker --metrics 127.0.0.1:9464
      puter worker --health
    """
    if health and (burst or metrics is not None):
        raise InvalidInput("--health starts no worker: leave out --burst and --metrics")
    if as_json and not health:
        raise InvalidInput("--json is for --health: a worker logs JSON by itself")
    if health:
        return _health(as_json=as_json)

    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise WorkerNotInstalled(f"{missing[0]} is not installed: {how_to_install('worker')}")
    from puter_client.cli.session import here

    config, paths = here()
    environ = dict(os.environ)
    command = [sys.executable, "-m", "puter_worker", *(["--burst"] if burst else [])]
    if metrics is not None:
        command += ["--metrics", metrics]
    url, named_by = redis_url(environ, config, paths)
    if url is not None:
        environ[URL_VARIABLE] = url
        command += ["--redis-url-from", named_by]
    sys.stdout.flush()
    # Blocked until the worker can drain: a half-loaded worker would be killed by them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        os.execve(sys.executable, command, environ)  # noqa: S606 - no shell reads it
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)  # reached only if execve failed


def _health(*, as_json: bool) -> int:
    from puter_client.cli.follow import run
    from puter_client.cli.session import here
    from puter_client.cli.worker_health import show_health

    config, paths = here()
    url, named_by = redis_url(os.environ, config, paths)
    if url is None:
        raise InvalidInput(
            f"{URL_VARIABLE} is not set: `puter local status --stages` tells of the local engine's worker"
        )
    return run(lambda: show_health(url, named_by, as_json=as_json))
