"""The table of `status`, by hand: it is the command people run most, and rich alone takes as long to load.

A tag is never cut. What does not fit is the last column, and after it the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from puter_client.cli.terminal import cut, plain, styled
from puter_client.cli.when import about, ago
from puter_client.contract.phase import ENDED, LIVE, ON_ITS_WAY, Phase, Result
from puter_client.view import Verdict, View, WaitFor

TAG_COLUMN = 40  # a longer tag stands on a line of its own
TITLES = ("TAG", "PHASE", "TIME", "TYPE", "ADDRESS OR REASON")
GROUPS = (("ended", ENDED), ("on the way", ON_ITS_WAY), ("alive", LIVE))
UNLABELLED = "·"
FOOTNOTE = f"{UNLABELLED} EC2 does not show its own name and tags yet"
_STYLE = {
    Phase.RUNNING: "green",
    Phase.FAILED: "red",
    Phase.TERMINATED: "dim",
    Phase.CANCELLED: "dim",
}


class Line(NamedTuple):
    """One tag's cells, all harmless text."""

    tag: str
    phase: str
    time: str
    type: str
    rest: str
    style: str | None = None


def line_of(view: View, now: float) -> Line:
    """The cells of a tag; `now` is in seconds since 1970."""
    record = view.record
    phase = view.phase.value
    if record is None:
        return Line(plain(view.tag), phase, "", "", plain(view.reason or ""))
    if view.verdict(WaitFor.QUEUED) is Verdict.FAILED and view.outcome is not None:
        # What the record says is another wish's.
        return Line(plain(view.tag), view.outcome.value, "", "", plain(view.reason or ""), "red")
    if record.phase is Phase.TERMINATED and record.result:
        phase = record.result.value
    elif record.phase in LIVE and not record.labelled:
        phase += UNLABELLED
    return Line(
        plain(view.tag),
        phase,
        _time(view, now),
        plain(record.instance_type or ""),
        plain(_rest(view)),
        "red" if record.result not in (None, Result.SUCCEEDED) else _STYLE.get(record.phase),
    )


def _time(view: View, now: float) -> str:
    record = view.record
    if record is None:
        return ""
    if record.phase in ENDED:
        return ago(record.ended_at or record.changed_at, now)
    if record.phase in ON_ITS_WAY:
        return f"for {about(now - record.created_at)}"
    if record.expires_at is None:
        return "stays" if record.ttl_s is None else ""
    if record.overdue:
        return f"{about(now - record.expires_at)} late"
    return f"{about(record.expires_at - now)} left"


def _rest(view: View) -> str:
    record = view.record
    if record is None or record.phase not in LIVE:
        code = f"{record.error.code}: " if record and record.error else ""
        return code + (view.reason or "")
    address = record.public_ip or record.public_dns_name or record.private_ip or record.instance_id or ""
    return f"{address}  {record.reason}" if record.reason else address


def grouped(views: Sequence[View]) -> list[tuple[str, list[View]]]:
    """Views by what may still be expected of them, in each group the newest last."""
    found = []
    for name, phases in GROUPS:
        members = [view for view in views if view.phase in phases]
        if members:
            found.append((name, sorted(members, key=_order)))
    return found


def _order(view: View) -> tuple[float, str]:
    record = view.record
    if record is None:
        return (0.0, view.tag)
    return (record.ended_at or record.launched_at or record.created_at, view.tag)


def table(lines: Sequence[Line], width: int | None, *, titled: bool = True) -> list[str]:
    """The lines of a table at most `width` wide; None is as wide as it takes."""
    rows = ([Line(*TITLES, style="dim")] if titled else []) + list(lines)
    tag_width = max((len(row.tag) for row in rows if len(row.tag) <= TAG_COLUMN), default=0)
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(1, 4)]
    shown: list[str] = []
    for row in rows:
        if len(row.tag) > TAG_COLUMN:
            shown.append(row.tag)
        head = " " * tag_width if len(row.tag) > TAG_COLUMN else row.tag.ljust(tag_width)
        middle = [cell.ljust(size) for cell, size in zip(row[1:4], widths, strict=True)]
        text = "  ".join([head, *middle, row.rest]).rstrip()
        if width is not None and len(text) > width:
            text = cut(text, max(width, tag_width))
        style = row.style
        shown.append(
            text
            if style is None
            else head + styled(text[len(head) :], style)
            if style != "dim"
            else styled(text, style)
        )
    return shown


def view_lines(views: Sequence[View], now: float, width: int | None, *, most: int | None = None) -> list[str]:
    """A table of all views in groups; of each group at most the latest `most`."""
    shown: list[Line | str] = []
    for name, members in grouped(views):
        hidden = len(members) - most if most is not None and len(members) > most else 0
        shown.append(f"{name} ({len(members):,})")
        if hidden:
            shown.append(f"  +{hidden:,} earlier ones")
        shown += [line_of(view, now) for view in members[hidden:]]
    lines = [item for item in shown if isinstance(item, Line)]
    rows = iter(_blocks(lines, width))
    texts = next(rows)
    for item in shown:
        if isinstance(item, str):
            texts.append(styled(item, "bold"))
        else:
            texts += next(rows)
    if any(UNLABELLED in line.phase for line in lines):
        texts.append(styled(FOOTNOTE, "dim"))
    return texts


def _blocks(lines: Sequence[Line], width: int | None) -> list[list[str]]:
    """The title's text lines, then each line's: one, or two where the tag is long."""
    texts = iter(table(lines, width))
    return [[next(texts)], *([next(texts) for _ in range(2 if len(line.tag) > TAG_COLUMN else 1)] for line in lines)]


def counted(views: Sequence[View]) -> str:
    """How many stand where: `3 queued, 20 running, 2 failed`."""
    counts = dict.fromkeys(Phase, 0)
    for view in views:
        # Until a worker has taken the batch's wish, the record tells of an earlier one.
        counts[Phase.QUEUED if view.batch_id and view.row is None else view.phase] += 1
    return ", ".join(f"{count:,} {phase.value}" for phase, count in counts.items() if count)
