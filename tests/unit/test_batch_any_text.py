"""Whatever a file holds, it is a batch or it is refused in so many words."""

from __future__ import annotations

import json
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from puter_client.batch import Batch, generate, read_batch
from puter_client.batch.levels import KNOWN
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import check_namespace, check_tag

# How long an example takes says more of the machine than of the reader.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SOURCES = st.sampled_from(["b.yaml", "b.jsonl", "b.csv", "-"])
PIECES = st.sampled_from(
    ["puters:", "\n", "\n- ", "  ", "tag: ", "tag", ",", "a", "{", "}", "[", "]", '"', "'", ":", "&x ", "*x", "!!int ",
     "matrix: ", "{i}", "env: ", "env.A", "run", "null", "<<: ", "|\n", "---", "\\u", "\\ud800", "#", "%", "\t", "? "]
)  # fmt: skip
NAMES = st.sampled_from([*KNOWN, "matrix", "public_key", "namespace", "defaults", "puters"]) | st.text(max_size=5)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["a", "{i}", "2h", "true", "auto", "none", "10.0.0.1", "t3.micro", "al2"])
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4))
ENTRIES = st.fixed_dictionaries(
    {"tag": LEAVES}, optional={name: VALUES for name in [*KNOWN, "matrix"] if name != "tag"}
)


def outcome(source: str, text: bytes, overrides: dict[str, Any] | None = None) -> Batch | InvalidInput:
    def no_file(path: str) -> bytes:
        raise InvalidInput("is not there")

    try:
        return read_batch(source, text, overrides=overrides or {}, read_file=no_file)
    except InvalidInput as error:
        return error


def check(found: Batch | InvalidInput) -> None:
    if isinstance(found, InvalidInput):
        assert found.problems
        assert all(problem.isprintable() for problem in found.problems)
        return
    assert found.entries
    assert found.namespace is None or check_namespace(found.namespace)
    assert len({check_tag(entry.tag) for entry in found.entries}) == len(found.entries)


@unhurried
@given(SOURCES, st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_refused(source: str, text: bytes) -> None:
    check(outcome(source, text))


@unhurried
@given(SOURCES, st.lists(PIECES | st.text(max_size=3), max_size=30))
def test_any_text_of_likely_pieces_is_a_batch_or_refused(source: str, pieces: list[str]) -> None:
    check(outcome(source, "".join(pieces).encode(errors="surrogatepass")))


@unhurried
@given(st.lists(ENTRIES, max_size=3), VALUES)
def test_any_yaml_structure_is_a_batch_or_refused(entries: list[Any], defaults: Any) -> None:
    check(outcome("b.yaml", yaml.safe_dump({"puters": entries, "defaults": defaults}).encode(errors="surrogatepass")))


@unhurried
@given(st.lists(ENTRIES | VALUES, max_size=3))
def test_any_json_structure_is_a_batch_or_refused(entries: list[Any]) -> None:
    check(outcome("b.jsonl", "\n".join(json.dumps(entry) for entry in entries).encode()))


@unhurried
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_any_options_make_a_batch_or_are_refused(overrides: dict[str, Any]) -> None:
    check(outcome("b.yaml", b"puters: [a, b]", overrides))


@unhurried
@given(st.text(max_size=20), st.integers(-1, 3), st.dictionaries(NAMES, LEAVES, max_size=3))
def test_any_template_makes_a_batch_or_is_refused(tag: str, count: int, fields: dict[str, Any]) -> None:
    try:
        found: Batch | InvalidInput = generate(tag, count, fields)
    except InvalidInput as error:
        found = error
    check(found)


@unhurried
@given(
    st.dictionaries(
        st.from_regex(r"MY_[A-Z_]{1,8}", fullmatch=True), st.text(st.characters(codec="utf-8"), max_size=30)
    )
)
def test_variables_come_out_of_json_as_they_went_in(env: dict[str, str]) -> None:
    clean = {name: value.replace("\0", "") for name, value in env.items()}

    found = read_batch("b.jsonl", json.dumps({"tag": "a", "run": "x", "env": {**clean, "A": "b"}}).encode())

    assert found.entries[0].spec.env == {**clean, "A": "b"}
