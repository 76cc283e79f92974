"""What `status --watch` and a wait show of many puters, within a terminal: what needs somebody comes first. Pure.

Totals; what failed, with reasons; what waits, with the reasons that most share; what lives; and, if there is room, what
has ended. A group that is cut says how many more there are. A reason is shown whole, or not at all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from puter_client.cli.groups import Group, grouped, totals, why_waiting
from puter_client.cli.table import Layout, footnotes, heading, last_line, line_of, reason_of
from puter_client.cli.terminal import Row, Size, cells, cut, plain, wrapped
from puter_client.view import View

MOST_NAMED = 10  # tags that failed for the same reason
FEW_WAITING = 3  # so few tags are named, more are counted
_INDENT = "  "
# Lines in turn, while there are some: what failed gets twice as many.
_SHARES = {Group.FAILED: 2, Group.WAITING: 1, Group.LIVE: 1}


class _Item(NamedTuple):
    """Rows that belong together, and how many tags they are about."""

    rows: list[Row]
    tags: int = 1


class _Section(NamedTuple):
    """One group: its title if it has one, as many items as a terminal may show, and the number of all its tags."""

    title: list[Row]
    items: list[_Item]
    tags: int
    more: str = "more"

    @property
    def least(self) -> int:
        """The lines for the first item, and for how many more there are."""
        first = self.items[0]
        return len(self.title) + len(first.rows) + (1 if first.tags < self.tags else 0)

    @property
    def all(self) -> int:
        """The lines for everything."""
        left = self.tags - sum(item.tags for item in self.items)
        return len(self.title) + sum(len(item.rows) for item in self.items) + (1 if left else 0)

    def rows(self, most: int) -> list[Row]:
        """At most so many lines: whole items, and how many tags are left out."""
        rows, left = list(self.title), self.tags
        for item in self.items:
            if len(rows) + len(item.rows) + (1 if item.tags < left else 0) > most:
                break
            rows += item.rows
            left -= item.tags
        if left == self.tags and self.items[0].rows[1:]:
            rows += self.items[0].rows[: max(0, most - len(rows) - 1)]  # the terminal is too small for one reason
        if left and rows != self.title:  # the title alone has the number of all
            rows.append(Row("", f"… {left:,} {self.more}", "dim"))
        return rows[: max(0, most)]


def overview(views: Sequence[View], now: float, size: Size, *, notes: Sequence[str] = ()) -> list[Row]:
    """Rows that fit into the size: at most `size.lines`, and none wider than `size.columns`.

    Args:
        views: in the order in which tags are to be shown.
        now: seconds since 1970.
        size: of the part of the terminal that they may fill.
        notes: what is told below the totals.
    """
    if size.lines < 1:
        return []
    told = (totals(views), *notes) if views else notes
    rows = [Row(line) for text in told for line in wrapped(plain(text), size.columns)][: size.lines]
    groups = grouped(views)
    sections = {group: _section(group, members, now, size) for group, members in groups.items()}
    shares = _shared(sections, size.lines - len(rows))
    left = 0
    for group, section in sections.items():
        shown = section.rows(shares[group] + left)
        left += shares[group] - len(shown)  # for the next: no whole item of this one fits into it
        rows += shown
    living = [line_of(view, now) for view in groups.get(Group.LIVE, ())[: size.lines]]
    return [_within(row, size.columns) for row in [*rows, *footnotes(living)][: size.lines]]


def _within(row: Row, width: int) -> Row:
    """A row that is cut, as only what Puter itself says on a very narrow terminal can be."""
    return row if cells(row.text) <= width else Row("", cut(row.text, width), row.style)


def _section(group: Group, views: Sequence[View], now: float, size: Size) -> _Section:
    if group is Group.FAILED:
        return _failed(views, size)
    return _waiting(views, size) if group is Group.WAITING else _each(group, views, now, size)


def _shared(sections: Mapping[Group, _Section], lines: int) -> dict[Group, int]:
    """How many lines each group gets: what it needs, else its share, which is at least one failure with its reason.

    What has ended gets what the others leave.
    """
    given = dict.fromkeys(sections, 0)
    if Group.FAILED in sections:
        given[Group.FAILED] = max(0, min(lines, sections[Group.FAILED].least))
    lines -= sum(given.values())
    needed = {group: section.all for group, section in sections.items()}
    while lines > 0 and any(given[group] < needed[group] for group in sections if group in _SHARES):
        for group in sections:
            more = min(_SHARES.get(group, 0), needed[group] - given[group], lines)
            given[group] += more
            lines -= more
    if Group.ENDED in sections:
        given[Group.ENDED] = max(0, lines)
    return given


def _failed(views: Sequence[View], size: Size) -> _Section:
    """What failed; those that failed for the same reason are one item."""
    alike: dict[Hashable, list[View]] = defaultdict(list)
    for view in views:
        record = view.record
        code = record.error.code if record and record.error else None
        alike[view.state, record and record.exit_code, code, view.reason].append(view)
    items = [_failure(same, size.columns) for same in islice(alike.values(), size.lines)]
    return _Section([heading(Group.FAILED, len(views))], items, len(views))


def _failure(views: Sequence[View], width: int) -> _Item:
    names = _INDENT + _named(views, MOST_NAMED)
    state, reason = views[0].state, reason_of(views[0])
    told = f": {state}: {reason}" if reason else f": {state}"
    last = last_line(views, width)
    if cells(names + told) <= width:
        return _Item([Row(names, told, "red"), *last], len(views))
    inner = max(1, width - 2 * len(_INDENT))
    first, *more = wrapped(f"{names.strip()}: {state}", inner)
    rows = [Row(_INDENT + first), *(Row(2 * _INDENT + line) for line in more)]
    rows += [Row(2 * _INDENT, line, "red") for line in wrapped(reason, inner) if line]
    return _Item([*rows, *last], len(views))


def _waiting(views: Sequence[View], size: Size) -> _Section:
    """What waits, by reason: the one that most share comes first."""
    items = [_wait(reason, same, size.columns) for reason, same in islice(why_waiting(views), size.lines)]
    return _Section([], items, len(views), more="more waiting")


def _wait(reason: str, views: Sequence[View], width: int) -> _Item:
    reason = plain(reason)
    if len(views) <= FEW_WAITING:
        told = f"{_named(views, FEW_WAITING)}: {reason}"
    else:
        told = f"{len(views):,} {reason}" if reason.startswith("waiting ") else f"{len(views):,} waiting: {reason}"
    first, *more = wrapped(told, max(1, width - len(_INDENT)))
    return _Item([Row("", first, "yellow"), *(Row(_INDENT, line, "yellow") for line in more)], len(views))


def _named(views: Sequence[View], most: int) -> str:
    """The first tags by name, and the number of the others."""
    names = ", ".join(plain(view.tag) for view in views[:most])
    return names + (f" and {len(views) - most:,} more" if len(views) > most else "")


def _each(group: Group, views: Sequence[View], now: float, size: Size) -> _Section:
    """A line for each; a tag that is wider than the terminal takes several."""
    lines = [line_of(view, now) for view in views[: size.lines]]
    layout = Layout(lines, size.columns)
    items = [_Item([part for row in layout.rows(line) for part in _fitting(row, size.columns)]) for line in lines]
    return _Section([heading(group, len(views))], items, len(views))


def _fitting(row: Row, width: int) -> list[Row]:
    return [row] if cells(row.text) <= width else [Row(part) for part in wrapped(row.text, width)]
