"""The engine's worker: one process that holds `worker.lock`, with the AWS settings of whoever started it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from puter_client import __version__
from puter_client.contract.errors import EngineError
from puter_client.contract.key import shown
from puter_client.local.locks import FileLock, open_log
from puter_client.local.notes import (
    WORKER_LOCK,
    WORKER_READY,
    Host,
    WorkerNote,
    settings_digest,
    this_host,
    why_replace,
)
from puter_client.local.poll import poll
from puter_client.local.process import end_holder, last_line, spawn
from puter_client.local.server import Patience, Say
from puter_client.paths import Paths

URL_VARIABLE = "PUTER_REDIS_URL"
LOCK_FD_VARIABLE = "PUTER_WORKER_LOCK_FD"  # descriptor of worker.lock, which the worker just keeps open
READY_VARIABLE = "PUTER_WORKER_READY"  # file into which the worker writes its process id once it serves

# Read relative to the folder of the command that was given them; the worker runs in another.
_FILES = (
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CA_BUNDLE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "PUTER_HOME",
)


def worker_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """A command's environment as its worker gets it: the same, with its files named from the root."""
    absolute = {
        name: os.path.abspath(environ[name])  # noqa: PTH100 - a symlink may be meant to be followed later
        for name in _FILES
        if environ.get(name, "").strip() and not environ[name].startswith(("/", "~"))
    }
    return {**environ, **absolute}


def ready_pid(paths: Paths) -> int | None:
    """Process id of the worker that says it serves."""
    try:
        return int((paths.engine / WORKER_READY).read_text())
    except (OSError, ValueError):
        return None


def has_died(paths: Paths) -> bool:
    """Whether the worker that said it serves is gone; one that is ended in order says so before, and is replaced."""
    pid = ready_pid(paths)
    if pid is None:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False  # somebody else's by now: what can be told is told by the next command
    return False


async def ensure_worker(
    paths: Paths,
    environ: Mapping[str, str],
    url: str,
    *,
    say: Say,
    patience: Patience,
    command: Sequence[str] | None = None,
) -> None:
    """Sees to a worker that serves, with this environment's AWS settings. Needs `engine.start`.

    Raises:
        EngineError: it cannot be started, or one that must go does not.
    """
    environ = worker_environ(environ)
    version = __version__
    with FileLock(paths.engine / WORKER_LOCK) as lock:
        if not lock.try_lock() and not await _freed_or_ready(lock, paths, patience):
            note = lock.read(WorkerNote)
            if note is None:
                reason: str | None = "nothing is known of how it was started"
            else:
                reason = why_replace(note, environ=environ, version=version, url=url)
            if reason is None:
                return
            await end_worker(lock, paths, patience)
            say(f"replacing the engine's worker: {reason}")
        await _start(lock, paths, environ, url, version, patience=patience, command=command)


async def _freed_or_ready(lock: FileLock, paths: Paths, patience: Patience) -> bool:
    """Waits while a worker is starting or ending; True: the lock is now the caller's, False: a worker serves."""
    if not await poll(lambda: ready_pid(paths) is not None or lock.try_lock(), patience.ready):
        raise _not_ready(lock, paths, patience)
    return lock.try_lock()


def _not_ready(lock: FileLock, paths: Paths, patience: Patience) -> EngineError:
    note = lock.read(WorkerNote)
    pid = note.pid if note else None
    who, remedy = (f" (pid {pid})", f"`kill {pid}` and run this again") if pid else ("", "run this again")
    return EngineError(
        f"the engine's worker{who} does not serve after {patience.ready:.0f} s: {remedy}; "
        f"its log is {shown(paths.logs / 'worker.out', 200)}"
    )


async def end_worker(lock: FileLock, paths: Paths, patience: Patience) -> None:
    """Has the worker that holds the lock finish what it is at and end. Needs `engine.start`.

    One that takes too long is killed: whatever it was at is taken up from Redis by the next one.

    Raises:
        EngineError: it does not end, or cannot be reached from here.
    """
    note = lock.read(WorkerNote)
    pid = (note.pid if note else None) or ready_pid(paths)
    host: Host | None = note.host if note else None
    if host is not None and not this_host().sees(host):
        raise EngineError(
            f"the engine's worker runs on host {shown(host.name)}: end it there, or choose PUTER_HOME=… here"
        )
    if pid is None:
        raise _not_ready(lock, paths, patience)
    (paths.engine / WORKER_READY).unlink(missing_ok=True)
    if await end_holder(lock, pid, signal.SIGTERM, patience.drain):
        return
    if not await end_holder(lock, pid, signal.SIGKILL, patience.answer):
        raise EngineError(f"the engine's worker (pid {pid}) does not end: see `ps -p {pid}`, and run this again")


async def _start(
    lock: FileLock,
    paths: Paths,
    environ: Mapping[str, str],
    url: str,
    version: str,
    *,
    patience: Patience,
    command: Sequence[str] | None,
) -> None:
    ready = paths.engine / WORKER_READY
    ready.unlink(missing_ok=True)
    salt = secrets.token_hex(16)
    # Before there is a process: were this command killed right after starting it, the note must not be another's.
    note = WorkerNote(host=this_host(), version=version, url=url, salt=salt, settings=settings_digest(environ, salt))
    lock.write(note)
    log = paths.logs / "worker.out"
    output = open_log(log)
    try:
        since = os.fstat(output).st_size
        worker = spawn(
            command or [sys.executable, "-m", "puter_worker", "--embedded", str(paths.state)],
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
    if not await poll(lambda: ready_pid(paths) == worker.pid or worker.poll() is not None, patience.ready):
        raise _not_ready(lock, paths, patience)
    if worker.poll() is not None:
        raise _died(worker, log, since)


def _died(worker: subprocess.Popen[bytes], log: Path, since: int) -> EngineError:
    words = last_line(log, since) or f"it said nothing and ended with {worker.returncode}"
    missing = "ModuleNotFoundError" in words or "ImportError" in words
    remedy = (
        "`pip install '.[local]'` in Puter's folder brings what it needs"
        if missing
        else f"its log is {shown(log, 200)}"
    )
    return EngineError(f"the engine's worker ended as it started: {words}; {remedy}")
