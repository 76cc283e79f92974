"""Files that are there as a whole after a crash: the old one or the new one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def make_folder(path: Path, *, mode: int) -> None:
    """Make a folder and those above it, as far as they are missing, with these permissions whatever the umask is.

    Raises:
        OSError: it cannot be made.
    """
    missing = [one for one in (path, *path.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        one.chmod(mode)
    path.mkdir(exist_ok=True)  # else a file of that name would pass


def write_whole(path: Path, data: bytes, *, mode: int, keep_access: bool = False) -> None:
    """Put a file with these bytes in place of what is at the path.

    Args:
        path: of the file.
        data: what it holds.
        mode: its permissions.
        keep_access: give it mode, owner and group of the file that it replaces, if there is one.

    Raises:
        OSError: it cannot be written; what was there is there still.
    """
    with prepared(path, data, mode=mode, keep_access=keep_access) as put:
        put()


@contextmanager
def prepared(path: Path, data: bytes, *, mode: int, keep_access: bool = False) -> Iterator[Callable[[], None]]:
    """Write a file beside the one whose place it takes when the function is called; else nothing of it stays.

    Arguments and errors are those of `write_whole`. Who must know before a change that its outcome can be written down
    prepares it before.
    """
    new = path.with_name(f"{path.name}.new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    is_put = False

    def put() -> None:
        nonlocal is_put
        new.replace(path)
        is_put = True
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    try:
        with os.fdopen(fd, "wb") as file:
            old = path.stat() if keep_access and path.exists() else None
            os.fchmod(fd, mode if old is None else old.st_mode & 0o777)
            if old is not None and (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, old.st_uid, old.st_gid)
            file.write(data)
            file.flush()
            os.fsync(fd)
        yield put
    finally:
        if not is_put:
            new.unlink(missing_ok=True)
