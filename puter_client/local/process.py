"""Processes that outlive the command that starts them, and how such a process is ended."""

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
    """Start a process in its own session, which neither Ctrl-C nor a closed terminal reaches.

    Args:
        command: what to run.
        environ: the whole environment of the process.
        folder: its working folder; the caller's may be gone tomorrow.
        output: descriptor for its output.
        keep: the only descriptors that it inherits.

    Raises:
        EngineError: the command cannot be run.
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
    # A caller that lives longer than the process must wait for it, or the process remains as a zombie.
    threading.Thread(target=process.wait, name=f"reaper of {process.pid}", daemon=True).start()
    return process


async def end_holder(lock: FileLock, pid: int, number: signal.Signals, within_s: float, every_s: float) -> bool:
    """Signal the process that holds a lock, and take the lock as soon as it is free; it is tried every `every_s`.

    The caller must hold `engine.start`, so that nobody else tries the lock: if it is not free, a running process
    holds it, and the note in it is about that process.

    Returns:
        Whether the lock was released in time.
    """
    with _signaller(pid) as send:
        # Checked after the handle was opened: a process that got the same pid in between is not signalled.
        if lock.try_lock():
            return True
        send(number)
    return await poll(lock.try_lock, within_s, every_s)


@contextmanager
def _signaller(pid: int) -> Iterator[Callable[[signal.Signals], None]]:
    """A function that signals a process; on Linux by a handle, which never refers to another process."""
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
    # Kernels before 5.3 and some sandboxes have no handles; a process that ended has none either.
    with suppress(OSError):
        if sys.platform == "linux":
            return os.pidfd_open(pid)
    return None


def last_line(path: Path, since: int = 0) -> str:
    """The last line of a log after a byte offset, made safe to show; empty if there is none."""
    try:
        with path.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(since, size - 4_096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((shown(line.strip(), 200) for line in reversed(lines) if line.strip()), "")
