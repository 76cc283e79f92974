"""How long the first of several items waits for others that share its call."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_worker.stages.batch_window import BatchWindow

WINDOW = BatchWindow(idle_s=0.1, longest_s=1.0, most=4)
TIMES = st.lists(st.floats(0, 10), max_size=6)


@pytest.mark.parametrize(
    ("times", "now", "wait_s"),
    [
        ([], 5.0, 0.0),
        ([5.0], 5.0, 0.1),
        ([5.0], 5.04, 0.06),
        ([5.0], 5.1, 0.0),
        ([5.0, 5.05], 5.05, 0.1),
        ([5.0, 5.95], 5.95, 0.05),
        ([5.0, 5.5, 6.0], 6.0, 0.0),
        ([5.0], 9.0, 0.0),
    ],
    ids=[
        "nobody is there",
        "somebody may come yet",
        "somebody may come yet, but for less long",
        "nobody came for a while",
        "each that comes prolongs the wait",
        "but no longer than the first can wait",
        "the first has waited for long",
        "nobody was there to see them go",
    ],
)
def test_they_go_when_nobody_came_for_a_while_or_the_first_has_waited_for_long(
    times: list[float], now: float, wait_s: float
) -> None:
    assert WINDOW.wait_s(times, now) == pytest.approx(wait_s)


@pytest.mark.parametrize("count", [4, 5])
def test_as_many_as_share_a_call_go_at_once(count: int) -> None:
    assert WINDOW.wait_s([5.0] * count, 5.0) == 0.0


def test_it_does_not_matter_in_which_order_they_are_named() -> None:
    assert WINDOW.wait_s([5.2, 5.0, 5.1], 5.2) == WINDOW.wait_s([5.0, 5.1, 5.2], 5.2)


def test_times_may_be_given_by_whatever_yields_them() -> None:
    assert WINDOW.wait_s(iter([5.0]), 5.0) == pytest.approx(0.1)


@given(TIMES, st.floats(0, 20))
def test_nobody_waits_for_longer_than_the_first_may(times: list[float], now: float) -> None:
    wait_s = WINDOW.wait_s(times, now)

    assert wait_s >= 0.0
    if times:
        assert now + wait_s <= max(now, min(times) + WINDOW.longest_s) + 1e-9


@given(TIMES, st.floats(0, 20))
def test_after_the_wait_they_go_if_nobody_else_came(times: list[float], now: float) -> None:
    wait_s = WINDOW.wait_s(times, now)

    assert WINDOW.wait_s(times, now + wait_s) == pytest.approx(0.0, abs=1e-9)


def test_who_is_known_to_be_incomplete_is_not_let_go_by_a_pause() -> None:
    waiting = WINDOW.without_idle()

    assert waiting.wait_s([5.0], 5.2) == pytest.approx(0.8)
    assert waiting.wait_s([5.0], 6.0) == 0.0
    assert waiting.wait_s([5.0] * 4, 5.0) == 0.0
