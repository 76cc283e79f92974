"""Locks that live exactly as long as the process that holds them: flock on files of the engine's folder.

`flock` belongs to an open file description, which processes inherit: a lock that is passed to a server at its
start is the server's from its first instruction to its last, however that comes. So none of these locks is ever let
go by `LOCK_UN`, which would take it from all who share it: closing the descriptor is the one way.
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
    """A lock file, and the note its holder leaves in it.

    The descriptor is closed in every child but those it is passed to on purpose.

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
        """Takes the lock if it is free; never waits.

        Raises:
            EngineError: the file system knows no locks.
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
        """The note in the file; None if there is none that can be read."""
        try:
            return msgspec.json.decode(os.pread(self.fd, _NOTE_LIMIT_BYTES, 0), type=kind)
        except msgspec.MsgspecError:
            return None

    def write(self, note: msgspec.Struct | None) -> None:
        """Leaves a note, or none. In place: a renamed file would be another lock."""
        os.ftruncate(self.fd, 0)
        if note is not None:
            os.pwrite(self.fd, msgspec.json.encode(note), 0)

    def close(self) -> None:
        """Lets go; whoever inherited the descriptor holds the lock on."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _follow_the_path(self) -> None:
        """A lock on a file that somebody removed would keep out nobody."""
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
    # Non-blocking, lest a fifo in its place keeps a command waiting.
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        _check_own_file(path, fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_log(path: Path, *, limit_bytes: int = 1_048_576) -> int:
    """A log to append to; one that grew beyond the limit is put aside first, in place of the one before it."""
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
        raise EngineError(f"{shown(path, 200)} is not a file of yours: remove it, or choose PUTER_HOME=…")
    if stat.S_IMODE(found.st_mode) & 0o077:
        os.fchmod(fd, 0o600)
