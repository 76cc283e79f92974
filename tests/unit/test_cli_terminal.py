"""Text from outside on its way to a terminal, and times as people read them."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.cli.terminal import Row, cells, columns, cut, out, out_json, padded, plain, printed, wrapped
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
        ("\udcff", "\ufffd"),
        ("zero\u200bwidth\ufeff\u2060", "zero\ufffdwidth\ufffd\ufffd"),
        ("\u3164\u115f\u2800\ufe0f\U000e0100", 5 * "\ufffd"),
        ("漢字 \U0001f600", "漢字 \U0001f600"),
        ("e\u0301", "é"),
        ("e" + 5 * "\u0301", "é\u0301\u0301\ufffd\ufffd"),
    ],
)
def test_what_a_terminal_would_obey_or_not_show_is_replaced(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text())
def test_a_safe_text_stays_as_it_is(text: str) -> None:
    assert plain(plain(text)) == plain(text)


TEXT = st.text(st.characters(codec="utf-8")) | st.text("ab é漢\u0301\x1b\n\x9b\u202e\u3164\U0001f600\x7f")


@given(TEXT)
def test_json_has_the_same_meaning_and_nothing_that_a_terminal_would_obey(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", written := StringIO())
        out_json({text: [text]})
    line = written.getvalue().removesuffix("\n")
    assert json.loads(line) == {text: [text]}
    assert line.isprintable()
    assert plain(line) == line


@given(TEXT)
def test_no_line_of_a_result_can_be_obeyed_whatever_a_command_prints(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", written := StringIO())
        out(text)
        out(Row(text, text, "red"))
    assert [line.isprintable() for line in written.getvalue().split("\n")] == [True, True, True]


@given(TEXT, st.integers(0, 100))
def test_a_cut_text_is_never_wider(text: str, width: int) -> None:
    assert cells(cut(plain(text), width)) <= width


@given(TEXT, st.integers(2, 100))
def test_a_wrapped_text_is_never_wider_and_loses_nothing(text: str, width: int) -> None:
    lines = wrapped(plain(text), width)
    assert max(map(cells, lines)) <= width
    assert "".join("".join(lines).split()) == "".join(plain(text).split())


def test_a_text_is_broken_at_its_spaces_and_never_at_hyphens() -> None:
    assert wrapped("run puter-worker --burst there", 18) == ["run puter-worker", "--burst there"]


def test_a_word_that_is_too_long_is_broken_where_it_must_be() -> None:
    assert wrapped("an arn:aws:ec2:eu-west-1 of 漢字漢字", 7) == [
        "an",
        "arn:aws",
        ":ec2:eu",
        "-west-1",
        "of",
        "漢字漢",
        "字",
    ]


def test_columns_are_as_wide_as_what_they_show() -> None:
    assert [cells(padded(text, 6)) for text in ("abc", "漢字", "é\u0301", "longer than that")] == [6, 6, 6, 16]


def test_a_style_is_for_terminals_alone() -> None:
    assert printed(Row("tag", " failed", "red"), StringIO()) == "tag failed"


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
