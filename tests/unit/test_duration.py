"""Lengths of time as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.contract.duration import format_duration, parse_duration_s
from puter_client.contract.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("60m", 3_600),
        ("2h", 7_200),
        ("1h30m", 5_400),
        ("2d", 172_800),
        (" 1d1h1m1s ", 90_061),
        ("90m", 5_400),
    ],
)
def test_a_written_length_is_read(text: str, seconds: int) -> None:
    assert parse_duration_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", " ", "60", "m", "1.5h", "-1h", "1h 30m", "30m1h", "1w", "1H", "0s", "1h1h", "9" * 10 + "s"]
)
def test_anything_else_is_refused_with_its_value(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"^ttl '") as refused:
        parse_duration_s(text, what="ttl")

    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (-5, "0s"),
        (45, "45s"),
        (60, "1m"),
        (5_400, "1h30m"),
        (86_400, "1d"),
        (90_061, "1d1h"),
        (3_599.6, "1h"),
    ],
)
def test_a_length_is_written_in_at_most_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(1, 59), st.sampled_from(["s", "m"]))
def test_what_is_written_is_read_back(count: int, unit: str) -> None:
    text = f"{count}{unit}"

    assert format_duration(parse_duration_s(text)) == text
