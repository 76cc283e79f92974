"""The table of `status`: what it says of a tag, how it is grouped, and what it does not do to a terminal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from puter_client.cli.groups import Group, counted, grouped
from puter_client.cli.table import FOOTNOTE, OUTPUT_FOOTNOTE, STALE_FOOTNOTE, Line, line_of, table, view_rows
from puter_client.cli.terminal import cells
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


def texts(*lines: Line, width: int | None = 80) -> list[str]:
    """The lines of a table, without their styles."""
    return [row.text for row in table(lines, width)]


def listed(*views: View, most: int | None = None) -> list[str]:
    """The table of views, without its title and its styles."""
    return [row.text for row in view_rows(views, NOW, 80, most=most)][1:]


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

    @pytest.mark.parametrize(
        ("fields", "rest"),
        [
            ({"result": Result.FAILED, "exit_code": 3, "reason": "it says why"}, "exit code 3; it says why"),
            ({"result": Result.FAILED, "exit_code": 3}, "exit code 3"),
            ({"result": Result.FAILED, "exit_code": 3, "reason": "workload failed, exit code 3"}, "exit code 3"),
            (
                {"result": Result.FAILED, "exit_code": 137, "reason": "workload failed, exit code 137: out of memory"},
                "exit code 137; out of memory",
            ),
            (
                {"result": Result.TIMED_OUT, "exit_code": 7, "reason": "workload timed out, exit code 7: its end"},
                "exit code 7; its end",
            ),
            ({"result": Result.SUCCEEDED, "exit_code": 0, "reason": "workload succeeded"}, "exit code 0"),
            ({"result": Result.INTERRUPTED, "reason": "workload interrupted: EC2"}, "workload interrupted: EC2"),
            ({"result": Result.SUCCEEDED, "exit_code": 0}, "exit code 0"),
            ({"result": Result.LOST, "reason": "nothing is known"}, "nothing is known"),
        ],
    )
    def test_the_exit_code_of_a_workload_is_shown_where_it_is_known(self, fields: dict[str, Any], rest: str) -> None:
        line = line_of(view(phase=Phase.TERMINATED, ended_at=NOW - 60, **fields), NOW)
        assert (line.phase, line.rest) == (fields["result"], rest)

    def test_a_machine_that_is_kept_after_its_workload_still_runs(self) -> None:
        line = line_of(view(**RUNNING, result=Result.FAILED, exit_code=3), NOW)
        assert (line.phase, line.style) == ("running", "red")
        assert line.rest == "203.0.113.25  its workload: failed; exit code 3"


class TestTable:
    @pytest.mark.parametrize("width", [20, 30, 53, 80, 200])
    @pytest.mark.parametrize("letter", ["y", "漢", "e\u0302\u0303"])
    def test_no_line_is_wider_than_the_terminal(self, width: int, letter: str) -> None:
        rows = [line_of(view("x" * 10, reason=letter * 300), NOW), line_of(view(**RUNNING), NOW)]
        assert max(map(cells, texts(*rows, width=width))) <= width

    @pytest.mark.parametrize("width", [30, 53, 80, 200])
    def test_a_reason_is_never_cut(self, width: int) -> None:
        reason = " ".join(f"word-{n}" for n in range(40))
        told = texts(line_of(view(reason=reason, estimate_s=70), NOW), width=width)
        assert f"{reason}, about 1m10s" in " ".join(" ".join(told).split())

    def test_a_reason_goes_on_below_itself(self) -> None:
        told = texts(line_of(view("one", reason="a reason of more words than one line has room for"), NOW), width=71)
        column = told[0].index("ADDRESS")
        assert [line[column:] for line in told[1:]] == ["a reason of more words than one line has", "room for"]
        assert told[2][:column].strip() == ""

    def test_where_its_column_is_narrow_it_takes_whole_lines(self) -> None:
        told = texts(line_of(view("one", reason="a reason of more words than one line has room for"), NOW), width=40)
        assert told[2:] == ["  a reason of more words than one line", "  has room for"]

    def test_a_pipe_gets_everything_on_one_line(self) -> None:
        assert texts(line_of(view(reason="y " * 300 + "z"), NOW), width=None)[1].endswith("y y z")

    def test_what_is_longer_than_any_reason_has_an_end(self) -> None:
        assert len(texts(line_of(view(reason="y" * 1_000_000), NOW))) < 100

    @pytest.mark.parametrize("width", [10, 80])
    def test_a_tag_is_never_cut(self, width: int) -> None:
        tag = "t" * 128
        assert tag in texts(line_of(view(tag, reason="why"), NOW), width=width)

    def test_a_tag_leaves_half_of_a_narrow_terminal_to_the_rest(self) -> None:
        told = texts(line_of(view("t" * 21, reason="why"), NOW), line_of(view("t" * 20), NOW), width=40)
        assert told[1] == "t" * 21
        assert told[2].startswith(" " * 20 + "  queued  ")
        assert told[-1].startswith("t" * 20 + "  queued  ")

    def test_a_long_tag_stands_alone_and_widens_nothing(self) -> None:
        told = texts(line_of(view("t" * 128), NOW), line_of(view("one"), NOW))
        assert told[3].startswith("one  queued")


REFUSED, CONFLICT = BatchRow(outcome=Outcome.REFUSED), BatchRow(outcome=Outcome.CONFLICT)
SKIPPED, OPEN = BatchRow(outcome=Outcome.SKIPPED), BatchRow()
WITHDRAWN = BatchRow(outcome=Outcome.CANCELLED)


class TestGroups:
    @pytest.mark.parametrize(
        ("one", "group", "state"),
        [
            (view(phase=Phase.FAILED), Group.FAILED, "failed"),
            (view(phase=Phase.TERMINATED, result=Result.FAILED), Group.FAILED, "failed"),
            (view(phase=Phase.TERMINATED, result=Result.LOST), Group.FAILED, "lost"),
            (view(**RUNNING | {"result": Result.TIMED_OUT}), Group.FAILED, "running"),
            (view(row=CONFLICT, **RUNNING), Group.FAILED, "conflict"),
            (view(row=REFUSED, phase=Phase.TERMINATED), Group.FAILED, "refused"),
            (view(row=SKIPPED, phase=Phase.TERMINATED), Group.ENDED, "skipped"),
            (view(row=SKIPPED, phase=Phase.TERMINATED, result=Result.FAILED), Group.FAILED, "skipped"),
            (view(row=WITHDRAWN, phase=Phase.FAILED), Group.ENDED, "cancelled"),
            (view(row=OPEN, phase=Phase.FAILED), Group.WAITING, "failed"),
            (view(phase=Phase.CANCELLED), Group.ENDED, "cancelled"),
            (view(phase=Phase.TERMINATED, result=Result.SUCCEEDED), Group.ENDED, "succeeded"),
            (view(phase=Phase.TERMINATED), Group.ENDED, "terminated"),
            (view(phase=Phase.LAUNCHING), Group.WAITING, "launching"),
            (view(phase=Phase.PENDING), Group.LIVE, "pending"),
            (View(namespace="betty", tag="one"), Group.WAITING, "queued"),
            (View(namespace="betty", tag="one", record=view(**RUNNING).record, batch_id="b2"), Group.WAITING, "queued"),
        ],
    )
    def test_each_stands_where_it_is_looked_for(self, one: View, group: Group, state: str) -> None:
        assert (list(grouped([one])), one.state) == ([group], state)

    def test_what_failed_comes_first_and_what_ended_last(self) -> None:
        gone, here, bad = view(phase=Phase.CANCELLED), view(**RUNNING), view(row=CONFLICT)
        assert list(grouped([gone, here, view(), bad])) == [Group.FAILED, Group.WAITING, Group.LIVE, Group.ENDED]

    def test_few_failures_are_not_hidden_behind_many_cancelled(self) -> None:
        views = [view(f"c-{i:05}", phase=Phase.CANCELLED, ended_at=NOW) for i in range(5_000)]
        views += [view(f"f-{i}", phase=Phase.FAILED, ended_at=NOW) for i in range(6)]
        told = listed(*views, most=3)
        assert [line.split()[0] for line in told] == [
            "failed", "f-0", "f-1", "f-2", "…", "ended", "c-00000", "c-00001", "c-00002", "…",
        ]  # fmt: skip
        assert (told[4], told[-1]) == ("… 3 more", "… 4,997 more")

    def test_the_last_line_of_a_failed_workloads_output_stands_below_it_on_a_terminal(self) -> None:
        bad = view(phase=Phase.TERMINATED, result=Result.FAILED, exit_code=3, log_tail="a\nKeyError: " + "x" * 90)
        good = view("two", phase=Phase.TERMINATED, result=Result.SUCCEEDED, exit_code=0, log_tail="fine")
        theirs = view("three", row=CONFLICT, phase=Phase.TERMINATED, result=Result.FAILED, log_tail="of another")
        told = listed(bad, good, theirs)
        assert told[2] == "    | KeyError: " + "x" * 63 + "…"
        assert told[-1] == OUTPUT_FOOTNOTE
        assert not any("fine" in line or "of another" in line for line in told)
        assert len(view_rows([bad, good], NOW, None)) == 5

    def test_the_mark_of_the_unlabelled_is_explained_where_there_is_one(self) -> None:
        assert listed(view(**RUNNING | {"labelled": False}))[-1] == FOOTNOTE
        assert FOOTNOTE not in listed(view(**RUNNING))

    def test_the_mark_of_what_nobody_reads_any_more_is_explained(self) -> None:
        assert listed(stale(view(**RUNNING), "why"))[-1] == STALE_FOOTNOTE
        assert STALE_FOOTNOTE not in listed(view(**RUNNING))


class TestTotals:
    def test_counts_are_by_phase(self) -> None:
        assert counted([view("a"), view("b"), view("c", **RUNNING)]) == "2 queued, 1 running"

    def test_a_batchs_request_that_nobody_has_taken_counts_as_queued(self) -> None:
        taken_by_another = view("a", **RUNNING)
        waiting = View(namespace="betty", tag="a", record=taken_by_another.record, batch_id="b2")
        assert counted([waiting]) == "1 queued"

    @pytest.mark.parametrize(
        ("codes", "told"),
        [
            ([3], "1 failed (exit code 3)"),
            ([3, 3], "2 failed (exit code 3)"),
            ([3, 137, 3], "3 failed (2 with exit code 3, 1 with exit code 137)"),
            ([3, None], "2 failed (1 with exit code 3)"),
            ([None], "1 failed"),
            (
                [1, 2, 3, 4, 5],
                "5 failed (1 with exit code 1, 1 with exit code 2, 1 with exit code 3, 2 other exit codes)",
            ),
        ],
    )
    def test_results_are_counted_with_their_exit_codes(self, codes: list[int | None], told: str) -> None:
        ended = [view(phase=Phase.TERMINATED, result=Result.FAILED, exit_code=code) for code in codes]
        ended.append(view(phase=Phase.TERMINATED, result=Result.SUCCEEDED, exit_code=0))
        assert counted(ended) == ", ".join(sorted([told, "1 succeeded"], key=lambda text: "failed" not in text))
