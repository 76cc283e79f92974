"""The file from which Redis reads its users: changed by one command at a time, and never half-written.

Only the lines of the users that a command is about change. The new file takes the place of the old one by a rename, so
Redis must see the folder and not the file alone: a container into which only the file is mounted keeps the old one.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from puter_client.acl.rules import FIRST_LINES, AclUser
from puter_client.acl.whole_file import make_folder, write_whole
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown

_PASSWORD = (">", "<", "#", "!")


class AclFile:
    """The lines of an ACL file.

    Attributes:
        path: of the file; a symbolic link was followed, so that it stays one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()

    def exists(self) -> bool:
        """Whether there is a file.

        Raises:
            InvalidInput: that cannot be found out.
        """
        try:
            return self.path.exists()
        except OSError as error:
            raise self._unusable("cannot be read", error) from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from changing the file while inside; the folder is made if it is missing.

        Raises:
            InvalidInput: the folder cannot be written.
        """
        try:
            make_folder(self.path.parent, mode=0o755)  # Redis runs as another user
            fd = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unusable("cannot be written", error) from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)  # ends the lock

    def read(self) -> list[str] | None:
        """Its lines, whatever is in them; None if there is no file yet.

        Raises:
            InvalidInput: it cannot be read.
        """
        try:
            text = self.path.read_bytes().decode(errors="surrogateescape")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unusable("cannot be read", error) from None
        return text.removesuffix("\n").split("\n") if text else []

    def write(self, lines: Sequence[str]) -> None:
        """Put these lines in place of the file: after a crash, the old ones or the new ones are there, as a whole.

        The file holds no secret: 256 random bits cannot be guessed from their hash. Others may read it, because Redis
        runs as another user.

        Raises:
            InvalidInput: it cannot be written.
        """
        data = "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")
        try:
            write_whole(self.path, data, mode=0o644, keep_access=True)
        except OSError as error:
            raise self._unusable("cannot be written", error) from None

    def put_back(self, lines: Sequence[str] | None) -> None:
        """Put back what `read` has returned; None: there was no file.

        Raises:
            InvalidInput: it cannot be written.
        """
        if lines is not None:
            self.write(lines)
            return
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable("cannot be removed", error) from None

    def _unusable(self, what: str, error: OSError) -> InvalidInput:
        remedy = ""
        if error.errno == errno.EBUSY:
            remedy = ": it is mounted by itself; mount its folder, so that another file can take its place"
        return InvalidInput(f"{shown(self.path, 200)} {what} ({error.strerror}){remedy or remedy_of(error)}")


def remedy_of(error: OSError) -> str:
    """What to do about a file of the host's folder that cannot be used; empty if nothing is known."""
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ": run the command as root or as whom the folder belongs to, or name another folder with --folder"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return ": --folder and PUTER_HOST_FOLDER name a folder"
    return ""


def users(lines: Sequence[str]) -> list[AclUser]:
    """The users of a file's lines, in their order."""
    return [user for line in lines if (user := AclUser.read(line)) is not None]


def with_line(lines: Sequence[str] | None, line: str) -> list[str]:
    """The lines with that of a new user; those of a new file begin with what every file has."""
    return [*(FIRST_LINES if lines is None else lines), line]


def without(lines: Sequence[str], name: str) -> list[str]:
    """The lines without those of a user."""
    return [line for line in lines if (user := AclUser.read(line)) is None or user.name != name]


def with_password(lines: Sequence[str], name: str, password_hash: str) -> list[str]:
    """The lines with another password of a user, in place of all that it had; its rules stay as they are."""

    def changed(line: str) -> str:
        user = AclUser.read(line)
        if user is None or user.name != name:
            return line
        words = [word for word in line.split() if not word.startswith(_PASSWORD) and word.lower() != "nopass"]
        at = 3 if len(words) > 2 and words[2].lower() in ("on", "off") else 2
        return " ".join([*words[:at], f"#{password_hash}", *words[at:]])

    return [changed(line) for line in lines]


def has_password(lines: Sequence[str], name: str, password_hash: str) -> bool:
    """Whether a user has this password."""
    found = (line.split() for line in lines if (user := AclUser.read(line)) is not None and user.name == name)
    return any(f"#{password_hash}" in words for words in found)


def problem(lines: Sequence[str]) -> str | None:
    """Why Redis should not read these lines; None if nothing is known against them.

    Redis checks them itself, but Valkey 9.1 crashes at a selector whose parenthesis is not closed.
    """
    for number, line in enumerate(lines, 1):
        if line.count("(") != line.count(")"):
            return f"line {number} has a parenthesis without its other half"
    return None
