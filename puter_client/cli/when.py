"""Times as people read them: lengths of time, and local clock times."""

from __future__ import annotations

import time

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "m"), (1, "s"))


def rough_duration(seconds: float) -> str:
    """A length of time in its largest unit: `45s`, `12m`, `3h`, `2d`; under ten hours with the minutes."""
    whole = max(0, int(seconds + 30) // 60 * 60 if seconds >= 600 else int(seconds))
    for size, unit in _UNITS:
        if whole >= size:
            minutes = whole % 3_600 // 60
            return (
                f"{whole // size}h{minutes:02d}m"
                if unit == "h" and whole < 36_000 and minutes
                else f"{whole // size}{unit}"
            )
    return "0s"


def ago(at: float, now: float) -> str:
    """How long ago a time was: `3h ago`, `just now`."""
    return f"{rough_duration(now - at)} ago" if now - at >= 1 else "just now"


def clock(at: float, now: float) -> str:
    """A local time: `14:32:05`, with its date if that is not today."""
    return _local(at, now, "%H:%M:%S")


def minute(at: float, now: float) -> str:
    """A local time to the minute: `14:32`, with its date if that is not today."""
    return _local(at, now, "%H:%M")


def _local(at: float, now: float, form: str) -> str:
    try:
        there, here = time.localtime(at), time.localtime(now)
    except (OverflowError, ValueError, OSError):  # what Redis holds may be anything
        return "?"
    return time.strftime(form if there[:3] == here[:3] else f"%Y-%m-%d {form}", there)
