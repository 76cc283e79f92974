"""What a worker shows Prometheus is of bounded size, whatever clients and EC2 do."""

from __future__ import annotations

from collections import Counter

import pytest

from puter_client.contract.health import StageHealth
from puter_worker.endpoint import Waits
from puter_worker.prometheus import (
    MOST_CODES,
    MOST_NAMESPACES,
    MOST_RULES,
    MOST_STAGES,
    OTHERS,
    PrometheusMetrics,
    rule_of,
)
from puter_worker.store.overview import MOST_TARGETS, Waiting

FLOOD = 5_000


def shown(metrics: PrometheusMetrics, *stages: StageHealth) -> str:
    text, _ = metrics.text("", overview=None, inbox_ages_s={}, stages=stages, failing_s={}, started_at=7.0)
    return text.decode()


def series(text: str, name: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(name)]


def test_refusals_of_many_namespaces_are_summed_under_one_name() -> None:
    metrics = PrometheusMetrics(version="1")
    for number in range(FLOOD):
        metrics.refused(f"n-{number}", "tag: not a tag", 2)
    text = shown(metrics)

    lines = series(text, "puter_refused_requests_total{")
    assert len(lines) == MOST_NAMESPACES + 1
    assert f'puter_refused_requests_total{{namespace="{OTHERS}",rule="tag"}} {2.0 * (FLOOD - MOST_NAMESPACES)}' in lines


def test_refusals_for_many_reasons_are_summed_under_one_rule() -> None:
    metrics = PrometheusMetrics(version="1")
    letters = "abcdefghijklmnopqrst"
    for number in range(FLOOD):
        metrics.refused("mallory", "".join(letters[int(digit)] for digit in str(number)) + ": no", 1)

    assert len(series(shown(metrics), "puter_refused_requests_total{")) == MOST_RULES + 1


def test_codes_are_bounded() -> None:
    metrics = PrometheusMetrics(version="1")
    for number in range(FLOOD):
        metrics.called("RunInstances", f"Code{number}", 0.1)

    assert len(series(shown(metrics), "puter_ec2_calls_total{")) == MOST_CODES + 1


def test_targets_are_bounded() -> None:
    metrics = PrometheusMetrics(version="1")
    for number in range(FLOOD):
        metrics.overdue(f"{number}:r:", 1)
    stages = [StageHealth(name=f"observe {number}:r:") for number in range(FLOOD)]
    text = shown(metrics, *stages)

    assert len(series(text, "puter_overdue_machines{")) == MOST_TARGETS
    assert len(series(text, "puter_stage_last_success_timestamp_seconds{")) == MOST_STAGES


@pytest.mark.parametrize(
    ("why", "rule"),
    [
        ("max_parallel 1000000: must be 1 to 100000", "max_parallel"),
        ("tag '../../etc': use letters", "tag"),
        ("batch: not a name that a client of Puter makes", "batch"),
        ("not a request that this worker's version can read", "not a request that this worker's version can read"),
        ("policy: instance_types", "policy: instance_types"),
        ("policy: c7i.48xlarge is not allowed", "other"),
        ("a name without requests", "a name without requests"),
        ("'secret value of somebody': no", "other"),
        ("x" * 1_000, "other"),
        ("böse", "other"),
        ("", ""),
        ("policy: somebody's secret", "other"),
    ],
)
def test_a_rule_is_what_a_refusal_is_about_without_the_value(why: str, rule: str) -> None:
    assert rule_of(why) == rule


def test_a_stage_that_never_succeeded_is_as_old_as_its_worker() -> None:
    text = shown(
        PrometheusMetrics(version="1"),
        StageHealth(name="observe 1:r:p"),
        StageHealth(name="intake", last_success_at=9.0),
    )

    assert Counter(series(text, "puter_stage_last_success_timestamp_seconds{")) == Counter([
        'puter_stage_last_success_timestamp_seconds{stage="observe",target="1:r:p"} 7.0',
        'puter_stage_last_success_timestamp_seconds{stage="intake",target=""} 9.0',
    ])  # fmt: skip


def test_machines_of_a_target_that_another_worker_leads_are_not_shown() -> None:
    metrics = PrometheusMetrics(version="1")
    metrics.overdue("1:r:", 3)
    before = series(shown(metrics), "puter_overdue_machines{")
    metrics.left("1:r:")

    assert before == ['puter_overdue_machines{target="1:r:"} 3.0']
    assert series(shown(metrics), "puter_overdue_machines{") == []


def test_the_age_of_an_inbox_begins_anew_when_something_was_taken() -> None:
    waits = Waits()
    looks = [
        ({"a": Waiting(5, taken=1)}, 0.0, {"a": 0.0}),
        ({"a": Waiting(9, taken=1), "b": Waiting(1, taken=0)}, 10.0, {"a": 10.0, "b": 0.0}),
        ({"a": Waiting(9, taken=2), "b": Waiting(1, taken=0)}, 20.0, {"a": 0.0, "b": 10.0}),
        ({"b": Waiting(1, taken=0)}, 30.0, {"b": 20.0}),
        ({"a": Waiting(9, taken=2)}, 40.0, {"a": 0.0}),
    ]

    assert [waits.ages(waiting, now) for waiting, now, _ in looks] == [ages for _, _, ages in looks]
