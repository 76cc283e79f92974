"""The stages of a worker as `puter local status` shows them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from puter_client.cli.worker_stages import MOST_STAGES, failing_for_s, stage_table, to_json, warnings
from puter_client.contract.health import CredentialsHealth, StageHealth, WorkerHealth

NOW = 1_800_000_000.0
STARTED = NOW - 3_600


def worker(*stages: StageHealth, **fields: Any) -> WorkerHealth:
    known: dict[str, Any] = {
        "worker_id": "desk:7:a",
        "host": "desk",
        "pid": 7,
        "version": "1",
        "started_at": STARTED,
        "seen_at": NOW,
    }
    return WorkerHealth(**known | fields, stages=stages)


def stage(name: str = "launch", **fields: Any) -> StageHealth:
    return StageHealth(name=name, **fields)


class TestFailing:
    @pytest.mark.parametrize(
        ("health", "failing_s"),
        [
            pytest.param(stage(), None, id="never ran"),
            pytest.param(stage(last_success_at=NOW - 900), None, id="never failed"),
            pytest.param(stage(last_success_at=NOW - 1, last_error_at=NOW - 5), None, id="recovered"),
            pytest.param(stage(last_error_at=NOW - 90), 3_600.0, id="never succeeded since the worker started"),
            pytest.param(stage(last_success_at=NOW - 300, last_error_at=NOW - 1), 300.0, id="fails again and again"),
            pytest.param(stage(last_success_at=NOW - 95, last_error_at=NOW - 90), 95.0, id="silent since its error"),
            pytest.param(
                stage(last_success_at=NOW - 3_600, last_error_at=NOW - 1, pace_s=3_600.0),
                1.0,
                id="rare, failed just now",
            ),
        ],
    )
    def test_a_stage_fails_from_its_first_missed_success_on(self, health: StageHealth, failing_s: float | None) -> None:
        assert failing_for_s(health, STARTED, NOW) == failing_s

    def test_over_a_minute_without_success_is_said_plainly(self) -> None:
        failing = stage(last_success_at=NOW - 300, last_error_at=NOW - 1, last_error="no credentials")
        assert warnings([worker(failing)], NOW) == ["stage launch has had no success for 5m: no credentials"]

    @pytest.mark.parametrize("health", [stage(), stage(last_success_at=NOW - 55, last_error_at=NOW - 1)])
    def test_a_shorter_failure_is_not(self, health: StageHealth) -> None:
        assert warnings([worker(health)], NOW) == []


def texts(one: WorkerHealth, width: int | None = 80) -> list[str]:
    return [row.text for row in stage_table(one, NOW, width)]


class TestTable:
    def test_each_stage_is_a_line_with_its_last_success_and_error(self) -> None:
        one = stage("intake", last_success_at=NOW - 2)
        two = stage("launch", last_success_at=NOW - 120, last_error_at=NOW - 3, last_error="RequestLimitExceeded")
        assert texts(worker(one, two), None) == [
            "STAGE   SUCCESS  ERROR   LAST ERROR",
            "intake  2s ago   never",
            "launch  2m ago   3s ago  RequestLimitExceeded",
        ]

    def test_no_line_is_wider_than_the_terminal(self) -> None:
        lines = texts(worker(stage("x" * 99, last_error_at=NOW, last_error="y" * 999)), 60)
        assert max(map(len, lines)) <= 60

    def test_a_worker_of_an_older_version_has_reported_none(self) -> None:
        assert texts(worker()) == ["        it has reported no stages"]

    def test_very_many_stages_are_counted(self) -> None:
        lines = texts(worker(*[stage(str(number)) for number in range(MOST_STAGES + 3)]))
        assert (len(lines), lines[-1]) == (MOST_STAGES + 2, "+3 more")

    @pytest.mark.parametrize("at", [-1e308, 1e308])
    def test_nothing_in_it_is_obeyed_by_a_terminal_whatever_its_numbers(self, at: float) -> None:
        evil = worker(stage("\x1b[2J", last_success_at=at, last_error_at=at, last_error="\x9b\n"), started_at=at)
        for line in [*texts(evil), *warnings([evil], NOW)]:
            assert line.isprintable()
            assert len(line) <= 80


class TestJson:
    def test_a_program_gets_every_field_of_a_stage(self) -> None:
        told = to_json(worker(stage(last_success_at=NOW - 0.5, last_error="no", runs=3, pace_s=2.0)))
        assert told["stages"] == [
            {
                "name": "launch",
                "last_success_at": "2027-01-15T07:59:59.500+00:00",
                "last_error_at": None,
                "last_error": "no",
                "began_at": None,
                "runs": 3,
                "pace_s": 2.0,
            }
        ]

    def test_credentials_that_fail_are_told(self) -> None:
        told = to_json(worker(credentials=(CredentialsHealth(profile="lab", since=NOW - 0.5, error="expired"),)))
        assert told["credentials"] == [{"profile": "lab", "since": "2027-01-15T07:59:59.500+00:00", "error": "expired"}]

    def test_a_time_that_is_no_date_is_null(self) -> None:
        told = to_json(worker(stage(last_success_at=1e308), started_at=-1e300))
        assert (told["started_at"], told["stages"][0]["last_success_at"]) == (None, None)


def test_the_health_of_an_older_worker_has_no_stages() -> None:
    raw = msgspec.json.encode(worker())
    assert b"stages" not in raw
    assert msgspec.json.decode(raw, type=WorkerHealth).stages == ()
