"""What stands on a terminal after a command has written to it: the few sequences that commands use, and no others."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\x1b\[(\?25[lh]|[0-9;]*[A-Za-z])")
_STYLES = re.compile(r"[0-9;]*m")


class Screen:
    """A terminal of so many columns and lines; whatever it is not made for is an error.

    Attributes:
        columns: its width.
    """

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.columns = columns
        self._lines = lines
        self._cells = [[" "] * columns for _ in range(lines)]
        self._row = self._column = 0

    def feed(self, written: str) -> None:
        """Show what was written."""
        at = 0
        while at < len(written):
            if written[at] == "\x1b":
                found = _SEQUENCE.match(written, at)
                assert found, f"not a sequence of Puter's own: {written[at : at + 20]!r}"
                self._obey(found[1])
                at = found.end()
            else:
                self._put(written[at])
                at += 1

    def rows(self) -> list[str]:
        """The lines, without the blanks at their ends."""
        return ["".join(cells).rstrip() for cells in self._cells]

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._down()
        else:
            assert character.isprintable(), f"not to be shown: {character!r}"
            if self._column == self.columns:
                self._column = 0
                self._down()
            self._cells[self._row][self._column] = character
            self._column += 1

    def _down(self) -> None:
        if self._row == self._lines - 1:
            self._cells = [*self._cells[1:], [" "] * self.columns]
        else:
            self._row += 1

    def _obey(self, sequence: str) -> None:
        number = int(sequence[:-1]) if sequence[:-1].isdecimal() else None
        # A cursor behind the last column stands on it.
        column = min(self._column, self.columns - 1)
        if sequence == "H":
            self._row = self._column = 0
        elif sequence[-1] == "A":
            self._row = max(0, self._row - (number or 1))
        elif sequence == "K":
            self._cells[self._row][column:] = [" "] * (self.columns - column)
        elif sequence == "2K":
            self._cells[self._row] = [" "] * self.columns
        elif sequence == "J":
            self._cells[self._row][column:] = [" "] * (self.columns - column)
            self._cells[self._row + 1 :] = [[" "] * self.columns for _ in self._cells[self._row + 1 :]]
        else:
            assert _STYLES.fullmatch(sequence) or sequence.startswith("?25"), f"not a sequence of Puter's: {sequence!r}"
