"""A worker's warnings are of bounded number, whatever clients and EC2 do: the first are written, the others counted."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from structlog.testing import capture_logs

from puter_worker.log_limit import EVERY_S, LEFT_OUT, MOST_KINDS, MOST_LINES, OTHERS, LogLimit

FLOOD = 10_000


class Time:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def line(event: str, *, level: int = logging.WARNING, **fields: Any) -> logging.LogRecord:
    """A line as structlog hands it to a handler."""
    return logging.LogRecord("puter.stage", level, __file__, 1, {"event": event, **fields}, (), None)


def of_library(text: str, *arguments: object) -> logging.LogRecord:
    return logging.LogRecord("asyncio", logging.ERROR, __file__, 1, text, arguments, None)


def told(limit: LogLimit, *, at_the_end: bool = False) -> list[dict[str, Any]]:
    with capture_logs() as lines:
        limit.tell_due(at_the_end=at_the_end)
    return [dict(one) for one in lines]


# What clients and EC2 can cause without end, each with what differs from line to line.
FLOODS = {
    "ec2.refused": lambda n: line("ec2.refused", action="RunInstances", code="Unsupported", request_id=f"r-{n}"),
    "stage.refused": lambda n: line(
        "stage.refused", stage="observe", target="1:a:", code="AuthFailure", message=str(n)
    ),
    "stage.failed": lambda n: line("stage.failed", stage="launch", target="1:a:", exc_info=ValueError(n)),
    "redis.unavailable": lambda n: line("redis.unavailable", stage="intake", error="ConnectionError", at=n),
    "puter.failed": lambda n: line("puter.failed", namespace="mallory", tag=f"t-{n}", code="InvalidAMIID.NotFound"),
    "inbox.refused": lambda n: line("inbox.refused", level=logging.ERROR, namespace="mallory", error="ResponseError"),
    "ready_set.removed": lambda n: line("ready_set.removed", level=logging.ERROR, why=f"it was not a set {n}"),
    "of a library": lambda n: of_library("Task exception was never retrieved %s", n),
}


@pytest.mark.parametrize("of", FLOODS)
def test_a_flood_of_one_kind_writes_few_lines_a_minute_and_a_sum(of: str) -> None:
    time = Time()
    limit = LogLimit(time)

    written = [limit.filter(FLOODS[of](number)) for number in range(FLOOD)]
    early = told(limit)
    time.now = EVERY_S
    (sum_of_it,) = told(limit)

    assert written == [True] * MOST_LINES + [False] * (FLOOD - MOST_LINES)
    assert early == []
    assert (sum_of_it["event"], sum_of_it["count"]) == (LEFT_OUT, FLOOD - MOST_LINES)
    assert limit.filter(FLOODS[of](0))


def test_a_flood_of_many_kinds_is_bounded_too() -> None:
    limit = LogLimit(Time())

    written = sum(limit.filter(line("inbox.refused", namespace=f"n-{n}")) for n in range(FLOOD))
    sums = told(limit, at_the_end=True)

    assert written == MOST_KINDS + MOST_LINES
    assert [(one["of"], one["count"]) for one in sums] == [(OTHERS, FLOOD - written)]


@pytest.mark.parametrize(
    "other",
    [
        line("stage.refused", stage="observe", target="1:a:", code="AuthFailure"),
        line("stage.refused", stage="launch", target="2:b:", code="AuthFailure"),
        line("stage.refused", stage="launch", target="1:a:", code="RequestExpired"),
        line("stage.failed", stage="launch", target="1:a:", code="AuthFailure"),
        of_library("something else"),
    ],
)
def test_another_trouble_is_told_beside_a_flood(other: logging.LogRecord) -> None:
    limit = LogLimit(Time())
    for _ in range(FLOOD):
        limit.filter(line("stage.refused", stage="launch", target="1:a:", code="AuthFailure"))

    assert limit.filter(other)


def test_what_is_no_warning_is_always_told() -> None:
    limit = LogLimit(Time())

    assert all(limit.filter(line("instance.running", level=logging.INFO, tag="t")) for _ in range(FLOOD))
    assert told(limit, at_the_end=True) == []


def test_sums_are_not_counted_themselves() -> None:
    limit = LogLimit(Time())

    assert all(limit.filter(line(LEFT_OUT, of="ec2.refused", count=n)) for n in range(FLOOD))


def test_the_sum_names_what_was_left_out() -> None:
    limit = LogLimit(Time())
    for number in range(MOST_LINES + 5):
        limit.filter(line("ec2.refused", action="CreateTags", code="Unsupported", request_id=str(number)))

    (sum_of_it,) = told(limit, at_the_end=True)

    assert sum_of_it == {
        "event": LEFT_OUT, "log_level": "warning", "count": 5,
        "of": "ec2.refused", "action": "CreateTags", "code": "Unsupported",
    }  # fmt: skip


def test_what_is_told_at_the_end_is_told_once() -> None:
    limit = LogLimit(Time())
    for _ in range(FLOOD):
        limit.filter(line("ec2.refused"))

    assert (len(told(limit, at_the_end=True)), told(limit, at_the_end=True)) == (1, [])
