"""The last lines of a failed workload's output, below what a command says of its end. Pure."""

from __future__ import annotations

from puter_client.cli.printer import one_line_end, shown_line
from puter_client.contract.record import Record
from puter_client.contract.result import Result

MARK = "| "
LONGEST_TAIL = 1_000  # as workers write it; Redis may hold anything


def last_lines(record: Record | None, most: int | None = None) -> list[str]:
    """The last lines of a workload that did not succeed, at most `most`, safe to print; [] if none are known.

    Each begins with a mark, so that none is taken for a line of Puter's own.
    """
    if record is None or record.result in (None, Result.SUCCEEDED):
        return []
    text = (record.log_tail or "")[-LONGEST_TAIL:].rstrip()
    if not text:
        return []
    lines = [MARK + shown_line(line) for line in one_line_end(text).split("\n")]
    return lines if most is None else lines[-most:]
