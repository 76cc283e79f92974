"""JSONL: one object a line, each an entry."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

from puter_client.batch.model import MAX_DEPTH, MAX_ENTRIES, Row, Sheet, Written
from puter_client.batch.problems import Problems, field_at

_HALF = re.compile(r"[\ud800-\udfff]")


def read_jsonl(text: str, problems: Problems) -> Sheet:
    """The rows of a JSONL text; numbers stay as they are written (`0.10`), null is "not written"."""
    decoder = json.JSONDecoder(
        object_pairs_hook=_object, parse_int=str, parse_float=str, parse_constant=_refuse_constant
    )
    rows: list[Row] = []
    # Not splitlines(): inside a JSON string U+2028 and its like do not end a line.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        if len(rows) == MAX_ENTRIES:
            problems.add(f"has over {MAX_ENTRIES:,} puters: split it into several batches", line=number)
            break
        try:
            fields = _decoded(decoder, line.strip())
        except ValueError as error:
            problems.add(str(error), line=number)
            continue
        if twice := list(_twice(fields)):
            for way in twice:
                problems.add("duplicate name: keep one", line=number, field=field_at(way))
            continue
        written = {name: Written(value, number) for name, value in fields.items() if value is not None}
        rows.append(Row(number, "", written))
    return Sheet(None, {}, rows)


def _decoded(decoder: json.JSONDecoder, line: str) -> dict[str, Any]:
    try:
        value = decoder.decode(line)
    except json.JSONDecodeError as error:
        # The position is that in this line; the error's own text counts lines as well.
        raise ValueError(f"is not valid JSON (column {error.colno}): {error.msg}") from None
    except RecursionError:
        raise ValueError("is nested too deeply: an entry is an object of texts") from None
    if not isinstance(value, dict):
        raise ValueError("is not an object: write one like {\"tag\": \"a-1\"} on each line")  # fmt: skip
    if _deeper_than(value, MAX_DEPTH):
        raise ValueError("is nested too deeply: an entry is an object of texts")
    # The decoder lets half a surrogate pair through, which no UTF-8 can carry.
    if "\\u" in line and _HALF.search("\n".join(_texts(value))):
        raise ValueError("contains a \\u escape of half a character: write the character itself")
    return value


class _Repeating(dict[str, Any]):
    """An object with duplicate names; the decoder makes it before its place in the line is known."""

    names: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    repeating = _Repeating(made)
    written = Counter(name for name, _ in pairs)
    repeating.names = tuple(name for name, times in written.items() if times > 1)
    return repeating


def _twice(value: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The paths to all duplicate names."""
    if isinstance(value, _Repeating):
        yield from ((*way, name) for name in value.names)
    if isinstance(value, dict | list):
        for step, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _twice(item, (*way, step))


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not valid JSON: write a text or a number")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.items() if isinstance(value, dict) else value:
            yield from _texts(list(item) if isinstance(item, tuple) else item)


def _deeper_than(value: Any, limit: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if limit == 0:
        return True
    items = value.values() if isinstance(value, dict) else value
    return any(_deeper_than(item, limit - 1) for item in items)
