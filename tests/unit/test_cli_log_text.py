"""What there is of a workload's output, and how much of it is shown."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.cli.log_text import beyond, is_over, known_bytes, last_of, named, record_of_run, rest_of
from puter_client.cli.machine_log import LOG, NOT_BEGUN, script
from puter_client.contract.batch import BatchRow
from puter_client.contract.outcome import Outcome
from puter_client.contract.output import Output
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.result import Result
from puter_client.view import View

LINES = st.lists(st.text(st.characters(exclude_characters="\n"), max_size=3), max_size=12)


def view(phase: Phase = Phase.TERMINATED, row: BatchRow | None = None, **fields: Any) -> View:
    known: dict[str, Any] = {"created_at": 0.0, "changed_at": 0.0, "instance_id": "i-1", "has_workload": True}
    record = Record(namespace="betty", tag="one", phase=phase, **known | fields)
    return View(namespace="betty", tag="one", record=record, row=row, batch_id="b1" if row else None)


class TestOver:
    @pytest.mark.parametrize(
        ("phase", "fields", "over"),
        [
            (Phase.QUEUED, {}, False),
            (Phase.RUNNING, {}, False),
            (Phase.RUNNING, {"result": Result.SUCCEEDED}, True),
            (Phase.RUNNING, {"has_workload": False}, False),
            (Phase.TERMINATED, {}, False),
            (Phase.TERMINATED, {"result": Result.LOST}, True),
            (Phase.TERMINATED, {"has_workload": False}, True),
            (Phase.FAILED, {}, True),
            (Phase.CANCELLED, {}, True),
        ],
    )
    def test_it_is_over_when_nothing_more_is_to_come(self, phase: Phase, fields: dict[str, Any], over: bool) -> None:
        assert is_over(view(phase, **fields)) is over

    @pytest.mark.parametrize(
        ("row", "over", "own"),
        [
            (BatchRow(), False, False),
            (BatchRow(outcome=Outcome.CREATED, request_number=1), False, True),
            (BatchRow(outcome=Outcome.EXISTING, request_number=1), False, True),
            (BatchRow(outcome=Outcome.SKIPPED, request_number=1), False, True),
            (BatchRow(outcome=Outcome.DONE, request_number=1), False, True),
            (BatchRow(outcome=Outcome.CREATED, request_number=0), True, False),
            (BatchRow(outcome=Outcome.CONFLICT), True, False),
            (BatchRow(outcome=Outcome.REFUSED), True, False),
            (BatchRow(outcome=Outcome.CANCELLED), True, False),
        ],
    )
    def test_a_batchs_request_that_ran_nothing_has_no_output(self, row: BatchRow, over: bool, own: bool) -> None:
        one = view(Phase.RUNNING, row)
        assert (is_over(one), record_of_run(one) is not None) == (over, own)

    def test_what_nobody_has_taken_is_to_come(self) -> None:
        assert is_over(View(namespace="betty", tag="one")) is False


class TestLast:
    @given(LINES, st.integers(0, 14), st.booleans())
    def test_it_is_the_last_lines_as_tail_shows_them(self, lines: list[str], most: int, whole: bool) -> None:
        text = "".join(f"{line}\n" for line in lines) + ("" if whole else "x")
        expected = text.split("\n")[:-1] if whole else text.split("\n")
        told = last_of(text, most)
        assert text.endswith(told)
        assert told.count("\n") + (not whole and bool(told)) == min(most, len(expected))

    def test_without_a_number_it_is_all(self) -> None:
        assert last_of("a\nb", None) == "a\nb"


class TestRest:
    @given(st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), max_size=60), st.data())
    def test_what_is_shown_by_ssh_and_by_the_frame_is_the_whole_once(self, text: str, data: st.DataObject) -> None:
        """`at` and the place where the frame begins are anywhere between characters."""
        at, begin = (data.draw(st.integers(0, len(text))) for _ in range(2))
        output = Output(generation=1, text=text[begin:], total_bytes=len(text.encode()))
        missing, rest = rest_of(output, len(text[:at].encode()))
        assert rest == text[max(at, begin) :]
        assert missing == len(text[at : max(at, begin)].encode())

    def test_what_was_no_text_counts_as_bytes(self) -> None:
        output = Output(generation=1, text="\ufffd\ufffdab", total_bytes=4)
        assert (known_bytes(output), rest_of(output, 1)) == (4, (0, "\ufffdab"))

    @pytest.mark.parametrize("total", [0, -1, 3])
    def test_more_may_be_known_than_the_machine_says(self, total: int) -> None:
        assert rest_of(Output(generation=1, text="abc", total_bytes=total), 10) == (0, "")


class TestBeyond:
    @given(LINES, LINES, st.integers(0, 12))
    def test_no_line_is_lost(self, before: list[str], new: list[str], gone: int) -> None:
        old = "".join(f"{line}\n" for line in before)
        now = "".join(f"{line}\n" for line in [*before[gone:], *new])
        told = beyond(old, now)
        assert now.endswith(told)
        assert len(told) <= len(now)

    @pytest.mark.parametrize(
        ("before", "now", "new"),
        [
            ("", "a\n", "a\n"),
            ("a\nb\n", "a\nb\n", ""),
            ("a\nb\n", "a\nb\nc\n", "c\n"),
            ("a\nb\nc\n", "b\nc\nd\n", "d\n"),
            ("long a\nb\nc\n", "g a\nb\nc\nd\n", "d\n"),
            ("x\nx\n", "x\nx\nx\n", "x\n"),
            ("a\nb\n", "c\nd\n", "c\nd\n"),
        ],
    )
    def test_lines_that_were_shown_are_not_shown_again(self, before: str, now: str, new: str) -> None:
        assert beyond(before, now) == new


class TestScript:
    """What a machine's shell does, done by a shell here."""

    def run(self, folder: Path, **how: Any) -> tuple[int, bytes]:
        words = script(**{"last": None, "after": None, "follow": False} | how).replace(LOG, str(folder / "log"))
        done = subprocess.run(["/bin/sh", "-c", words], capture_output=True, check=False, timeout=30)
        return done.returncode, done.stdout

    @pytest.mark.parametrize(
        ("how", "at", "out"),
        [
            ({}, 0, b"one\ntwo\nthree"),
            ({"last": 2}, 4, b"two\nthree"),
            ({"last": 0}, 13, b""),
            ({"last": 99}, 0, b"one\ntwo\nthree"),
            ({"last": 1, "after": 4}, 4, b"two\nthree"),
            ({"after": 13}, 13, b""),
        ],
    )
    def test_it_says_where_it_begins_and_prints_from_there(
        self, tmp_path: Path, how: dict[str, int], at: int, out: bytes
    ) -> None:
        (tmp_path / "log").write_bytes(b"one\ntwo\nthree")
        assert self.run(tmp_path, **how) == (0, b"puter-log-at %d\n" % at + out)

    def test_where_there_is_no_log_it_says_so(self, tmp_path: Path) -> None:
        assert self.run(tmp_path) == (NOT_BEGUN, b"")


def test_many_tags_are_named_by_a_few() -> None:
    assert named(["a", "b", "c"]) == "a, b, c"
    assert named([f"t{n}" for n in range(500)]) == "t0, t1, t2 and 497 more"
