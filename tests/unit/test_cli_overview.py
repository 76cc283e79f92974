"""What `status --watch` and a wait show of many puters on one terminal."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.cli.overview import MOST_NAMED, overview
from puter_client.cli.terminal import Size, cells
from puter_client.contract.phase import Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_client.contract.result import Result
from puter_client.view import View

NOW = 1_800_000_000.0
MAX_PARALLEL = "waiting for one of the batch's 120 machines to end (max_parallel)"
DENIED = "You are not authorized to perform this operation; ask who manages the role of the workers for it"
TERMINAL = Size(80, 23)


def view(tag: str, phase: Phase, **fields: Any) -> View:
    known = {"created_at": NOW - 60, "changed_at": NOW - 60, **fields}
    return View(namespace="betty", tag=tag, record=Record(namespace="betty", tag=tag, phase=phase, **known))


def running(count: int) -> list[View]:
    live = {"labelled": True, "instance_type": "t3.micro", "public_ip": "203.0.113.25", "expires_at": NOW + 600}
    return [view(f"run-{n}", Phase.RUNNING, **live) for n in range(count)]


def waiting(count: int, reason: str, tag: str = "wait", **fields: Any) -> list[View]:
    return [view(f"{tag}-{n}", Phase.LAUNCHING, reason=reason, **fields) for n in range(count)]


def failed(count: int, reason: str = DENIED, tag: str = "bad") -> list[View]:
    error = ErrorInfo(code="UnauthorizedOperation", message=reason)
    return [view(f"{tag}-{n}", Phase.FAILED, reason=reason, error=error, ended_at=NOW) for n in range(count)]


def cancelled(count: int) -> list[View]:
    return [view(f"off-{n}", Phase.CANCELLED, ended_at=NOW) for n in range(count)]


def shown(views: list[View], size: Size = TERMINAL, *notes: str) -> list[str]:
    return [row.text for row in overview(views, NOW, size, notes=notes)]


def test_totals_come_first_then_failures_then_what_waits_then_what_runs() -> None:
    lines = shown([*cancelled(5_000), *running(201), *waiting(80, MAX_PARALLEL), *failed(6)])

    assert lines == [
        "total 5,287: 80 launching, 201 running, 6 failed, 5,000 cancelled",
        "failed (6)",
        "  bad-0, bad-1, bad-2, bad-3, bad-4, bad-5: failed",
        "    UnauthorizedOperation: You are not authorized to perform this operation; ask",
        "    who manages the role of the workers for it",
        "80 waiting for one of the batch's 120 machines to end (max_parallel)",
        "live (201)",
        *(f"{f'run-{n}':<6}  running  10m left  t3.micro  203.0.113.25" for n in range(15)),
        "… 186 more",
    ]


def test_the_reason_that_most_share_comes_first() -> None:
    views = [*waiting(3, "no capacity", "rare"), *waiting(78, MAX_PARALLEL), *waiting(1, "waiting for launch", "new")]

    assert shown(views)[1:] == [
        "78 waiting for one of the batch's 120 machines to end (max_parallel)",
        "rare-0, rare-1, rare-2: no capacity",
        "new-0: waiting for launch",
    ]


def test_a_reason_that_does_not_say_so_is_one_to_wait_for() -> None:
    assert shown(waiting(80, "no capacity"))[1:] == ["80 waiting: no capacity"]


def test_estimates_of_the_same_wait_are_told_as_a_span() -> None:
    views = [*waiting(5, "waiting for a turn", "a", estimate_s=10), *waiting(5, "waiting for a turn", estimate_s=130)]

    assert shown(views)[1:] == ["10 waiting for a turn, about 10s to 2m10s"]


def test_reasons_beyond_the_terminal_are_counted_by_their_tags() -> None:
    views = [view for n in range(30) for view in waiting(4, f"reason {n}", f"w{n}")]

    lines = shown(views)

    assert lines[1:-1] == [f"4 waiting: reason {n}" for n in range(21)]
    assert lines[-1] == f"… {4 * 9} more waiting"


def test_tags_that_failed_for_the_same_reason_are_named_together() -> None:
    first, *_ = (line for line in shown(failed(5_000)) if "bad-0" in line)

    assert first.strip().startswith("bad-0, bad-1, ")
    assert " ".join(" ".join(shown(failed(5_000))).split()).count(f"and {5_000 - MOST_NAMED:,} more: failed") == 1


def test_failures_with_reasons_of_their_own_are_each_told() -> None:
    lines = shown([*failed(1, "no such subnet", "a"), *failed(1, "no such image", "b")])

    assert lines[1:] == [
        "failed (2)",
        "  a-0: failed: UnauthorizedOperation: no such subnet",
        "  b-0: failed: UnauthorizedOperation: no such image",
    ]


def test_workloads_that_failed_are_told_by_result_and_exit_code() -> None:
    ended: dict[str, Any] = {"ended_at": NOW, "result": Result.FAILED}
    views = [view(f"job-{n}", Phase.TERMINATED, exit_code=3, **ended) for n in range(2)]
    views.append(view("other", Phase.TERMINATED, exit_code=4, reason="killed", **ended))

    assert shown(views) == [
        "total 3: 3 failed (2 with exit code 3, 1 with exit code 4)",
        "failed (3)",
        "  job-0, job-1: failed: exit code 3",
        "  other: failed: exit code 4; killed",
    ]


def test_the_last_line_of_output_is_told_where_all_printed_the_same() -> None:
    ended: dict[str, Any] = {"ended_at": NOW, "result": Result.FAILED, "exit_code": 3}
    same = [view(f"job-{n}", Phase.TERMINATED, log_tail=f"run {n}\nKeyError: 'x'", **ended) for n in range(2)]
    other = view("other", Phase.TERMINATED, log_tail="no space left", **ended | {"exit_code": 4})

    assert shown([*same, other])[2:] == [
        "  job-0, job-1: failed: exit code 3",
        "    | KeyError: 'x'",
        "  other: failed: exit code 4",
        "    | no space left",
    ]
    assert shown([same[0], view("job-1", Phase.TERMINATED, log_tail="else", **ended)])[2:] == [
        "  job-0, job-1: failed: exit code 3"
    ]


def test_many_failures_leave_room_for_what_waits_and_runs() -> None:
    bad = [view for n in range(500) for view in failed(1, f"reason {n}", f"bad{n}")]
    lines = shown([*bad, *waiting(80, MAX_PARALLEL), *running(201)])

    assert "80 waiting for one of the batch's 120 machines to end (max_parallel)" in lines
    assert lines[lines.index("live (201)") + 1].startswith("run-0")
    assert lines.index("live (201)") > 10


def test_notes_stand_below_the_totals() -> None:
    lines = shown(running(1), TERMINAL, "no worker for 40s; state as of 18:40:02")

    assert lines[:2] == ["total 1: 1 running", "no worker for 40s; state as of 18:40:02"]


def test_where_there_is_nothing_only_notes_are_told() -> None:
    assert shown([], TERMINAL, "nothing here") == ["nothing here"]


@pytest.mark.parametrize("lines", range(1, 41))
def test_whatever_is_cut_says_how_much_more_there_is(lines: int) -> None:
    rows = shown(running(30), Size(80, lines))
    listed = [row for row in rows if row.startswith("run-")]
    more = [row for row in rows if row.startswith("… ")]

    assert len(rows) <= lines
    assert more == ([f"… {30 - len(listed)} more"] if 0 < len(listed) < 30 else [])


EVIL = "a\x1b[2Jb"
REASONS = st.sampled_from([DENIED, "no capacity", MAX_PARALLEL, "漢字" * 60, "x" * 300, "", EVIL, "e\u0301" * 90])
VIEWS = st.lists(
    st.builds(
        lambda n, phase, reason, result: view(f"{'t' * n}-{n}", phase, reason=reason or None, result=result),
        st.integers(1, 120),
        st.sampled_from(Phase),
        REASONS,
        st.sampled_from([None, *Result]),
    ),
    max_size=60,
)


@given(VIEWS, st.integers(10, 200), st.integers(0, 60))
def test_nothing_ever_leaves_the_terminal(views: list[View], columns: int, lines: int) -> None:
    rows = overview(views, NOW, Size(columns, lines), notes=["a note of some words", "another"])

    assert len(rows) <= lines
    assert all(cells(row.text) <= columns for row in rows)
    assert all(row.text.isprintable() for row in rows)


@given(VIEWS, st.integers(60, 200))
def test_on_a_terminal_that_is_high_enough_every_failure_is_told_with_all_of_its_reason(
    views: list[View], columns: int
) -> None:
    text = "".join("".join(row.text.split()) for row in overview(views, NOW, Size(columns, 10_000)))

    for one in views:
        if one.has_failed and one.reason and one.reason != EVIL:
            assert "".join(one.reason.replace("e\u0301", "é").split()) in text
