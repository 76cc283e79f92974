"""`python -m puter_worker`: one worker process; `puter worker` runs it."""

# ruff: noqa: E402 - the imports take half a second

from __future__ import annotations

import signal

STOPS = (signal.SIGTERM, signal.SIGINT)
if __name__ == "__main__":
    # These signals are blocked until the worker can drain: before that, they would kill it while it loads.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)

import argparse
import asyncio
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from puter_client.contract.errors import InvalidInput, PuterError
from puter_client.local.worker_process import LOCK_FD_VARIABLE, READY_VARIABLE
from puter_client.store.redis_errors import why_refused
from puter_client.store.redis_url import URL_VARIABLE
from puter_worker.clock import Clock
from puter_worker.errors import StageError
from puter_worker.log_limit import EVERY_S, LogLimit
from puter_worker.logs import set_up_logs
from puter_worker.rates import Rates
from puter_worker.settings import WorkerSettings, read_settings
from puter_worker.supervisor import Supervisor
from puter_worker.timings import Timings


def main(
    argv: Sequence[str] | None = None,
    *,
    timings: Timings | None = None,
    rates: Rates | None = None,
    clock: Clock | None = None,
) -> int:
    """Run a worker until it is told to stop; returns the exit code. None gives the production values."""
    parser = argparse.ArgumentParser(prog="puter worker", description="Serve requests until told to stop.")
    parser.add_argument("--burst", action="store_true", help="end when nothing is left to do")
    parser.add_argument("--metrics", metavar="ADDRESS", help="serve metrics for Prometheus, such as on 127.0.0.1:9464")
    parser.add_argument("--local-engine", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--redis-url-from", default=URL_VARIABLE, metavar="SETTING", help=argparse.SUPPRESS)
    parser.add_argument("--check-aws-settings", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    os.umask(0o077)
    _drop_empty_settings()
    if options.check_aws_settings:
        return asyncio.run(_check())
    try:
        settings = read_settings(
            os.environ,
            burst=options.burst,
            local_engine=options.local_engine,
            redis_url_from=options.redis_url_from,
            metrics=options.metrics,
        )
    except PuterError as error:
        sys.stderr.write(f"puter worker: {error}\n")
        return error.exit_code
    limit = set_up_logs(options.local_engine / "logs" if options.local_engine else None)
    _preload()
    try:
        return asyncio.run(_run(settings, limit, timings, rates, clock))
    finally:
        limit.tell_due(at_the_end=True)


def _drop_empty_settings() -> None:
    """Take an empty variable for one that is not set.

    The SDK would look for a profile without a name, or switch off the check of certificates because the file of CA
    certificates has no name.
    """
    for name in [name for name, value in os.environ.items() if not value and name.startswith(("AWS_", "REQUESTS_CA"))]:
        del os.environ[name]


async def _check() -> int:
    """Check the AWS settings of this environment, and end: the local engine does so before it replaces a worker."""
    from puter_worker.ec2.session import Sessions

    sessions = Sessions(timings=Timings(), version="")
    try:
        await sessions.check()
    except StageError as error:
        return _refused(error)
    finally:
        await sessions.aclose()
    return 0


def _refused(error: StageError) -> int:
    """Tell why the worker does not start; returns the exit code of a setting that cannot be used."""
    sys.stderr.write(f"puter worker: {error.message}\n")
    return InvalidInput.exit_code


def _preload() -> None:
    """Load what the process keeps until its end, exclude it from garbage collection, and keep turns of threads short.

    The SDK's model of EC2 has a hundred thousand objects; with Python's defaults, a worker would spend a tenth of its
    time scanning them.
    """
    from puter_worker.ec2.core import preload

    preload()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    # Large answers of EC2 are parsed in threads; with Python's 5 ms the event loop waits so long for each of its turns.
    sys.setswitchinterval(0.001)


async def _run(
    settings: WorkerSettings, limit: LogLimit, timings: Timings | None, rates: Rates | None, clock: Clock | None
) -> int:
    from redis.exceptions import RedisError

    from puter_worker.worker import Worker

    # The parent process opened the lock that shows that this process runs; child processes must not inherit it.
    if (lock := os.environ.get(LOCK_FD_VARIABLE, "")).isdigit():
        os.set_inheritable(int(lock), False)

    supervisor = Supervisor(os.environ)

    def ready() -> None:
        if path := os.environ.get(READY_VARIABLE):
            written = Path(f"{path}.{os.getpid()}")
            written.write_text(str(os.getpid()))
            written.replace(path)
        supervisor.tell("READY=1")

    watching = [asyncio.create_task(_tell_what_was_left_out(limit))]

    def stop() -> None:
        supervisor.tell("STOPPING=1")
        worker.stop()

    try:
        worker = Worker(settings, timings=timings, rates=rates, clock=clock, on_ready=ready)
        for number in STOPS:
            asyncio.get_running_loop().add_signal_handler(number, stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
        await worker.check()
        watching.append(asyncio.create_task(supervisor.keep_told(worker.hanging)))
        await worker.run()
    except StageError as error:
        return _refused(error)
    except PuterError as error:
        sys.stderr.write(f"puter worker: {error}\n")
        return error.exit_code
    except (RedisError, OSError) as error:
        why = why_refused(settings.redis_url, error, role="worker", named_by=settings.redis_url_from)
        sys.stderr.write(f"puter worker: {why}\n")
        return 3
    finally:
        for task in watching:
            task.cancel()
    return 0


async def _tell_what_was_left_out(limit: LogLimit) -> None:
    while True:
        await asyncio.sleep(EVERY_S)
        limit.tell_due()


if __name__ == "__main__":
    sys.exit(main())
