"""Output: text from outside is made safe to print, results go to stdout, everything else to stderr."""

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
    """The result cannot be written: the disk is full, or the stream or the terminal is closed."""

    code: ClassVar[str] = "OutputLost"


class _Output(io.FileIO):
    """An output stream that reports only once that it cannot be written; later output is dropped."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write; a reader that has gone (BrokenPipeError) is not reported as a loss.

        Raises:
            OutputLost: stdout cannot be written. A failure of stderr cannot be reported anywhere.
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
    """Drop everything that is written to the stream from now on, also while Python ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


def take_streams() -> None:
    """Set up the standard streams so that a failure to write becomes a message.

    A character that the terminal cannot show becomes a "?". The number of a closed stream is kept in use, so that no
    file opened later gets it and is written to by mistake: writing to stdout fails, output to stderr is dropped.
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
    """Open /dev/null in place of a closed stream; `flags` decide whether its use fails or is ignored."""
    if stream is not None:
        return
    held = os.open(os.devnull, flags)
    if held != descriptor:
        os.dup2(held, descriptor)
        os.close(held)
    os.set_inheritable(descriptor, True)


def _watched(stream: io.TextIOWrapper | None, descriptor: int) -> TextIO:
    """The stream, built again on an `_Output`."""
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(descriptor)),
        encoding=stream.encoding if stream else "utf-8",
        errors="replace",
        line_buffering=stream.line_buffering if stream else descriptor == STDERR,
        write_through=stream.write_through if stream else False,
    )


def plain(text: object) -> str:
    """A text from outside on one line, with control characters replaced."""
    flat = " ".join(str(text).split()) if not str(text).isprintable() else str(text)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in flat)


def cut(text: str, width: int) -> str:
    """A text of at most `width` characters, with an ellipsis if it was cut."""
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
    """Print a message that is not a result to stderr.

    Each line begins with `puter:`, except an indented one, which is a command to paste.
    """
    live.clear()
    for line in text.splitlines() or [""]:
        sys.stderr.write(f"{'' if line.startswith('  ') else 'puter: '}{plain(line)}\n")
    sys.stderr.flush()


def columns(stream: TextIO | None = None) -> int | None:
    """The width of the terminal; None if the output is not a terminal, so that nothing is cut."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    if not (stream or sys.stdout).isatty():
        return None
    return shutil.get_terminal_size((DEFAULT_COLUMNS, 24)).columns


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """The text in a style, if the output is a terminal and NO_COLOR (no-color.org) is not set."""
    if (
        not text
        or not (stream or sys.stdout).isatty()
        or os.environ.get("NO_COLOR")
        or os.environ.get("TERM") == "dumb"
    ):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


class LiveLine:
    """One line on stderr that is overwritten; silent if stderr is not a terminal."""

    def __init__(self) -> None:
        self._shown = False

    @property
    def possible(self) -> bool:
        """Whether there is a terminal to show it on."""
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        """Replace the line by this text."""
        if self.possible:
            width = (columns(sys.stderr) or DEFAULT_COLUMNS) - 1
            sys.stderr.write(f"\r\x1b[K{cut(plain(text), width)}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


live = LiveLine()
