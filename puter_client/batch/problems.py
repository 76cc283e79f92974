"""All problems of a batch, collected so that one run reports every one of them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from puter_client.batch.model import OPTION, Written
from puter_client.contract.declaration import inputs, option_name
from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import FieldProblem
from puter_client.contract.key import shown
from puter_client.contract.spec import Spec

GROUPS_SHOWN = 20
LINES_SHOWN = 3
_NO_LINE = -1


class _Place(msgspec.Struct, frozen=True, order=True):
    line: int  # 0: the file as a whole
    label: str


class Problems:
    """The problems of one source, grouped by cause: a problem of a hundred lines is one message with the lines.

    Attributes:
        name: what the source is called in messages.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        # Insertion-ordered sets: a wrong default of a thousand entries is one place.
        self._places: dict[tuple[str, str], dict[_Place, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._places)

    def add(self, message: str, *, line: int | None = 0, label: str = "", field: str = "") -> None:
        """Note that `field` at `line` cannot be used; line None is no line of the source, 0 is the whole file."""
        place = _Place(_NO_LINE if line is None else line, label)
        self._places.setdefault((field, message), {})[place] = None

    def add_at(self, written: Written, field: str, message: str) -> None:
        """Note that a written field cannot be used."""
        self.add(message, line=written.line, label=written.label, field=field)

    def add_field(self, problem: FieldProblem, *, line: int | None, label: str) -> None:
        """Note what is wrong with a field of a spec, in the words of the place that wrote it."""
        message = problem.told(_option if label == OPTION else str)
        self.add(message, line=line, label=label, field=problem.field)

    def raise_if_any(self) -> None:
        """Raise the error if any problem was noted.

        Raises:
            InvalidInput: with a line for each group, in the order of the file.
        """
        if self._places:
            raise self.error()

    def error(self) -> InvalidInput:
        """The error that reports all problems that were noted."""
        groups = sorted(self._places.items(), key=lambda group: min(group[1]))
        lines = [self._told(field, message, sorted(places)) for (field, message), places in groups[:GROUPS_SHOWN]]
        rest = sum(len(places) for _, places in groups[GROUPS_SHOWN:])
        if rest:
            lines.append(f"(+{rest:,} more {'problem' if rest == 1 else 'problems'})")
        return InvalidInput(*lines)

    def _told(self, field: str, message: str, places: list[_Place]) -> str:
        if places[0].line == _NO_LINE:
            full = _option(field) if places[0].label == OPTION else places[0].label + field
            return f"{full}: {message}"
        labels = {place.label for place in places}
        full = (labels.pop() + field).rstrip(".") if len(labels) == 1 else field
        lines = sorted({place.line for place in places})
        where = self.name
        if lines != [0]:
            where += ":" + ", ".join(str(line) for line in lines[:LINES_SHOWN])
        if len(lines) > LINES_SHOWN:
            where += f" (+{len(lines) - LINES_SHOWN:,} more)"
        return f"{where}: {full}: {message}" if full else f"{where}: {message}"


def _option(field: str) -> str:
    known = inputs(Spec).get(field)
    return known.option_name if known else option_name(field)


def safe_name(text: str) -> str:
    """A name from a file as a message may show it; what follows a '=' may be a secret and is left out."""
    name, equals, _ = text.partition("=")
    return shown(name + ("=…" if equals else ""), 40)


def field_at(way: Iterable[str | int]) -> str:
    """A path of names and list indexes as messages write it: `puters[5].env.A`.

    An empty name is written as quotes, or the path would name its parent.
    """
    steps = (f"[{step}]" if isinstance(step, int) else "." + (safe_name(step).strip("'") or "''") for step in way)
    return "".join(steps).removeprefix(".")


@lru_cache(maxsize=1_000)
def unknown(name: str, known: tuple[str, ...]) -> str:
    """The message for an unknown name: it proposes the nearest known one, or else lists all."""
    import difflib

    near = difflib.get_close_matches(name[:80].lower().replace("-", "_"), known, n=1)
    if near:
        return f"unknown field; did you mean {near[0]}?"
    return f"unknown field; known are {', '.join(known)}"
