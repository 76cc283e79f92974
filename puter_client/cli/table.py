"""The table of `status`, made by hand: loading rich would double the time of the command that is run most.

A tag is never cut. If the terminal is too narrow, the last column is cut first, then the others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from puter_client.cli.terminal import cut, plain, styled
from puter_client.cli.when import ago, rough_duration
from puter_client.contract.phase import ENDED, LIVE, ON_ITS_WAY, Phase
from puter_client.contract.result import Result
from puter_client.view import View, WaitFor, WaitState

TAG_COLUMN = 40  # a longer tag, or one wider than half of the terminal, gets its own line
NOT_LAUNCHED = "not launched"
GROUPS = (("ended", ENDED), ("on the way", ON_ITS_WAY), ("live", LIVE))
UNLABELLED = "·"
FOOTNOTE = f"{UNLABELLED} its own name and tags are not written in EC2 yet"
STALE = "?"
STALE_FOOTNOTE = f"{STALE} as EC2 last showed it; it may have changed since"
_LEAST_OF_A_REASON = 8
_STYLE = {
    Phase.RUNNING: "green",
    Phase.FAILED: "red",
    Phase.TERMINATED: "dim",
    Phase.CANCELLED: "dim",
}


class Line(NamedTuple):
    """The cells of one tag, all safe to print; `estimate` is the end of `rest`, and the last of it to be cut."""

    tag: str
    phase: str
    time: str
    type: str
    rest: str
    style: str | None = None
    estimate: str = ""


TITLE = Line("TAG", "PHASE", "TIME", "TYPE", "ADDRESS OR REASON", "dim")


def line_of(view: View, now: float) -> Line:
    """The cells of a tag; `now` is in seconds since 1970."""
    record = view.record
    phase = view.phase.value
    if record is None:
        return Line(plain(view.tag), phase, "", "", plain(view.reason or ""))
    if is_refused(view) and view.outcome is not None:
        return Line(plain(view.tag), view.outcome.value, "", "", plain(view.reason or ""), "red")
    if record.phase is Phase.TERMINATED and record.result:
        phase = record.result.value
    elif record.phase in LIVE:
        phase += ("" if record.labelled else UNLABELLED) + (STALE if view.stage_reason else "")
    return Line(
        plain(view.tag),
        phase,
        _time(view, now),
        plain(record.instance_type or ""),
        plain(_rest(view)),
        "red" if record.result not in (None, Result.SUCCEEDED) else _STYLE.get(record.phase),
        view.estimate or "",
    )


def _time(view: View, now: float) -> str:
    record = view.record
    if record is None:
        return ""
    if record.phase in ENDED:
        return ago(record.ended_at or record.changed_at, now)
    if record.phase in ON_ITS_WAY:
        return f"for {rough_duration(now - record.created_at)}"
    if record.expires_at is None:
        return "no end" if record.ttl_s is None else ""
    if record.overdue:
        return f"{rough_duration(now - record.expires_at)} late"
    if view.stage_reason and record.expires_at <= now:
        return f"due {ago(record.expires_at, now)}"
    return f"{rough_duration(record.expires_at - now)} left"


def _rest(view: View) -> str:
    record = view.record
    if record is None or record.phase not in LIVE:
        code = f"{record.error.code}: " if record and record.error else ""
        return code + (view.reason or "")
    address = record.public_ip or record.public_dns_name or record.private_ip or record.instance_id or ""
    why = "; ".join(reason for reason in (record.reason, view.stage_reason) if reason)
    return f"{address}  {why}" if why else address


def group_of(view: View) -> str:
    """The group of the table that a tag belongs to."""
    if is_refused(view):
        return NOT_LAUNCHED
    return next(name for name, phases in GROUPS if view.phase in phases)


def is_refused(view: View) -> bool:
    """Whether the batch's request launches nothing, so that the tag's record is about another request."""
    return view.outcome is not None and view.wait_state(WaitFor.QUEUED) is WaitState.FAILED


def grouped(views: Sequence[View]) -> list[tuple[str, list[View]]]:
    """Views by group, in each group the newest last."""
    members: dict[str, list[View]] = {name: [] for name in (NOT_LAUNCHED, *(name for name, _ in GROUPS))}
    for view in views:
        members[group_of(view)].append(view)
    return [(name, sorted(found, key=_order)) for name, found in members.items() if found]


def _order(view: View) -> tuple[int, tuple[str | int, ...], str]:
    record = view.record
    if record is None:
        return (0, _natural(view.tag), view.tag)
    at = record.ended_at or record.launched_at or record.created_at
    return (int(at), _natural(view.tag), view.tag)


def _natural(tag: str) -> tuple[str | int, ...]:
    """A sort key by which `z-2` comes before `z-10`: text and numbers alternate."""
    return tuple(int(part) if place % 2 else part for place, part in enumerate(re.split("([0-9]+)", tag)))


class Layout:
    """The widths of the columns: those of their longest cells, within the width of the terminal."""

    def __init__(self, lines: Sequence[Line], width: int | None) -> None:
        rows = [TITLE, *lines]
        self._width = width
        self._longest = TAG_COLUMN if width is None else max(len(TITLE.tag), min(TAG_COLUMN, width // 2))
        self._tag = max(len(row.tag) for row in rows if len(row.tag) <= self._longest)
        self._middle = [max(len(cell) for cell in cells) for cells in zip(*(row[1:4] for row in rows), strict=True)]

    def texts(self, line: Line) -> list[str]:
        """The text of a line; two lines if the tag is long."""
        long = len(line.tag) > self._longest
        head = ("" if long else line.tag).ljust(self._tag)
        cells = "  ".join(["", *(cell.ljust(size) for cell, size in zip(line[1:4], self._middle, strict=True)), ""])
        rest = line.rest if self._width is None else _cut_reason(line, self._width - len(head) - len(cells))
        tail = (cells + rest).rstrip()
        if self._width is not None:
            tail = cut(tail, max(0, self._width - len(head)))
        text = head + (styled(tail, line.style) if line.style else tail)
        return [line.tag, text] if long else [text]


def _cut_reason(line: Line, width: int) -> str:
    """The reason, cut to `width` characters with its estimate whole, if there is room for it."""
    end = f", {line.estimate}" if line.estimate else ""
    for_why = width - len(end)
    if not end or for_why < _LEAST_OF_A_REASON:
        return line.rest
    return cut(line.rest.removesuffix(end), for_why) + end


def table(lines: Sequence[Line], width: int | None) -> list[str]:
    """A title and the lines, at most `width` wide except for tags; None is no limit."""
    layout = Layout(lines, width)
    return [text for line in (TITLE, *lines) for text in layout.texts(line)]


def view_lines(views: Sequence[View], now: float, width: int | None, *, most: int | None = None) -> list[str]:
    """A table of all views in groups, with at most the latest `most` of each group."""
    groups = []
    for name, members in grouped(views):
        hidden = max(0, len(members) - most) if most is not None else 0
        groups.append((name, len(members), hidden, [line_of(view, now) for view in members[hidden:]]))
    lines = [line for *_, rows in groups for line in rows]
    layout = Layout(lines, width)
    texts = layout.texts(TITLE)
    for name, size, hidden, rows in groups:
        texts.append(styled(f"{name} ({size:,})", "bold"))
        texts += [f"+{hidden:,} earlier"] if hidden else []
        texts += [text for line in rows for text in layout.texts(line)]
    for mark, footnote in ((UNLABELLED, FOOTNOTE), (STALE, STALE_FOOTNOTE)):
        if any(mark in line.phase for line in lines):
            texts.append(styled(footnote, "dim"))
    return texts


def counted(views: Sequence[View]) -> str:
    """The number of tags in each phase: `3 queued, 20 running, 2 failed`."""
    counts = dict.fromkeys(Phase, 0)
    for view in views:
        # Until a worker has taken the batch's request, the record is about an earlier request.
        counts[Phase.QUEUED if view.batch_id and view.row is None else view.phase] += 1
    return ", ".join(f"{count:,} {phase.value}" for phase, count in counts.items() if count)
