"""Refusals in the log: the first at once, a flood of them in a line a minute."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from puter_worker.stages.refused import EVERY_S, MOST_NAMESPACES, MOST_REASONS, OTHERS, Refused


class Clock:
    """A clock that is set by hand."""

    at = 0.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Any:
    return Clock()


def test_the_first_is_told_at_once_and_what_follows_after_a_minute(clock: Any) -> None:
    refused = Refused(clock)
    with capture_logs() as lines:
        for _ in range(10_000):
            refused.add("betty", {"too large": 1, "not a request": 2})
            refused.tell_due()
        assert [line["count"] for line in lines] == [3]
        clock.at = EVERY_S
        refused.tell_due()
        refused.tell_due()

    assert [(line["namespace"], line["count"]) for line in lines] == [("betty", 3), ("betty", 3 * 9_999)]
    assert lines[1]["why"] == {"not a request": 2 * 9_999, "too large": 9_999}


def test_after_a_quiet_minute_the_next_is_told_at_once_again(clock: Any) -> None:
    refused = Refused(clock)
    with capture_logs() as lines:
        refused.add("betty", {"too large": 1})
        clock.at = EVERY_S
        refused.tell_due()
        refused.add("betty", {"too large": 1})

    assert len(lines) == 2


def test_one_namespace_hides_no_other(clock: Any) -> None:
    refused = Refused(clock)
    with capture_logs() as lines:
        refused.add("betty", {"too large": 1})
        refused.add("anna", {"too large": 1})

    assert [line["namespace"] for line in lines] == ["betty", "anna"]


def test_neither_names_nor_reasons_without_end_take_memory_or_a_long_line(clock: Any) -> None:
    refused = Refused(clock)
    with capture_logs() as lines:
        for number in range(3 * MOST_NAMESPACES):
            refused.add(f"n{number}", {"why": 1})
            refused.add("n0", {f"reason {number}": 1})
        clock.at = EVERY_S
        refused.tell_due()

    assert len(lines) == MOST_NAMESPACES + 1 + 2  # each namespace once; the others as one; then what was summed of both
    assert sum(line["count"] for line in lines) == 6 * MOST_NAMESPACES
    assert max(len(line["why"]) for line in lines) <= MOST_REASONS
    assert lines[-1]["namespace"] in {"n0", OTHERS}


def test_nothing_is_told_of_nothing(clock: Any) -> None:
    refused = Refused(clock)
    with capture_logs() as lines:
        refused.add("betty", {})
        clock.at = 10 * EVERY_S
        refused.tell_due()

    assert lines == []


def test_a_line_has_a_whole_sentence_for_each_reason_that_has_some(clock: Any) -> None:
    refused = Refused(clock)
    with capture_logs() as lines:
        refused.add("betty", {"too large": 1})
        refused.add("anna", {"policy: spot": 1, "too large": 1}, {"policy: spot": "first"})
        refused.add("anna", {"policy: spot": 1}, {"policy: spot": "second"})
        long = {"policy: spot": "third", "policy: disk": "too long, " * 100}
        refused.add("anna", {"policy: spot": 2, "policy: disk": 1}, long)
        clock.at = EVERY_S
        refused.tell_due()

    assert [line.get("examples") for line in lines[:2]] == [None, {"policy: spot": "first"}]
    assert lines[2]["examples"].keys() == lines[2]["why"].keys() == {"policy: spot", "policy: disk"}
    assert lines[2]["examples"]["policy: spot"] == "second"
    assert 100 < len(lines[2]["examples"]["policy: disk"]) <= 400
    assert len(lines) == 3


def test_the_sentences_of_a_line_are_no_more_than_its_reasons(clock: Any) -> None:
    refused = Refused(clock)
    many = {f"reason {number}": "why" for number in range(3 * MOST_NAMESPACES)}
    with capture_logs() as lines:
        for _ in range(2):
            refused.add("betty", dict.fromkeys(many, 1), many)
        clock.at = EVERY_S
        refused.tell_due()

    assert [len(line["examples"]) <= MOST_REASONS for line in lines] == [True, True]
