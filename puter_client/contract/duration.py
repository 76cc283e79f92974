"""Durations as people write them: `90s`, `60m`, `1h30m`, `2d`."""

from __future__ import annotations

import re

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown

_UNIT_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_WRITTEN = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)


def parse_duration_s(text: str, *, what: str = "duration") -> int:
    """The seconds of a written duration; a bare number has no unit and is refused.

    `what` names the duration in the error.

    Raises:
        InvalidInput: the text is not a duration, or the duration is zero.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if not found or not any(found.groups()):
        raise InvalidInput(f"{shown(text)}: write it like 90s, 60m, 2h or 1h30m", subject=what)
    seconds = sum(int(n) * unit for n, unit in zip(found.groups(), _UNIT_S.values(), strict=True) if n)
    if seconds == 0:
        raise InvalidInput(f"{shown(text)}: must be longer than zero", subject=what)
    return seconds


def format_duration(seconds: float) -> str:
    """A duration in at most two units: `45s`, `1h30m`, `2d`."""
    rest = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in _UNIT_S.items():
        n, rest = divmod(rest, size)
        if n:
            parts.append(f"{n}{unit}")
    return "".join(parts[:2]) or "0s"
