"""CSV: a header row of field names, then a row an entry."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from puter_client.batch.levels import KNOWN, MAPPINGS, TAG, about_unknown
from puter_client.batch.model import MAX_ENTRIES, Level, Row, Sheet, Written
from puter_client.batch.problems import Problems, safe_name

_COLUMNS = tuple(name + ".NAME" if name in MAPPINGS else name for name in KNOWN)


def read_csv(text: str, problems: Problems) -> Sheet:
    """The rows of a CSV text; an empty cell is "not written"."""
    rows: list[Row] = []
    lines = _lines(text, problems)
    at, header = next(lines, (1, []))
    columns = _usable([name.strip() for name in header], at, problems)
    if not any(columns):
        return Sheet(None, {}, [])
    for number, cells in lines:
        if len(cells) != len(columns):
            problems.add(f"has {len(cells)} cells, the header {len(columns)}: quote cells with commas", line=number)
            continue
        if len(rows) == MAX_ENTRIES:
            problems.add(f"has over {MAX_ENTRIES:,} puters: split it into several batches", line=number)
            break
        rows.append(Row(number, "", _fields(columns, cells, number)))
    return Sheet(None, {}, rows)


def _lines(text: str, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not blank, with the line it begins in."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(
                f"is not valid CSV: {error}; put a cell with quotes in quotes, and double those in it", line=begins
            )
            return
        if cells:
            yield begins, cells


def _usable(columns: list[str], line: int, problems: Problems) -> list[str | None]:
    """The columns, None for those that cannot be used, so that the cells of the others are still checked."""
    if TAG not in columns:
        problems.add(f"the header has no column {TAG}: every puter needs one", line=line)
    usable: list[str | None] = []
    for place, column in enumerate(columns):
        wrong = _about(column, columns[:place])
        if wrong:
            problems.add(wrong, line=line, field=f"column {safe_name(column)}")
        usable.append(None if wrong else column)
    return usable


def _about(column: str, before: list[str]) -> str | None:
    kind, dot, name = column.partition(".")
    if column in before:
        return "duplicate column: keep one"
    if dot and kind in MAPPINGS:
        return None if name else f"write the name after the dot: {kind}.NAME"
    if column in MAPPINGS:
        return f"write a column a name: {column}.NAME"
    if column in _COLUMNS:
        return None
    if ";" in column or "\t" in column:
        return "separate columns with commas"
    return about_unknown(column, _COLUMNS) if column else "has no name"


def _fields(columns: list[str | None], cells: list[str], line: int) -> Level:
    fields: Level = {}
    if TAG not in columns:
        fields[TAG] = Written(f"line-{line}", line)  # the header's problem says already that it is missing
    for column, cell in zip(columns, cells, strict=True):
        if not cell or column is None:
            continue
        kind, dot, name = column.partition(".")
        if dot:
            fields.setdefault(kind, Written({}, line)).value[name] = cell
        else:
            fields[column] = Written(cell, line)
    return fields
