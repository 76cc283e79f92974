"""What programs on machines have printed, as it is printed here: to a terminal harmless, elsewhere as it is."""

from __future__ import annotations

import codecs
import sys

from puter_client.cli.terminal import live, plain
from puter_client.contract.plain import printable

SEPARATOR = " | "
LONGEST_LINE = 65_536  # what prints no line end is shown in pieces


class Printer:
    """Prints one program's output to stdout, as it comes.

    A terminal gets whole lines, in which `contract.plain` has replaced what it would obey or not show. A file or a pipe
    gets the very bytes, so that they can be kept and compared; with a prefix, it gets them line by line.
    """

    def __init__(self, tag: str | None = None, *, width: int = 0) -> None:
        """`tag`: stands before each line, in a column of `width` characters."""
        self._prefix = "" if tag is None else f"{plain(tag):<{width}}{SEPARATOR}"
        self._raw = not sys.stdout.isatty()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""
        self._begun_raw = b""

    def write(self, data: bytes) -> None:
        """Print the next bytes of the output."""
        if not data:
            return
        live.clear()
        if self._raw and not self._prefix:
            _write_raw(data)
        elif self._raw:
            *lines, begun = (self._begun_raw + data).split(b"\n")
            lines, self._begun_raw = ([*lines, begun], b"") if len(begun) >= LONGEST_LINE else (lines, begun)
            self._write_raw_lines(lines)
        else:
            self._write_lines(self._decoder.decode(data))
        sys.stdout.flush()

    def end(self) -> None:
        """Print the line that has not ended."""
        if self._begun_raw:
            self._write_raw_lines([self._begun_raw])
            self._begun_raw = b""
        if rest := (self._begun + self._decoder.decode(b"", final=True)).removesuffix("\r"):
            self._line(rest)
        self._begun = ""
        self._decoder.reset()
        sys.stdout.flush()

    def _write_raw_lines(self, lines: list[bytes]) -> None:
        _write_raw(b"".join(self._prefix.encode() + line + b"\n" for line in lines))

    def _write_lines(self, text: str) -> None:
        text = self._begun + text
        half = "\r" if text.endswith("\r") else ""  # it may be half a line end
        *lines, begun = one_line_end(text.removesuffix("\r")).split("\n")
        self._begun = begun + half
        for line in lines:
            self._line(line)
        while len(self._begun) >= LONGEST_LINE:
            self._line(self._begun[:LONGEST_LINE])
            self._begun = self._begun[LONGEST_LINE:]

    def _line(self, line: str) -> None:
        sys.stdout.write(self._prefix + shown_line(line) + "\n")


def one_line_end(text: str) -> str:
    """A text with one kind of line end. What draws a bar begins its line again: each of its states is a line here."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def shown_line(line: str) -> str:
    """A line of a program's output as a terminal may show it; its blanks stay where they are."""
    return printable(line.expandtabs())


def _write_raw(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
