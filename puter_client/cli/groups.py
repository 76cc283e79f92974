"""What people look for in many puters: which have failed, which wait, which live; their totals. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from enum import StrEnum

from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.contract.result import Result
from puter_client.view import View

MOST_EXIT_CODES = 3
_STATES = tuple(dict.fromkeys(word.value for words in (Phase, Result, Outcome) for word in words))


class Group(StrEnum):
    """The groups of a table, in the order in which they are shown: what needs somebody comes first."""

    FAILED = "failed"
    WAITING = "waiting"
    LIVE = "live"
    ENDED = "ended"


def group_of(view: View) -> Group:
    """The group that a tag belongs to."""
    if view.has_failed:
        return Group.FAILED
    if not view.is_taken:
        return Group.WAITING
    if view.launches_nothing:
        return Group.ENDED
    phase = view.phase
    if phase in LIVE:
        return Group.LIVE
    return Group.WAITING if phase in ON_ITS_WAY or view.is_open else Group.ENDED


def grouped(views: Iterable[View]) -> dict[Group, list[View]]:
    """Views by group; in each, they keep their order."""
    members: dict[Group, list[View]] = {group: [] for group in Group}
    for view in views:
        members[group_of(view)].append(view)
    return {group: found for group, found in members.items() if found}


def totals(views: Sequence[View]) -> str:
    """The line of the totals."""
    return f"total {len(views):,}: {counted(views)}"


def counted(views: Sequence[View]) -> str:
    """The number of tags in each state: `3 queued, 20 running, 5 failed (exit code 1)`."""
    counts = Counter(view.state for view in views)
    codes = Counter(
        view.record.exit_code
        for view in views
        if view.record is not None and view.record.exit_code is not None and view.state == Result.FAILED
    )
    told = [f"{counts[state]:,} {state}" + _codes(state, counts, codes) for state in _STATES if counts[state]]
    return ", ".join(told)


def _codes(state: str, counts: Counter[str], codes: Counter[int]) -> str:
    """The exit codes of the workloads that failed, the most frequent first."""
    if state != Result.FAILED or not codes:
        return ""
    if len(codes) == 1 and codes.total() == counts[state]:
        return f" (exit code {next(iter(codes))})"
    told = [f"{count:,} with exit code {code}" for code, count in codes.most_common(MOST_EXIT_CODES)]
    more = len(codes) - MOST_EXIT_CODES
    return f" ({', '.join(told)}{f', {more:,} other exit codes' if more > 0 else ''})"


def why_waiting(waiting: Iterable[View]) -> list[tuple[str, list[View]]]:
    """The reasons for which these wait, the most frequent first, each with its views.

    Estimates do not make reasons different; a reason has the shortest and the longest of its own.
    """
    shared: dict[str, list[View]] = defaultdict(list)
    for view in waiting:
        shared[view.reason_without_estimate or view.state].append(view)
    reasons = sorted(shared.items(), key=lambda item: -len(item[1]))
    return [(reason + _estimates(views), views) for reason, views in reasons]


def _estimates(views: Sequence[View]) -> str:
    known = {view.record.estimate_s: view.estimate for view in views if view.record and view.estimate}
    if not known:
        return ""
    shortest, longest = (known[pick(known, key=lambda at: at or 0)] for pick in (min, max))
    return f", {longest}" if shortest == longest else f", {shortest} to {(longest or '').removeprefix('about ')}"
