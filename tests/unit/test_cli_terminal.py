"""Text from outside on its way to a terminal, and times as people read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.cli.terminal import columns, cut, plain
from puter_client.cli.when import ago, rough_duration


@given(st.text())
def test_any_text_becomes_one_harmless_line(text: str) -> None:
    assert plain(text).isprintable()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("as it is, ü", "as it is, ü"),
        ("two\nlines\tand  more", "two lines and more"),
        ("\x1b[31mred\x1b[0m", "\ufffd[31mred\ufffd[0m"),
        ("left\u202eright", "left\ufffdright"),
        ("\x9b2J", "\ufffd2J"),
    ],
)
def test_what_a_terminal_would_obey_is_replaced(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text(), st.integers(0, 100))
def test_a_cut_text_is_never_longer(text: str, width: int) -> None:
    assert len(cut(text, width)) <= width


def test_columns_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "37")
    assert columns() == 37


def test_what_is_no_terminal_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert columns() is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0.4, "0s"),
        (59, "59s"),
        (61, "1m"),
        (599, "9m"),
        (3_599, "1h"),
        (5_400, "1h30m"),
        (36_000, "10h"),
        (90_000, "1d"),
    ],
)
def test_a_length_of_time_is_told_in_a_word(seconds: float, text: str) -> None:
    assert rough_duration(seconds) == text


def test_what_is_just_over_is_just_now() -> None:
    assert (ago(10.0, 10.5), ago(10.0, 7_210.0)) == ("just now", "2h ago")
