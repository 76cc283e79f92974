"""The table of results and its lines."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import msgspec

HEAD = ("work", "measured", "baseline in the same run", "ratio", "target", "met?")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One measured promise.

    Attributes:
        work: what was done.
        measured: what it took, with the unit and, of several runs, from lowest to highest.
        baseline: what the plain way took.
        ratio: how many times the one is the other.
        target: what was promised.
        met: whether it holds; None where nothing was promised.
    """

    work: str
    measured: str
    baseline: str = "-"
    ratio: str = "-"
    target: str = "-"
    met: bool | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """The line of the table."""
        met = {None: "-", True: "yes", False: "**no**"}[self.met]
        return self.work, self.measured, self.baseline, self.ratio, self.target, met


class BenchmarkFailed(Exception):
    """The work was not done correctly, so its time means nothing."""


def table(rows: Sequence[Row]) -> str:
    """The table in Markdown."""
    lines = [HEAD, tuple("---" for _ in HEAD), *(row.cells for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def seconds(values: Sequence[float]) -> str:
    """The median, and the range if there are several: `1.52 s (1.41 to 1.90)`."""
    middle = median(values)
    factor, unit, digits = (1.0, "s", 2) if middle >= 0.1 else (1e3, "ms", 1)
    digits = 1 if middle >= 10 else digits
    text = f"{middle * factor:.{digits}f} {unit}"
    if len(values) == 1:
        return text
    return f"{text} ({min(values) * factor:.{digits}f} to {max(values) * factor:.{digits}f})"


def rate(values: Sequence[float]) -> str:
    """The median of rates per second, and the range if there are several."""
    text = f"{median(values):,.0f}/s"
    return text if len(values) == 1 else f"{text} ({min(values):,.0f} to {max(values):,.0f})"


def times(value: float) -> str:
    """A ratio as text."""
    return f"{value:.2f}x" if value < 10 else f"{value:.0f}x"
