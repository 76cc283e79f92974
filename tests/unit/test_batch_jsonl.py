"""JSONL batch files: an object a line."""

from __future__ import annotations

import pytest

from puter_client.batch import Batch, read_batch
from puter_client.contract.errors import InvalidInput


def read(text: str) -> Batch:
    return read_batch("b.jsonl", text.encode())


def refused(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(text)
    return str(caught.value)


def test_each_line_is_an_entry_with_its_line_number() -> None:
    batch = read('{"tag": "a"}\n\n  \n{"tag": "b"}\r\n')

    assert [(entry.tag, entry.where) for entry in batch.entries] == [("a", "b.jsonl:1"), ("b", "b.jsonl:4")]


def test_numbers_stay_as_they_are_written() -> None:
    batch = read('{"tag": 1.10, "run": "x", "env": {"A": 0.10, "B": 1e3, "C": 12345678901234567890}}')

    assert batch.entries[0].tag == "1.10"
    assert batch.entries[0].spec.env == {"A": "0.10", "B": "1e3", "C": "12345678901234567890"}


def test_null_is_not_written() -> None:
    assert read('{"tag": "a", "region": null}').entries[0].spec.region is None


def test_user_data_that_is_null_does_not_exclude_its_file() -> None:
    line = b'{"tag": "a", "user_data": null, "user_data_file": "f"}'

    assert read_batch("b.jsonl", line, read_file=lambda _: b"#!x").entries[0].spec.user_data == "#!x"


def test_flags_and_lists_are_read() -> None:
    spec = read('{"tag": "a", "spot": true, "disk": 20, "ssh_from": ["10.0.0.1", "10.1.0.0/16"]}').entries[0].spec

    assert (spec.spot, spec.disk, spec.ssh_from) == (True, 20, ("10.0.0.1/32", "10.1.0.0/16"))


def test_a_line_separator_within_a_text_ends_no_line() -> None:
    assert read('{"tag": "a", "run": "x\u2028y"}').entries[0].spec.run == "x\u2028y"


def test_escaped_characters_beyond_the_first_plane_are_read() -> None:
    assert read('{"tag": "a", "run": "\\ud83d\\ude00"}').entries[0].spec.run == "\U0001f600"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"tag": "a", "tag": "b"}', "tag: duplicate name: keep one"),
        ('{"tag": "a", "env": {"A": 1, "A": 1}}', "env.A: duplicate name: keep one"),
        ('{"tag": "a", "env": {"": 1, "": 1}}', "env.'': duplicate name: keep one"),
        ('{"tag": "a", "ssh_from": ["x", {"k": 1, "k": 1}]}', "ssh_from[1].k: duplicate name: keep one"),
        ('{"tag": NaN}', "NaN is not valid JSON: write a text or a number"),
        ('{"tag": -Infinity}', "-Infinity is not valid JSON: write a text or a number"),
        ('["a"]', 'is not an object: write one like {"tag": "a-1"} on each line'),
        ('{"tag": "a"} x', "is not valid JSON (column 14): Extra data"),
        ('{"tag": "a"', "is not valid JSON (column 12): Expecting ',' delimiter"),
        ('{"tag": "\\ud800"}', "contains a \\u escape of half a character: write the character itself"),
        ('{"tag": "a", "\\udfff": 1}', "contains a \\u escape of half a character: write the character itself"),
        ("[" * 100_000, "is nested too deeply: an entry is an object of texts"),
        ('{"tag": ' + "[" * 30 + "]" * 30 + "}", "is nested too deeply: an entry is an object of texts"),
        ('{"tag": true}', "tag: is not a text: put it in quotes"),
        ('{"run": "x"}', "tag: is missing: every puter needs its own"),
        ('{"tag": "a", "matrix": {"x": [1]}}', "matrix: belongs in an entry of a YAML file"),
        ('{"tag": "a", "namespace": "b"}', "namespace: belongs at the top of a YAML file; or use --namespace"),
        ('{"tag": "a", "env": "X=1"}', "env: is a text: write names with values (K: V)"),
        ('{"tag": "a", "run": true}', "run: is true/false: write a text"),
        ('{"tag": "a", "run": {"x": 1}}', "run: is a mapping: write a text"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_entry_is_refused_with_its_number(line: str, message: str) -> None:
    assert refused('{"tag": "first"}\n' + line) == f"b.jsonl:2: {message}"


def test_all_names_of_a_line_that_are_written_twice_are_told() -> None:
    told = refused('{"tag": "a", "tag": "b", "env": {"A": 1, "A": 2, "A": 3}}').splitlines()

    assert told == ["b.jsonl:1: tag: duplicate name: keep one", "b.jsonl:1: env.A: duplicate name: keep one"]


def test_a_digit_monster_is_refused_like_any_wrong_number() -> None:
    assert "disk: " in refused('{"tag": "a", "disk": ' + "9" * 10_000 + "}")


def test_more_than_the_most_puters_are_refused() -> None:
    said = refused("".join(f'{{"tag":"t{n}"}}\n' for n in range(100_001)))

    assert said == "b.jsonl:100001: has over 100,000 puters: split it into several batches"
