"""Everything that is wrong with a batch, collected so that one run tells it all."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from puter_client.batch.model import Written
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown

GROUPS_SHOWN = 20
LINES_SHOWN = 3
_OF_OPTIONS = -1


class _Place(msgspec.Struct, frozen=True, order=True):
    line: int  # 0: the file as a whole
    label: str


class Problems:
    """Problems of one source, grouped by cause: what is said of a hundred lines is said once, with the lines.

    Attributes:
        name: what the source is called in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # Insertion-ordered sets; a default that spoils a thousand entries is still one place.
        self._places: dict[tuple[str, str], dict[_Place, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, message: str, *, line: int | None = 0, label: str = "", field: str = "") -> None:
        """Note that `field` at `line` cannot be used; line None speaks of an option, 0 of the whole file."""
        place = _Place(_OF_OPTIONS if line is None else line, label)
        self._places.setdefault((field, message), {})[place] = None

    def add_at(self, written: Written, field: str, message: str) -> None:
        """Note that a written field cannot be used."""
        self.add(message, line=written.line, label=written.label, field=field)

    def raise_if_any(self) -> None:
        """End here if anything was noted.

        Raises:
            InvalidInput: with a line for each group, in the order of the file.
        """
        if self._places:
            raise self.error()

    def error(self) -> InvalidInput:
        """All that was noted, as the error to raise."""
        groups = sorted(self._places.items(), key=lambda group: min(group[1]))
        lines = [self._told(field, message, sorted(places)) for (field, message), places in groups[:GROUPS_SHOWN]]
        rest = sum(len(places) for _, places in groups[GROUPS_SHOWN:])
        if rest:
            lines.append(f"(+{rest:,} more {'problem' if rest == 1 else 'problems'})")
        return InvalidInput(*lines)

    def _told(self, field: str, message: str, places: list[_Place]) -> str:
        labels = {place.label for place in places}
        full = (labels.pop() + field).rstrip(".") if len(labels) == 1 else field
        if places[0].line == _OF_OPTIONS:
            full = "--" + {"aws_tags": "aws-tag"}.get(field, field.replace("_", "-"))
            return f"{full}: {message}"
        lines = sorted({place.line for place in places})
        where = self.name
        if lines != [0]:
            where += ":" + ", ".join(str(line) for line in lines[:LINES_SHOWN])
        if len(lines) > LINES_SHOWN:
            where += f" (+{len(lines) - LINES_SHOWN:,} more)"
        return f"{where}: {full}: {message}" if full else f"{where}: {message}"


def safe_name(text: str) -> str:
    """A name from a file as a message may show it; what follows a '=' may be a secret and is left out."""
    name, equals, _ = text.partition("=")
    return shown(name + ("=…" if equals else ""), 40)


def field_at(way: Iterable[str | int]) -> str:
    """How messages name what a way of names and places in lists leads to: `puters[5].env.A`.

    A name that is empty stays in its quotes, or the way would end at what is above it.
    """
    steps = (f"[{step}]" if isinstance(step, int) else "." + (safe_name(step).strip("'") or "''") for step in way)
    return "".join(steps).removeprefix(".")


@lru_cache(maxsize=1_000)
def unknown(name: str, known: tuple[str, ...]) -> str:
    """What to say of a name that is none of the known ones: the nearest, or else all."""
    import difflib

    near = difflib.get_close_matches(name[:80].lower().replace("-", "_"), known, n=1)
    if near:
        return f"unknown; did you mean {near[0]}?"
    return f"unknown; known are {', '.join(known)}"
