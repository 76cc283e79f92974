"""The engine's worker: one process that holds `worker.lock`, with the environment of the command that started it."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from puter_client import __version__
from puter_client.contract.errors import EngineError, InvalidInput, PuterError
from puter_client.contract.key import shown
from puter_client.local.environment import aws_settings, digest, other_settings
from puter_client.local.locks import FileLock, open_log
from puter_client.local.notes import (
    WORKER_LOCK,
    WORKER_READY,
    Host,
    WorkerNote,
    this_host,
    why_replace,
)
from puter_client.local.poll import poll
from puter_client.local.process import end_holder, last_line, spawn
from puter_client.local.server import Say
from puter_client.packages import how_to_install
from puter_client.paths import Paths, absolute
from puter_client.store.redis_url import URL_VARIABLE
from puter_client.timings import ClientTimings

LOCK_FD_VARIABLE = "PUTER_WORKER_LOCK_FD"  # descriptor of worker.lock, which the worker keeps open
READY_VARIABLE = "PUTER_WORKER_READY"  # file into which the worker writes its process id once it serves

WORKER = (sys.executable, "-m", "puter_worker")
PREFIX = "puter worker: "  # of the line in which a worker says why it does not start

# Relative paths in these variables are meant from the command's folder; the worker runs in another folder.
_FILES = (
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "BOTO_CONFIG",
    "PUTER_HOME",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
)


def worker_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment: that of the command, with its relative paths made absolute.

    Raises:
        InvalidInput: one is relative to a folder that was removed.
    """
    found = {
        name: str(absolute(environ[name], name))
        for name in _FILES
        if environ.get(name, "").strip() and not environ[name].startswith(("/", "~"))
    }
    return {**environ, **found}


def ready_pid(paths: Paths) -> int | None:
    """Process id of the worker that reported that it serves."""
    try:
        return int((paths.engine / WORKER_READY).read_text())
    except (OSError, ValueError):
        return None


def has_died(paths: Paths) -> bool:
    """Whether the worker that reported that it serves has died; one that ends in order removes its report before."""
    pid = ready_pid(paths)
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # the pid is another user's by now; the next command finds out
    return False


async def ensure_worker(
    paths: Paths,
    environ: Mapping[str, str],
    url: str,
    *,
    say: Say,
    timings: ClientTimings,
    command: Sequence[str] | None = None,
) -> None:
    """Ensure that a worker serves with this environment's settings. The caller must hold `engine.start`.

    Raises:
        InvalidInput: the AWS settings cannot be used; a running worker is not replaced then.
        EngineError: the worker cannot be started, or one that must be replaced does not end.
    """
    environ = worker_environ(environ)
    version = __version__
    with FileLock(paths.engine / WORKER_LOCK) as lock:
        if not lock.try_lock() and not await _freed_or_ready(lock, paths, timings):
            note = lock.read(WorkerNote)
            if note is None:
                reason: str | None = "how it was started is not known"
            else:
                reason = why_replace(note, environ=environ, version=version, url=url)
            if reason is None:
                return
            if command is None:
                await _check(paths, environ, timings)
            await end_worker(lock, paths, timings, timings.worker_drain_s)
            say(f"replacing the engine's worker: {reason}")
        await _start(lock, paths, environ, url, version, timings=timings, command=command)


async def _freed_or_ready(lock: FileLock, paths: Paths, timings: ClientTimings) -> bool:
    """Wait while a worker is starting or ending; True: the caller now holds the lock, False: a worker serves."""
    if not await poll(lambda: ready_pid(paths) is not None or lock.try_lock(), timings.worker_ready_s, timings.poll_s):
        raise _not_ready(lock, paths, timings)
    return lock.try_lock()


def _not_ready(lock: FileLock, paths: Paths, timings: ClientTimings) -> EngineError:
    note = lock.read(WorkerNote)
    pid = note.pid if note else None
    who, remedy = (f" (pid {pid})", f"`kill {pid}` and run this again") if pid else ("", "run this again")
    return EngineError(
        f"the engine's worker{who} is not ready after {timings.worker_ready_s:.0f} s: {remedy}; "
        f"its log is {shown(paths.logs / 'worker.out', 200)}"
    )


async def end_worker(lock: FileLock, paths: Paths, timings: ClientTimings, drain_s: float) -> None:
    """Tell the worker that holds the lock to finish its work and end. The caller must hold `engine.start`.

    A worker that takes longer than `drain_s` is killed: the next worker continues its work from Redis.

    Raises:
        EngineError: the worker does not end, or runs on another host.
    """
    note = lock.read(WorkerNote)
    pid = (note.pid if note else None) or ready_pid(paths)
    host: Host | None = note.host if note else None
    if host is not None and not this_host().sees(host):
        raise EngineError(
            f"the engine's worker runs on host {shown(host.name)}: end it there, "
            "or choose another folder here with PUTER_HOME=…"
        )
    if pid is None:
        raise _not_ready(lock, paths, timings)
    (paths.engine / WORKER_READY).unlink(missing_ok=True)
    if await end_holder(lock, pid, signal.SIGTERM, drain_s, timings.poll_s):
        return
    if not await end_holder(lock, pid, signal.SIGKILL, timings.server_answer_s, timings.poll_s):
        raise EngineError(f"the engine's worker (pid {pid}) does not end: check `ps -p {pid}`, then run this again")


async def _start(
    lock: FileLock,
    paths: Paths,
    environ: Mapping[str, str],
    url: str,
    version: str,
    *,
    timings: ClientTimings,
    command: Sequence[str] | None,
) -> None:
    ready = paths.engine / WORKER_READY
    ready.unlink(missing_ok=True)
    salt = secrets.token_hex(16)
    # Written before the process starts: if this command is killed right afterwards, no old note must remain.
    note = WorkerNote(
        host=this_host(),
        version=version,
        url=url,
        salt=salt,
        aws_settings=digest(aws_settings(environ), salt),
        other_settings=digest(other_settings(environ), salt),
    )
    lock.write(note)
    log = paths.logs / "worker.out"
    output = open_log(log)
    try:
        since = os.fstat(output).st_size
        worker = spawn(
            command or [*WORKER, "--local-engine", str(paths.state)],
            environ={
                **environ,
                URL_VARIABLE: url,
                LOCK_FD_VARIABLE: str(lock.fd),
                READY_VARIABLE: str(ready),
            },
            folder=paths.engine,
            output=output,
            keep=(lock.fd,),
        )
    finally:
        os.close(output)
    lock.write(msgspec.structs.replace(note, pid=worker.pid))
    if not await poll(
        lambda: ready_pid(paths) == worker.pid or worker.poll() is not None, timings.worker_ready_s, timings.poll_s
    ):
        raise _not_ready(lock, paths, timings)
    if worker.poll() is not None:
        raise _died(worker, log, since)


async def _check(paths: Paths, environ: Mapping[str, str], timings: ClientTimings) -> None:
    """Check the settings of a new worker while the old one still serves; only workers have the AWS SDK.

    Raises:
        InvalidInput: they cannot be used.
    """
    checking = await asyncio.create_subprocess_exec(
        *WORKER,
        "--check-aws-settings",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env=environ,
        cwd=paths.engine,  # not the command's folder, which may hold anything that Python would import
    )
    try:
        async with asyncio.timeout(timings.worker_ready_s):
            _, told = await checking.communicate()
    except BaseException:  # also Ctrl-C
        with suppress(ProcessLookupError):
            checking.kill()
        raise
    if checking.returncode == InvalidInput.exit_code:
        raise InvalidInput(_refusal(told))


def _refusal(told: bytes) -> str:
    """Why a worker refused its settings, as it wrote it."""
    lines = [line for line in told.decode(errors="replace").splitlines() if line.startswith(PREFIX)]
    return lines[-1].removeprefix(PREFIX) if lines else "the worker refuses its settings, and wrote no reason"


def _died(worker: subprocess.Popen[bytes], log: Path, since: int) -> PuterError:
    if worker.returncode == InvalidInput.exit_code:
        with log.open("rb") as written:
            written.seek(since)
            return InvalidInput(_refusal(written.read()))
    words = last_line(log, since) or f"it wrote nothing and ended with exit code {worker.returncode}"
    missing = "ModuleNotFoundError" in words or "ImportError" in words
    remedy = how_to_install("local") if missing else f"its log is {shown(log, 200)}"
    return EngineError(f"the engine's worker failed to start: {words}; {remedy}")
