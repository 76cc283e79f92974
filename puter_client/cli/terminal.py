"""Output: everything is made safe to print, results go to stdout, everything else to stderr.

`out`, `say` and `live` print whatever text they get without control characters, so no command can forget it.
"""

from __future__ import annotations

import io
import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TextIO

from puter_client.contract.errors import PuterError
from puter_client.contract.plain import escaped_json
from puter_client.contract.plain import plain as plain  # noqa: PLC0414 - commands print through this module

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

DEFAULT_COLUMNS, DEFAULT_LINES = 80, 24
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


class Row(NamedTuple):
    """A line of a terminal: `head` as it is, then `tail` in a style."""

    head: str = ""
    tail: str = ""
    style: str | None = None

    @property
    def text(self) -> str:
        """The line without its style."""
        return self.head + self.tail


class Size(NamedTuple):
    """How many characters a terminal shows."""

    columns: int
    lines: int


def cells(text: str) -> int:
    """How many cells of a terminal a text takes: a wide character takes two, a mark on another one none."""
    if text.isascii():
        return len(text)
    return sum(_cells_of(character) for character in text)


def _cells_of(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def padded(text: str, width: int) -> str:
    """A text with so many spaces behind it that it takes at least `width` cells."""
    return text + " " * (width - cells(text))


def cut(text: str, width: int) -> str:
    """A text of at most `width` cells, with an ellipsis if it was cut."""
    if cells(text) <= width:
        return text
    return _head(text, width - 1).rstrip() + "…" if width > 0 else ""


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most `width` cells, broken at spaces; a word that is longer is broken where it must be.

    Nothing of the text is lost. (`textwrap` counts characters, and breaks commands at their hyphens.)
    """
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if cells(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        while cells(word) > width:
            part = _head(word, width) or word[0]  # a wide character in a single column
            lines.append(part)
            word = word[len(part) :]  # noqa: PLW2901 - the rest of the word
        line = word
    return [*lines, line] if line or not lines else lines


def _head(text: str, width: int) -> str:
    """As much of the beginning of a text as `width` cells hold."""
    if text.isascii():
        return text[: max(0, width)]
    taken = 0
    for place, character in enumerate(text):
        taken += _cells_of(character)
        if taken > width:
            return text[:place]
    return text


def out(line: str | Row = "") -> None:
    """A line of the result."""
    sys.stdout.write((printed(line) if isinstance(line, Row) else plain(line)) + "\n")


def printed(row: Row, stream: TextIO | None = None) -> str:
    """A row as it is written to a stream: safe, and with its style if that is a terminal."""
    tail = plain(row.tail)
    return plain(row.head) + (styled(tail, row.style, stream) if row.style else tail)


def out_json(fields: object) -> None:
    """An object of the result, on one line, which may be read on a terminal too."""
    import msgspec

    sys.stdout.write(escaped_json(msgspec.json.encode(fields).decode()) + "\n")


def say(text: str) -> None:
    """Print a message that is not a result to stderr.

    Each line begins with `puter:`, except an indented one: a command to paste, or a line of a workload's output.
    """
    live.clear()
    for line in text.splitlines() or [""]:
        sys.stderr.write(f"{'' if line.startswith('  ') else 'puter: '}{plain(line)}\n")
    sys.stderr.flush()


def columns(stream: TextIO | None = None) -> int | None:
    """The width of the terminal; None if the output is not a terminal, so that nothing is cut."""
    if asked := _asked("COLUMNS"):
        return asked
    shown = size(stream)
    return shown.columns if shown else None


def size(stream: TextIO | None = None) -> Size | None:
    """The size of the terminal that a stream writes to; None if it is not one."""
    stream = stream or sys.stdout
    if not stream.isatty():
        return None
    try:
        width, height = os.get_terminal_size(stream.fileno())  # zeros if the terminal does not know
    except OSError:  # it was closed meanwhile
        width, height = 0, 0
    return Size(_asked("COLUMNS") or width or DEFAULT_COLUMNS, _asked("LINES") or height or DEFAULT_LINES)


def _asked(variable: str) -> int | None:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() and text.isascii() and int(text) > 0 else None


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


class Live:
    """A message on stderr that is overwritten; silent if stderr is not a terminal."""

    def __init__(self) -> None:
        self._lines = 0

    @property
    def possible(self) -> bool:
        """Whether there is a terminal to show it on."""
        return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        """Replace the message by this text, on as many lines as it needs."""
        if self.possible:
            width = (columns(sys.stderr) or DEFAULT_COLUMNS) - 1
            self._replace(wrapped(plain(text), width))

    def clear(self) -> None:
        """Remove the message."""
        if self._lines:
            self._replace([])

    def _replace(self, lines: Sequence[str]) -> None:
        up = f"\x1b[{self._lines - 1}A" if self._lines > 1 else ""
        erase = "\x1b[J" if self._lines > 1 else "\x1b[K"
        sys.stderr.write(f"\r{up}{erase}" + "\n".join(lines))
        sys.stderr.flush()
        self._lines = len(lines)


live = Live()
