"""Batches without a file."""

from __future__ import annotations

from typing import Any

import pytest

from puter_client.batch import generate
from puter_client.contract.errors import InvalidInput


def refused(tag: str, count: int, **fields: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        generate(tag, count, fields)
    return str(caught.value)


def test_the_number_counts_from_zero() -> None:
    batch = generate("sweep-{i}", 3, {})

    assert [entry.tag for entry in batch.entries] == ["sweep-0", "sweep-1", "sweep-2"]


def test_the_number_is_filled_into_run_and_env() -> None:
    batch = generate("s{i}", 2, {"run": "x {i}", "env": {"I": "{i}"}})

    assert [(entry.spec.run, entry.spec.env) for entry in batch.entries] == [("x 0", {"I": "0"}), ("x 1", {"I": "1"})]


def test_double_braces_are_braces() -> None:
    assert generate("a", 1, {"run": "echo {{i}} ${{HOME}}"}).entries[0].spec.run == "echo {i} ${HOME}"


def test_one_puter_needs_no_number() -> None:
    assert [entry.tag for entry in generate("a", 1, {}).entries] == ["a"]


def test_fields_are_checked_and_told_by_their_options() -> None:
    assert refused("s{i}", 9, instance_type="t3_micro") == "--instance-type: 't3_micro': write a type like t3.micro"


@pytest.mark.parametrize(
    ("tag", "count", "message"),
    [
        ("sweep", 2, "--tag: 'sweep': add {i}, or several puters have the same tag"),
        ("s-{n}", 1, "--tag: '{n}' is none of the placeholders {i}; double the braces to keep them: {{ }}"),
        ("s-{", 1, "--tag: '{' is none of the placeholders {i}; double the braces to keep them: {{ }}"),
        ("s-{i}", 0, "--count 0: write 1 to 100,000"),
        ("s-{i}", 100_001, "--count 100001: write 1 to 100,000"),
        ("-{i}", 1, "--tag: '-0': use 1 to 128 letters"),
    ],
)
def test_what_names_no_puters_is_refused(tag: str, count: int, message: str) -> None:
    assert refused(tag, count).startswith(message)


def test_braces_in_run_that_stand_for_nothing_are_refused() -> None:
    assert refused("s{i}", 2, run="awk {print}").startswith("--run: '{print}' is none of the placeholders {i}")


def test_ssh_sources_are_requested_once() -> None:
    asked: list[tuple[str, ...]] = []

    def resolve(words: tuple[str, ...]) -> tuple[str, ...]:
        asked.append(words)
        return ("192.0.2.1/32",)

    generate("s{i}", 50, {"ssh_from": "auto"}, resolve_ssh_from=resolve)

    assert asked == [("auto",)]
