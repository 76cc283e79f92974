"""What reaches the terminal: text from outside made harmless, results on stdout, all else on stderr."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

DEFAULT_COLUMNS = 80
_STYLES = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33"}


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
