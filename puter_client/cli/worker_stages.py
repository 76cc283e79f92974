"""How the stages of a worker are doing, as `puter local status` and `puter worker --health` show it.

What workers published is not trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from puter_client.cli.terminal import Row, cells, cut, padded, plain
from puter_client.cli.when import ago, rough_duration
from puter_client.contract.health import StageHealth, WorkerHealth
from puter_client.contract.key import shown
from puter_client.timings import DEFAULT_TIMINGS
from puter_client.view import iso

MOST_STAGES = 40
_NAME_WIDTH = 24
LONGEST_AGO_S = 3_153_600_000.0  # 100 years: a worker's numbers may be anything
_TITLE = ("STAGE", "SUCCESS", "ERROR", "LAST ERROR")


def failing_for_s(stage: StageHealth, started_at: float, now: float) -> float | None:
    """For how many seconds a stage has been failing; None if its last run succeeded, or it never failed.

    A stage fails from its first missed success on: one pace after its last success (or after the start of its
    worker), and at the latest since its last error.
    """
    if stage.last_error_at is None:
        return None
    if stage.last_success_at is not None and stage.last_success_at >= stage.last_error_at:
        return None
    due_at = (started_at if stage.last_success_at is None else stage.last_success_at) + (stage.pace_s or 0.0)
    return max(0.0, now - min(stage.last_error_at, due_at))


def warnings(
    workers: Sequence[WorkerHealth], now: float, failing_after_s: float = DEFAULT_TIMINGS.stage_failing_after_s
) -> list[str]:
    """One line for each stage, and each profile's credentials, that have failed for over `failing_after_s`."""
    lines = []
    for worker in workers:
        for one in worker.credentials[:MOST_STAGES]:
            if now - one.since > failing_after_s:
                whose = f"of profile {shown(one.profile)}" if one.profile else "of no profile"
                for_ = rough_duration(min(now - one.since, LONGEST_AGO_S))
                lines.append(f"credentials {whose} have failed for {for_}: {plain(one.error)}")
        for stage in worker.stages[:MOST_STAGES]:
            failing_s = failing_for_s(stage, worker.started_at, now)
            if failing_s is not None and failing_s > failing_after_s:
                error = f": {plain(stage.last_error)}" if stage.last_error else ""
                for_ = rough_duration(min(failing_s, LONGEST_AGO_S))
                lines.append(f"stage {stage_name(stage)} has had no success for {for_}{error}")
    return lines


def stage_table(worker: WorkerHealth, now: float, width: int | None) -> list[Row]:
    """The stages of one worker: last success and last error, at most `width` wide; None is no limit."""
    if not worker.stages:
        return [Row("        it has reported no stages")]
    rows = [_TITLE, *(_cells(stage, now) for stage in worker.stages[:MOST_STAGES])]
    widths = [max(cells(row[column]) for row in rows) for column in range(3)]
    lines = []
    for row in rows:
        line = "  ".join([*map(padded, row[:3], widths), row[3]]).rstrip()
        lines.append(Row("", line if width is None else cut(line, width), "dim" if row is _TITLE else None))
    left = len(worker.stages) - MOST_STAGES
    return [*lines, Row(f"+{left:,} more")] if left > 0 else lines


def to_json(worker: WorkerHealth) -> Mapping[str, Any]:
    """A worker's health for programs; times in UTC, ISO 8601."""
    fields = msgspec.to_builtins(worker)
    fields |= {"started_at": iso(worker.started_at), "seen_at": iso(worker.seen_at)}
    fields["stages"] = [
        {
            "name": stage.name,
            "last_success_at": iso(stage.last_success_at),
            "last_error_at": iso(stage.last_error_at),
            "last_error": stage.last_error,
            "began_at": iso(stage.began_at),
            "runs": stage.runs,
            "pace_s": stage.pace_s,
        }
        for stage in worker.stages
    ]
    fields["credentials"] = [
        {"profile": one.profile, "since": iso(one.since), "error": one.error} for one in worker.credentials
    ]
    return dict(fields)


def _cells(stage: StageHealth, now: float) -> tuple[str, str, str, str]:
    times = _ago(stage.last_success_at, now), _ago(stage.last_error_at, now)
    return (stage_name(stage), *times, plain(stage.last_error or ""))


def stage_name(stage: StageHealth) -> str:
    """A stage's name, at most 24 cells wide."""
    return cut(plain(stage.name), _NAME_WIDTH)


def _ago(at: float | None, now: float) -> str:
    return "never" if at is None else ago(max(at, now - LONGEST_AGO_S), now)
