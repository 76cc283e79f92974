"""Locks that end with the process that holds them: flock on files in the engine's folder.

`flock` belongs to an open file description, which processes inherit: a server that gets a lock at its start holds
it from its first instruction until it ends for whatever reason. So a lock is never released by `LOCK_UN`, which would
take it from every process that shares it, but only by closing the descriptor.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from puter_client.contract.errors import EngineError
from puter_client.contract.key import shown

Note = TypeVar("Note", bound=msgspec.Struct)

_NOTE_LIMIT_BYTES = 65_536


class FileLock:
    """A lock file, and the note that its holder writes into it.

    Children inherit the descriptor only if it is passed to them explicitly.

    Attributes:
        path: the lock file.
        fd: its open descriptor.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def try_lock(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free; never wait.

        Raises:
            EngineError: the file system does not support locks.
        """
        while True:
            self._follow_the_path()
            try:
                fcntl.flock(self.fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                    return False
                raise EngineError(
                    f"{shown(self.path, 200)} cannot be locked ({error.strerror}): "
                    "choose a folder on a local disk with PUTER_HOME=…"
                ) from None
            if self._is_at_its_path():
                return True

    def read(self, kind: type[Note]) -> Note | None:
        """The note in the file; None if there is no readable one."""
        try:
            return msgspec.json.decode(os.pread(self.fd, _NOTE_LIMIT_BYTES, 0), type=kind)
        except msgspec.MsgspecError:
            return None

    def write(self, note: msgspec.Struct | None) -> None:
        """Write a note, or empty the file for None. In place, since a new file would be another lock."""
        os.ftruncate(self.fd, 0)
        if note is not None:
            os.pwrite(self.fd, msgspec.json.encode(note), 0)

    def close(self) -> None:
        """Release the lock; a process that inherited the descriptor keeps it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _follow_the_path(self) -> None:
        """Open the file again if somebody removed it, since nobody else would try the lock on the old one."""
        if not self._is_at_its_path():
            fresh = _open(self.path)
            os.close(self.fd)
            self.fd = fresh

    def _is_at_its_path(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self.fd), self.path.lstat())
        except FileNotFoundError:
            return False


def _open(path: Path) -> int:
    # Non-blocking, so that a FIFO in its place does not keep a command waiting.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        _check_own_file(path, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_log(path: Path, *, limit_bytes: int = 1_048_576) -> int:
    """A log opened to append; one larger than the limit is renamed to `.1` first, replacing the older one."""
    try:
        if path.lstat().st_size > limit_bytes:
            path.replace(path.with_name(path.name + ".1"))
    except FileNotFoundError:
        pass
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        _check_own_file(path, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_own_file(path: Path, fd: int) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
        raise EngineError(
            f"{shown(path, 200)} is not a regular file of yours: remove it, or choose another folder with PUTER_HOME=…"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.fchmod(fd, 0o600)
