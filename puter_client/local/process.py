"""Processes that outlive the command which starts them, and how such a process is ended by its lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from puter_client.contract.errors import EngineError
from puter_client.contract.key import shown
from puter_client.local.locks import FileLock
from puter_client.local.poll import poll

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def spawn(
    command: Sequence[str], *, environ: Mapping[str, str], folder: Path, output: int, keep: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Starts a process in a session of its own, which neither Ctrl-C nor the end of a terminal reaches.

    Args:
        command: what to run.
        environ: its whole environment.
        folder: where it runs; not the caller's, which may be gone tomorrow.
        output: descriptor that takes its output.
        keep: descriptors that it inherits; no others are.

    Raises:
        EngineError: it cannot be run.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - the command is Puter's own, no shell reads it
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            cwd=folder,
            start_new_session=True,
            pass_fds=keep,
            umask=0o077,
        )
    except OSError as error:
        raise EngineError(f"{shown(command[0], 200)} cannot be run: {error.strerror}") from None
    # Should it end before a long-lived caller does, somebody has to take note of it, or it stays as a zombie.
    threading.Thread(target=process.wait, name=f"reaper of {process.pid}", daemon=True).start()
    return process


async def end_holder(lock: FileLock, pid: int, number: signal.Signals, within_s: float) -> bool:
    """Signals the process that holds a lock, and waits until the lock is free; then it is the caller's.

    Only for callers that hold `engine.start`, so that nobody else tries the lock: a lock that is not to be had is
    then the lock of a living process, and the note in it speaks of that process.

    Returns:
        Whether the lock was let go in time.
    """
    with _signaller(pid) as send:
        # Looked at after the process was taken hold of: a pid that changed hands in between is not signalled.
        if lock.try_lock():
            return True
        send(number)
    return await poll(lock.try_lock, within_s)


@contextmanager
def _signaller(pid: int) -> Iterator[Callable[[signal.Signals], None]]:
    """How to signal a process: on Linux by a handle, which never comes to mean another process."""
    handle = _handle(pid)

    def send(number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if handle is not None and sys.platform == "linux":
                signal.pidfd_send_signal(handle, number)
            else:
                os.kill(pid, number)

    try:
        yield send
    finally:
        if handle is not None:
            os.close(handle)


def _handle(pid: int) -> int | None:
    # Kernels before 5.3 and some sandboxes have none; nor has a process that is gone.
    with suppress(OSError):
        if sys.platform == "linux":
            return os.pidfd_open(pid)
    return None


def last_line(path: Path, since: int = 0) -> str:
    """The last line of a log, from a byte offset on, fit to be shown; empty if there is none."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(since, size - 4_096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((shown(line.strip(), 200) for line in reversed(lines) if line.strip()), "")
