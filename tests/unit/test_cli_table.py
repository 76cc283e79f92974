"""The table of `status`: what it says of a tag, how it is grouped, and what it does not do to a terminal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from puter_client.cli.table import FOOTNOTE, STALE_FOOTNOTE, TAG_COLUMN, counted, grouped, line_of, table, view_lines
from puter_client.contract.batch import BatchRow
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_client.contract.result import Result
from puter_client.view import View

NOW = 1_800_000_000.0
RUNNING: dict[str, Any] = {
    "phase": Phase.RUNNING,
    "instance_id": "i-0123456789abcdef0",
    "instance_type": "t3.micro",
    "public_ip": "203.0.113.25",
    "launched_at": NOW - 600,
    "expires_at": NOW + 3_000,
    "labelled": True,
    "ttl_s": 3_600,
}


def view(tag: str = "one", row: BatchRow | None = None, **record: Any) -> View:
    fields = {"phase": Phase.QUEUED, "created_at": NOW - 700, "changed_at": NOW - 700, **record}
    known = Record(namespace="betty", tag=tag, **fields)
    return View(namespace="betty", tag=tag, record=known, row=row, batch_id="b1" if row else None)


def stale(one: View, why: str) -> View:
    return msgspec.structs.replace(one, stage_reason=why)


class TestLine:
    def test_a_running_one_shows_how_long_still_and_where(self) -> None:
        line = line_of(view(**RUNNING), NOW)
        assert line[:5] == ("one", "running", "50m left", "t3.micro", "203.0.113.25")

    def test_one_without_its_own_tags_is_marked(self) -> None:
        assert line_of(view(**RUNNING | {"labelled": False}), NOW).phase == "running·"

    def test_one_that_never_ends_itself_stays(self) -> None:
        assert line_of(view(**RUNNING | {"expires_at": None, "ttl_s": None}), NOW).time == "no end"

    def test_one_that_outlived_its_deadline_says_by_how_much(self) -> None:
        late = RUNNING | {"overdue": True, "expires_at": NOW - 720, "reason": "should have ended itself"}
        line = line_of(view(**late), NOW)
        assert (line.time, line.rest) == ("12m late", "203.0.113.25  should have ended itself")

    def test_one_that_nobody_reads_any_more_is_told_as_it_was_with_the_reason(self) -> None:
        line = line_of(stale(view(**RUNNING), "EC2 last showed it 5m ago: no profile"), NOW)
        assert line[:5] == (
            "one",
            "running?",
            "50m left",
            "t3.micro",
            "203.0.113.25  EC2 last showed it 5m ago: no profile",
        )

    def test_one_that_nobody_reads_any_more_has_no_time_left_for_ever(self) -> None:
        line = line_of(stale(view(**RUNNING | {"expires_at": NOW - 7_200}), "why"), NOW)
        assert line.time == "due 2h ago"

    def test_one_on_its_way_shows_for_how_long_and_why(self) -> None:
        line = line_of(view(phase=Phase.LAUNCHING, reason="waiting for EC2's API rate limit"), NOW)
        assert (line.time, line.rest) == ("for 12m", "waiting for EC2's API rate limit")

    def test_a_failed_one_shows_awss_code(self) -> None:
        failed = view(
            phase=Phase.FAILED,
            reason="You are not authorized",
            ended_at=NOW - 7_200,
            error=ErrorInfo(code="UnauthorizedOperation", message="You are not authorized"),
        )
        line = line_of(failed, NOW)
        assert (line.time, line.rest) == ("2h ago", "UnauthorizedOperation: You are not authorized")

    def test_an_ended_one_shows_the_result_of_its_workload(self) -> None:
        ended = view(phase=Phase.TERMINATED, ended_at=NOW - 60, result=Result.TIMED_OUT)
        assert line_of(ended, NOW).phase == "timed_out"

    def test_one_that_nobody_has_taken_says_so(self) -> None:
        line = line_of(View(namespace="betty", tag="one"), NOW)
        assert (line.phase, line.rest) == ("queued", "waiting for a worker to take the request")

    def test_a_request_that_was_not_granted_shows_its_own_outcome(self) -> None:
        row = BatchRow(outcome=Outcome.CONFLICT, message="running with another region")
        line = line_of(view(row=row, **RUNNING), NOW)
        assert line[:5] == ("one", "conflict", "", "", "running with another region")

    def test_what_a_terminal_would_obey_is_taken_out(self) -> None:
        line = line_of(view(reason="\x1b]0;owned\x07\nrm \u202e-rf"), NOW)
        assert all(cell.isprintable() for cell in line[:5])


class TestTable:
    def test_no_line_is_wider_than_the_terminal(self) -> None:
        rows = [line_of(view("x" * TAG_COLUMN, reason="y" * 300), NOW), line_of(view(**RUNNING), NOW)]
        assert max(map(len, table(rows, 80))) == 80

    def test_what_was_cut_ends_in_an_ellipsis(self) -> None:
        assert table([line_of(view(reason="y" * 300), NOW)], 80)[1].endswith("…")

    @pytest.mark.parametrize(
        ("width", "end"),
        [
            (80, "waiting for EC2's API rate limit, about 1m10s"),
            (67, "  waiting for EC2's API…, about 1m10s"),
            (53, "  waiting…, about 1m10s"),
            (40, "  waiting…"),
        ],
    )
    def test_an_estimate_is_the_last_to_be_cut(self, width: int, end: str) -> None:
        waiting = view(phase=Phase.LAUNCHING, reason="waiting for EC2's API rate limit", estimate_s=70)
        text = table([line_of(waiting, NOW)], width)[1]
        assert text.endswith(end)
        assert len(text) <= width

    def test_a_pipe_gets_everything(self) -> None:
        assert table([line_of(view(reason="y" * 300), NOW)], None)[1].endswith("y" * 300)

    @pytest.mark.parametrize("width", [10, 80])
    def test_a_tag_is_never_cut(self, width: int) -> None:
        tag = "t" * 128
        assert tag in table([line_of(view(tag, reason="why"), NOW)], width)

    def test_a_tag_leaves_half_of_a_narrow_terminal_to_the_rest(self) -> None:
        texts = table([line_of(view("t" * 21, reason="why"), NOW), line_of(view("t" * 20), NOW)], 40)
        assert texts[1] == "t" * 21
        assert texts[2].startswith(" " * 20 + "  queued  ")
        assert texts[3].startswith("t" * 20 + "  queued  ")

    def test_a_long_tag_stands_alone_and_widens_nothing(self) -> None:
        texts = table([line_of(view("t" * 128), NOW), line_of(view("one"), NOW)], 80)
        assert texts[3].startswith("one  queued")


class TestGroups:
    def test_the_ended_come_first_and_the_newest_last(self) -> None:
        views = [
            view("new", **RUNNING | {"launched_at": NOW - 5}),
            view("old", **RUNNING),
            view("coming"),
            view("gone", phase=Phase.TERMINATED, ended_at=NOW - 5),
        ]
        assert [(name, [v.tag for v in members]) for name, members in grouped(views)] == [
            ("ended", ["gone"]),
            ("on the way", ["coming"]),
            ("live", ["old", "new"]),
        ]

    def test_tags_of_the_same_second_are_in_the_order_of_their_numbers(self) -> None:
        tags = ["z-10", "z-9", "z-010", "a", "10", "z-10-b", "z-2"]
        ((_, members),) = grouped([view(tag, created_at=NOW + n / 10) for n, tag in enumerate(tags)])
        assert [v.tag for v in members] == ["10", "a", "z-2", "z-9", "z-010", "z-10", "z-10-b"]

    def test_a_request_that_was_not_granted_is_no_living_machine(self) -> None:
        ((name, _),) = grouped([view(row=BatchRow(outcome=Outcome.CONFLICT), **RUNNING)])
        assert name == "not launched"

    def test_of_a_large_group_the_latest_are_shown_and_the_rest_counted(self) -> None:
        texts = view_lines([view(f"t-{i:05}", created_at=NOW + i) for i in range(10_000)], NOW, 80, most=3)
        assert texts[1:] == [
            "on the way (10,000)",
            "+9,997 earlier",
            *(f"t-0{9_997 + i}  queued  for 0s" for i in range(3)),
        ]

    def test_the_mark_of_the_unlabelled_is_explained_where_there_is_one(self) -> None:
        assert view_lines([view(**RUNNING | {"labelled": False})], NOW, 80)[-1] == FOOTNOTE
        assert FOOTNOTE not in view_lines([view(**RUNNING)], NOW, 80)

    def test_the_mark_of_what_nobody_reads_any_more_is_explained(self) -> None:
        assert view_lines([stale(view(**RUNNING), "why")], NOW, 80)[-1] == STALE_FOOTNOTE
        assert STALE_FOOTNOTE not in view_lines([view(**RUNNING)], NOW, 80)

    def test_counts_are_by_phase(self) -> None:
        views = [view("a"), view("b"), view("c", **RUNNING)]
        assert counted(views) == "2 queued, 1 running"

    def test_a_batchs_request_that_nobody_has_taken_counts_as_queued(self) -> None:
        taken_by_another = view("a", **RUNNING)
        waiting = View(namespace="betty", tag="a", record=taken_by_another.record, batch_id="b2")
        assert counted([waiting]) == "1 queued"
