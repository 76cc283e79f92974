"""What reaches the terminal: text from outside made harmless, results on stdout, all else on stderr."""

from __future__ import annotations

import io
import os
import shutil
import sys
from typing import TYPE_CHECKING, ClassVar, TextIO

from puter_client.contract.errors import PuterError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

DEFAULT_COLUMNS = 80
STDIN, STDOUT, STDERR = 0, 1, 2
_STYLES = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33"}


class OutputLost(PuterError):
    """The result cannot be written: a full disk, a closed stream, a terminal that has gone."""

    code: ClassVar[str] = "OutputLost"


class _Output(io.FileIO):
    """A standard output that tells once that it cannot be written; what comes after goes nowhere."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write; a reader that has gone (BrokenPipeError) is no loss.

        Raises:
            OutputLost: of stdout, where the result goes. Of stderr nobody can be told.
        """
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            to_nowhere(self)
            if self.fileno() == STDOUT:
                raise OutputLost(f"standard output cannot be written: {error.strerror}") from None
            return super().write(data)


def to_nowhere(stream: TextIO | io.FileIO) -> None:
    """Drop whatever is written to the stream from here on, as Python ends too."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


def take_streams() -> None:
    """Make the standard streams such that a command can write, and fail to, in words.

    A character that a terminal cannot show becomes a "?". The place of a closed stream is held, so that no file
    opened later gets its number and is written to by mistake: stdout fails as it would, stderr goes nowhere.
    """
    _hold(STDIN, sys.stdin, os.O_WRONLY)
    for name, descriptor, flags in (("stdout", STDOUT, os.O_RDONLY), ("stderr", STDERR, os.O_WRONLY)):
        stream = getattr(sys, name)
        _hold(descriptor, stream, flags)
        if stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _watched(stream, descriptor))
        else:
            getattr(stream, "reconfigure", lambda **_: None)(errors="replace")


def _hold(descriptor: int, stream: TextIO | None, flags: int) -> None:
    """Open /dev/null in the place of a closed stream; `flags` say whether what is asked of it fails or is dropped."""
    if stream is not None:
        return
    held = os.open(os.devnull, flags)
    if held != descriptor:
        os.dup2(held, descriptor)
        os.close(held)
    os.set_inheritable(descriptor, True)


def _watched(stream: io.TextIOWrapper | None, descriptor: int) -> TextIO:
    """The stream anew, on an `_Output`."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor)),
        encoding=stream.encoding if stream else "utf-8",
        errors="replace",
        line_buffering=stream.line_buffering if stream else descriptor == STDERR,
        write_through=stream.write_through if stream else False,
    )


def plain(text: object) -> str:
    """A text from outside on one line, without anything that a terminal would obey."""
    flat = " ".join(str(text).split()) if not str(text).isprintable() else str(text)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in flat)


def cut(text: str, width: int) -> str:
    """A text of at most `width` characters, an ellipsis where something was left out."""
    if len(text) <= width:
        return text
    return text[: max(0, width - 1)].rstrip() + "…" if width > 0 else ""


def out(text: str = "") -> None:
    """A line of the result."""
    sys.stdout.write(text + "\n")


def out_json(fields: object) -> None:
    """An object of the result, on one line."""
    import msgspec

    sys.stdout.write(msgspec.json.encode(fields).decode() + "\n")


def say(text: str) -> None:
    """Tell the person at the terminal something that is no result; each line names who speaks."""
    live.clear()
    for line in text.splitlines() or [""]:
        sys.stderr.write(f"puter: {plain(line)}\n")
    sys.stderr.flush()


def columns(stream: TextIO | None = None) -> int | None:
    """How wide the terminal is; None if the output is no terminal, and nothing has to be cut."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    if not (stream or sys.stdout).isatty():
        return None
    return shutil.get_terminal_size((DEFAULT_COLUMNS, 24)).columns


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """The text in a style, where the output is a terminal and NO_COLOR (no-color.org) is not set."""
    if (
        not text
        or not (stream or sys.stdout).isatty()
        or os.environ.get("NO_COLOR")
        or os.environ.get("TERM") == "dumb"
    ):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


class LiveLine:
    """One line on stderr that is written over; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self._shown = False

    @property
    def possible(self) -> bool:
        """Whether there is a terminal to show it on."""
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        """Write it over what stood there."""
        if self.possible:
            width = (columns(sys.stderr) or DEFAULT_COLUMNS) - 1
            sys.stderr.write(f"\r\x1b[K{cut(plain(text), width)}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Take it away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


live = LiveLine()
