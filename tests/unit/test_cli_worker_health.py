"""Whether a worker is healthy, as `puter worker --health` tells it."""

from __future__ import annotations

from typing import Any

import pytest

from puter_client.cli.worker_health import lines, of_host, problems_of, running_for_s
from puter_client.contract.health import CredentialsHealth, StageHealth, WorkerHealth
from puter_client.timings import DEFAULT_TIMINGS

NOW = 1_800_000_000.0
GOOD = StageHealth(name="intake", last_success_at=NOW - 2, began_at=NOW - 2)


def worker(*stages: StageHealth, **fields: Any) -> WorkerHealth:
    known: dict[str, Any] = {"worker_id": "web:7:a", "host": "web", "pid": 7, "version": "1"}
    known |= {"started_at": NOW - 900, "seen_at": NOW}
    return WorkerHealth(**known | fields, stages=stages)


@pytest.mark.parametrize(
    ("stage", "problem"),
    [
        (GOOD, None),
        (StageHealth(name="launch"), None),  # it has just been taken up
        (StageHealth(name="launch", began_at=NOW - 599, last_success_at=NOW - 700), None),
        (
            StageHealth(name="launch", began_at=NOW - 601, last_success_at=NOW - 700),
            "stage launch has been running for 10m",
        ),
        (StageHealth(name="launch", began_at=NOW - 1_200), "stage launch has been running for 20m"),
        (StageHealth(name="launch", began_at=NOW - 900, last_error_at=NOW - 899, last_success_at=NOW - 800), None),
        (
            StageHealth(name="observe 1:r:", began_at=NOW - 6, last_success_at=NOW - 300, last_error_at=NOW - 5,
                        last_error="AuthFailure"),
            "stage observe 1:r: has had no success for 5m: AuthFailure",
        ),
        (StageHealth(name="observe 1:r:", began_at=NOW - 6, last_success_at=NOW - 30, last_error_at=NOW - 5), None),
    ],
)  # fmt: skip
def test_a_worker_is_as_healthy_as_its_stages(stage: StageHealth, problem: str | None) -> None:
    assert problems_of(worker(GOOD, stage), NOW, DEFAULT_TIMINGS) == ([] if problem is None else [problem])


@pytest.mark.parametrize(
    ("profile", "since", "problem"),
    [
        ("", NOW - 61, "credentials of no profile have failed for 1m: waiting for AWS credentials"),
        ("lab", NOW - 61, "credentials of profile 'lab' have failed for 1m: waiting for AWS credentials"),
        ("lab", NOW - 59, None),
    ],
)
def test_a_worker_is_as_healthy_as_its_credentials(profile: str, since: float, problem: str | None) -> None:
    failing = CredentialsHealth(profile=profile, since=since, error="waiting for AWS credentials")

    told = problems_of(worker(GOOD, credentials=(failing,)), NOW, DEFAULT_TIMINGS)
    assert told == ([] if problem is None else [problem])


def test_a_worker_that_reports_no_more_is_not_healthy() -> None:
    silent = worker(GOOD, seen_at=NOW - 20)

    assert problems_of(silent, NOW, DEFAULT_TIMINGS) == ["it has not reported for 20s"]


def test_a_run_that_has_ended_does_not_go_on() -> None:
    assert running_for_s(GOOD, NOW) == 0.0


@pytest.mark.parametrize(
    ("one", "runs", "is_ours"),
    [
        (worker(), True, True),
        (worker(), False, True),  # another container's process ids are not this one's
        (worker(seen_at=NOW - 20), True, True),
        (worker(seen_at=NOW - 20), False, False),  # it was killed
        (worker(host="other"), True, False),
    ],
)
def test_a_worker_is_of_this_host_by_the_name_that_it_publishes(one: WorkerHealth, runs: bool, is_ours: bool) -> None:
    assert of_host([one], "web", NOW, DEFAULT_TIMINGS, runs=lambda _: runs) == ([one] if is_ours else [])


def test_it_tells_the_last_success_of_each_stage() -> None:
    assert lines(worker(GOOD, StageHealth(name="launch 1:r:")), [], NOW) == [
        "web:7:a healthy",
        "  STAGE        SUCCESS  ERROR  LAST ERROR",
        "  intake       2s ago   never",
        "  launch 1:r:  never    never",
    ]


def test_it_is_as_wide_as_the_terminal() -> None:
    failed = StageHealth(name="launch 1:r:", last_error_at=NOW, last_error="x" * 200)

    told = lines(worker(failed), [], NOW, 60)
    assert max(map(len, told)) == 60


def test_a_worker_whose_stages_have_not_reported_has_just_started() -> None:
    assert lines(worker(), [], NOW) == ["web:7:a healthy: it has just started"]


def test_it_tells_all_problems() -> None:
    assert lines(worker(), ["one", "two"], NOW) == ["web:7:a not healthy: one; two"]


def test_what_was_published_does_not_reach_a_terminal_as_it_is() -> None:
    evil = worker(StageHealth(name="a\x1b[2J\nb", last_success_at=-1e300), worker_id="h\x1b]0;x\x07")

    told = lines(evil, [], NOW)
    assert len(told) == 3
    assert not any("\x1b" in line or "\n" in line for line in told)
