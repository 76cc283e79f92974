"""The table of `status`, made by hand: loading rich would double the time of the command that is run most. Pure.

Neither a tag nor a reason is ever cut: where a line has no room for its reason, the reason goes on below.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from puter_client.cli.groups import Group, group_of, grouped
from puter_client.cli.log_text import record_of_run
from puter_client.cli.tails import MARK, last_lines
from puter_client.cli.terminal import Row, cells, cut, padded, plain, wrapped
from puter_client.cli.when import ago, rough_duration
from puter_client.contract.phase import ENDED, LIVE, ON_ITS_WAY, Phase
from puter_client.contract.result import Result
from puter_client.view import View

TAG_COLUMN = 40  # a longer tag, or one wider than half of the terminal, gets its own line
UNLABELLED = "·"
FOOTNOTE = f"{UNLABELLED} its own name and tags are not written in EC2 yet"
STALE = "?"
STALE_FOOTNOTE = f"{STALE} as EC2 last showed it; it may have changed since"
OUTPUT_FOOTNOTE = f"{MARK}the last line that it printed; puter logs TAG prints all that is known"
LONGEST_REASON = 2_000  # Redis may hold anything; what workers write is a tenth of that
_LEAST_COLUMN = 30  # a reason in a narrower column would be a tower of words
_INDENT = "  "
_STYLE = {Group.FAILED: "red", Group.ENDED: "dim"}


class Line(NamedTuple):
    """The cells of one tag, all safe to print."""

    tag: str
    phase: str
    time: str
    type: str
    rest: str
    style: str | None = None


TITLE = Line("TAG", "PHASE", "TIME", "TYPE", "ADDRESS OR REASON", "dim")


def line_of(view: View, now: float) -> Line:
    """The cells of a tag; `now` is in seconds since 1970."""
    record, state = view.record, view.state
    style = "green" if state in (Phase.RUNNING, Result.SUCCEEDED) else None
    style = "red" if view.has_failed else style or _STYLE.get(group_of(view))
    if record is None or not view.is_taken or view.launches_nothing:
        return Line(plain(view.tag), state, "", "", reason_of(view), style)
    if record.phase in LIVE:
        state += ("" if record.labelled else UNLABELLED) + (STALE if view.stage_reason else "")
    return Line(plain(view.tag), state, _time(view, now), plain(record.instance_type or ""), _rest(view), style)


def reason_of(view: View) -> str:
    """Why a tag waits, or how it ended, with its exit code and AWS's error code; safe to print."""
    record = view.record
    if record is None or not view.is_taken or view.launches_nothing:
        return cut(plain(view.reason or ""), LONGEST_REASON)
    told = [f"exit code {record.exit_code}"] if record.exit_code is not None else []
    if record.phase in LIVE and record.result:
        told = [f"its workload: {record.result.value}", *told]
    code = f"{record.error.code}: " if record.error else ""
    if reason := code + _beyond_the_result(view):
        told.append(reason)
    return cut(plain("; ".join(told)), LONGEST_REASON)


def _beyond_the_result(view: View) -> str:
    """The reason, without the result and exit code that are shown beside it."""
    record, reason = view.record, view.reason or ""
    if record is None or record.result is None or record.exit_code is None:
        return reason
    code = f", exit code {record.exit_code}" if record.exit_code else ""
    beyond = reason.removeprefix(f"workload {record.result.value.replace('_', ' ')}{code}")
    return beyond.removeprefix(": ")


def _time(view: View, now: float) -> str:
    record = view.record
    if record is None:
        return ""
    if record.phase in ENDED:
        return ago(record.ended_at or record.changed_at, now)
    if record.phase in ON_ITS_WAY:
        return f"for {rough_duration(now - record.created_at)}"
    if record.expires_at is None:
        return "no end" if record.never_ends else ""
    if record.overdue:
        return f"{rough_duration(now - record.expires_at)} late"
    if view.stage_reason and record.expires_at <= now:
        return f"due {ago(record.expires_at, now)}"
    return f"{rough_duration(record.expires_at - now)} left"


def _rest(view: View) -> str:
    record = view.record
    if record is None or record.phase not in LIVE:
        return reason_of(view)
    address = record.public_ip or record.public_dns_name or record.private_ip or record.instance_id or ""
    return "  ".join(text for text in (plain(address), reason_of(view)) if text)


class Layout:
    """The widths of the columns: those of their longest cells, within the width of the terminal."""

    def __init__(self, lines: Sequence[Line], width: int | None) -> None:
        rows = [TITLE, *lines]
        self._width = width
        self._longest = TAG_COLUMN if width is None else max(len(TITLE.tag), min(TAG_COLUMN, width // 2))
        self._tag = max(size for size in (cells(row.tag) for row in rows) if size <= self._longest)
        self._middle = [max(map(cells, column)) for column in zip(*(row[1:4] for row in rows), strict=True)]

    def rows(self, line: Line) -> list[Row]:
        """The rows of a line: a long tag stands above it, and a long reason goes on below."""
        long = cells(line.tag) > self._longest
        head = padded("" if long else line.tag, self._tag)
        middle = "  ".join(["", *map(padded, line[1:4], self._middle), ""])
        rows = [Row(line.tag)] if long else []
        if self._width is None:
            return [*rows, Row(head, (middle + line.rest).rstrip(), line.style)]
        room = self._width - cells(head)
        column = room - cells(middle)
        if line is TITLE or not line.rest or cells(line.rest) <= column:
            return [*rows, Row(head, cut((middle + line.rest).rstrip(), room), line.style)]
        if column >= _LEAST_COLUMN:
            first, *more = wrapped(line.rest, column)
            rows.append(Row(head, middle + first, line.style))
            return rows + [Row(" " * cells(head + middle), text, line.style) for text in more]
        more = wrapped(line.rest, max(1, self._width - len(_INDENT)))
        return [*rows, Row(head, cut(middle.rstrip(), room), line.style), *(Row(_INDENT, m, line.style) for m in more)]


def table(lines: Sequence[Line], width: int | None) -> list[Row]:
    """A title and the lines, at most `width` wide except for tags; None is no limit."""
    layout = Layout(lines, width)
    return [row for line in (TITLE, *lines) for row in layout.rows(line)]


def view_rows(views: Sequence[View], now: float, width: int | None, *, most: int | None = None) -> list[Row]:
    """A table of all views by group, what failed first, with at most the first `most` of each group."""
    groups = [(group, members, [line_of(v, now) for v in members[:most]]) for group, members in grouped(views).items()]
    lines = [line for *_, shown in groups for line in shown]
    layout = Layout(lines, width)
    rows = layout.rows(TITLE)
    printed = False
    for group, members, shown in groups:
        rows.append(heading(group, len(members)))
        for view, line in zip(members, shown, strict=False):
            rows += layout.rows(line)
            if width is not None:  # programs get one line a tag
                last = last_line((view,), width)
                printed = printed or bool(last)
                rows += last
        if len(members) > len(shown):
            rows.append(Row("", f"… {len(members) - len(shown):,} more", "dim"))
    return rows + footnotes(lines) + ([Row("", OUTPUT_FOOTNOTE, "dim")] if printed else [])


def last_line(views: Sequence[View], width: int) -> list[Row]:
    """The last line that these workloads have printed, if none succeeded and all printed the same; cut to the width."""
    lines = {tuple(last_lines(record_of_run(view), 1)) for view in views}
    shared = lines.pop() if len(lines) == 1 else ()
    return [Row(_INDENT * 2, cut(line, max(1, width - 2 * len(_INDENT))), "dim") for line in shared]


def heading(group: Group, size: int) -> Row:
    """The line above a group."""
    return Row("", f"{group.value} ({size:,})", "bold")


def footnotes(lines: Sequence[Line]) -> list[Row]:
    """What the marks mean that these lines have."""
    marks = ((UNLABELLED, FOOTNOTE), (STALE, STALE_FOOTNOTE))
    return [Row("", told, "dim") for mark, told in marks if any(mark in line.phase for line in lines)]
