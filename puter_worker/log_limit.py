"""What clients and EC2 can cause a thousand times writes few lines: the others are counted, and told once a minute."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import structlog

EVERY_S = 60.0
MOST_LINES = 10
# More kinds than this in a minute are counted as one: clients choose namespaces, and EC2 its codes.
MOST_KINDS = 500
OTHERS = "(others)"
LEFT_OUT = "lines.left_out"
# What makes two lines of one event different troubles; what else differs is the machine, the message, the call.
_FIELDS = ("stage", "target", "namespace", "action", "code", "error", "profile")
_log = structlog.get_logger("puter.logs")

Kind = tuple[tuple[str, str], ...]
_SUMS: Kind = (("event", LEFT_OUT),)


class LogLimit(logging.Filter):
    """Lets the first `MOST_LINES` warnings and errors of a kind through in each minute, and counts the others.

    Lines that are no warning pass: each tells of something that was done, at the pace at which it is done.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._since: dict[Kind, float] = {}
        self._lines: Counter[Kind] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        if record.levelno < logging.WARNING:
            return True
        kind = kind_of(record)
        if kind == _SUMS:
            return True
        if kind not in self._since:
            if len(self._since) >= MOST_KINDS:
                kind = (("event", OTHERS),)
            self._since.setdefault(kind, self._now())
        self._lines[kind] += 1
        return self._lines[kind] <= MOST_LINES

    def tell_due(self, *, at_the_end: bool = False) -> None:
        """Log how many lines were left out of the kinds whose minute is over, or (`at_the_end`) of all."""
        now = self._now()
        for kind in [kind for kind, since in self._since.items() if at_the_end or now - since >= EVERY_S]:
            del self._since[kind]
            left_out = self._lines.pop(kind, 0) - MOST_LINES
            if left_out > 0:
                fields = {"of" if name == "event" else name: value for name, value in kind}
                _log.warning(LEFT_OUT, count=left_out, **fields)


def kind_of(record: logging.LogRecord) -> Kind:
    """What a line tells of. Pure."""
    if not isinstance(record.msg, Mapping):  # of a library: its name, and its words without what it puts into them
        return (("event", f"{record.name}: {str(record.msg)[:60]}"),)
    line: Mapping[str, Any] = record.msg
    if line.get("event") == LEFT_OUT:
        return _SUMS
    return tuple((name, str(line[name])[:100]) for name in ("event", *_FIELDS) if name in line)
