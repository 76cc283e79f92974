"""Reading batch files, and the files they name, from disk."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import BinaryIO

from puter_client.batch.model import MAX_FILE_BYTES, ReadFile
from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import USER_DATA_LIMIT_BYTES
from puter_client.contract.key import shown
from puter_client.paths import FOLDER_GONE, in_removed_folder

STDIN = "-"


def read_source(source: str, stdin: BinaryIO | None = None) -> bytes:
    """The content of a batch file; `-` is standard input. A pipe may be given instead of a file.

    Raises:
        InvalidInput: it does not exist, is a directory, or cannot be read. What is over MAX_FILE_BYTES is cut one
            byte beyond, for read_batch to refuse.
    """
    try:
        if source == STDIN:
            stream = stdin or getattr(sys.stdin, "buffer", None)  # None if it was closed
            if stream is None:
                raise InvalidInput("batch file '-': standard input is closed: name a file, or pipe one in")
            return stream.read(MAX_FILE_BYTES + 1)
        with Path(source).open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"batch file {shown(source, 300)}: {_why(error, Path(source))}") from None


def beside(source: str) -> ReadFile:
    """Reads files that a batch file names; paths are relative to its folder (to the current one for `-`).

    The reader raises InvalidInput for a file that does not exist, is not a regular file or cannot be read, and stops
    one byte beyond what EC2 takes as user data.
    """
    folder = Path() if source == STDIN else Path(source).parent

    def read_file(written: str) -> bytes:
        path = folder
        try:
            path /= Path(written).expanduser()
            # A batch file may name a pipe by mistake; opening one would wait for its writer.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise InvalidInput(f"{shown(written, 300)}: is not a regular file")
                return os.read(handle, USER_DATA_LIMIT_BYTES + 1)
            finally:
                os.close(handle)
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidInput(f"{shown(written, 300)}: {_why(error, path)}") from None

    return read_file


def user_data_text(read_file: ReadFile, written: str) -> str:
    """The text of a file with user data; a byte order mark is no part of it.

    Raises:
        InvalidInput: it cannot be read, is over what EC2 takes, or is not UTF-8.
    """
    content = read_file(written)
    if len(content) > USER_DATA_LIMIT_BYTES:
        raise InvalidInput(f"{shown(written, 300)}: is over 16 KB: EC2 takes no more user data in all")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidInput(f"{shown(written, 300)}: is not valid UTF-8: save it as UTF-8") from None


def _why(error: Exception, path: Path) -> str:
    match error:
        case FileNotFoundError() if in_removed_folder(path):
            return FOLDER_GONE
        case FileNotFoundError():
            return "does not exist; check the path"
        case IsADirectoryError():
            return "is a directory; name a file in it"
        case PermissionError():
            return "is not readable; check its permissions"
        case OSError(strerror=str(reason)):
            return f"cannot be read: {reason}"
    return "is not a valid path"
