"""YAML batch files: texts stay texts, matrices multiply, and nothing in a file can hurt."""

from __future__ import annotations

import pytest

from puter_client.batch import Batch, read_batch
from puter_client.contract.errors import InvalidInput


def read(text: str) -> Batch:
    return read_batch("b.yaml", text.encode())


def refused(text: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(text)
    return str(caught.value)


def tags(batch: Batch) -> list[str]:
    return [entry.tag for entry in batch.entries]


def test_a_list_of_tags_is_a_batch() -> None:
    batch = read("puters:\n- a\n- b\n")

    assert tags(batch) == ["a", "b"]


def test_a_file_without_a_namespace_leaves_it_open() -> None:
    assert read("puters: [a]").namespace is None


def test_the_namespace_is_read() -> None:
    assert read("namespace: team-a\nputers: [a]").namespace == "team-a"


def test_an_entry_knows_where_it_was_written() -> None:
    batch = read("# a comment\nputers:\n- a\n\n- run: x\n  tag: b\n")

    assert [entry.where for entry in batch.entries] == ["b.yaml:3", "b.yaml:5"]


def test_a_byte_order_mark_is_passed_over() -> None:
    assert tags(read_batch("b.yaml", b"\xef\xbb\xbfputers: [a]")) == ["a"]


@pytest.mark.parametrize(
    "written", ["0.10", "017", "no", "12:30", "1e3", "~", "null", "2026-01-31", "0x1F", "1_000", ".inf", "True"]
)
def test_a_variable_is_the_text_that_is_written(written: str) -> None:
    batch = read(f"puters: [{{tag: a, run: x, env: {{V: {written}}}}}]")

    assert batch.entries[0].spec.env == {"V": written}


@pytest.mark.parametrize("written", ["0.10", "017", "no", "12:30", "1e3", "2026-01-31"])
def test_a_tag_is_the_text_that_is_written(written: str) -> None:
    assert tags(read(f"puters:\n- tag: {written}\n")) == [written]


def test_a_variable_may_be_empty() -> None:
    assert read("puters: [{tag: a, run: x, env: {V: }}]").entries[0].spec.env == {"V": ""}


@pytest.mark.parametrize("nothing", ["", "~", "null", '""', "[]"])
def test_a_field_with_nothing_in_it_is_refused(nothing: str) -> None:
    said = refused(f"puters:\n- tag: a\n  region: {nothing}\n")

    assert said == "b.yaml:3: puters[0].region: is empty: leave it out, or write a value"


def test_flags_and_numbers_are_read_from_their_text() -> None:
    spec = read("puters: [{tag: a, spot: true, disk: 20, ttl: 1h30m}]").entries[0].spec

    assert (spec.spot, spec.disk, spec.ttl_s) == (True, 20, 5_400)


def test_a_block_text_keeps_its_lines() -> None:
    spec = read("puters:\n- tag: a\n  run: |\n    one\n    two\n").entries[0].spec

    assert spec.run == "one\ntwo\n"


def test_a_matrix_makes_a_puter_for_each_combination_and_the_last_name_changes_fastest() -> None:
    batch = read("puters: [{tag: 't-{lr}-{s}', matrix: {lr: [0.1, 0.10], s: [1, 2]}}]")

    assert tags(batch) == ["t-0.1-1", "t-0.1-2", "t-0.10-1", "t-0.10-2"]


def test_a_matrix_fills_run_and_env_wherever_they_are_written() -> None:
    batch = read("defaults: {run: 'train {s}'}\nputers: [{tag: 't{s}', matrix: {s: [1, 2]}, env: {SEED: '{s}', K: v}}]")

    assert [(e.spec.run, e.spec.env) for e in batch.entries] == [
        ("train 1", {"SEED": "1", "K": "v"}),
        ("train 2", {"SEED": "2", "K": "v"}),
    ]


def test_double_braces_in_a_matrix_entry_are_braces() -> None:
    batch = read("puters: [{tag: 't{s}', matrix: {s: [1]}, run: 'awk {{print ${s}}}'}]")

    assert batch.entries[0].spec.run == "awk {print $1}"


def test_braces_without_a_matrix_are_just_braces() -> None:
    assert read("puters: [{tag: a, run: 'awk {print $1}'}]").entries[0].spec.run == "awk {print $1}"


def test_a_tag_that_does_not_use_its_matrix_is_refused_with_what_to_write() -> None:
    said = refused("puters: [{tag: 't{a}', matrix: {a: [1, 2], b: [1, 2], c: [1]}}]")

    assert said == "b.yaml:1: puters[0].tag: 't{a}': add {b}, or several puters have the same tag"


def test_a_matrix_with_a_value_twice_is_refused() -> None:
    said = refused("puters: [{tag: 't{a}', matrix: {a: [1, 1]}}]")

    assert "'t1': duplicate tag, its matrix makes it more than once" in said


def test_an_unknown_placeholder_is_refused_with_the_known_ones() -> None:
    said = refused("puters: [{tag: 't{a}', matrix: {a: [1]}, run: 'echo {seed} {b}'}]")

    assert (
        said
        == "b.yaml:1: puters[0].run: '{seed}' is none of the placeholders {a}; double the braces to keep them: {{ }}"
    )


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ("3", "matrix: write names with lists of values"),
        ("{}", "matrix: write names with lists of values"),
        ("{a: 1}", "matrix.a: write a list of values"),
        ("{a: []}", "matrix.a: write a list of values"),
        ("{a: [[1]]}", "matrix.a: contains a list or mapping"),
        ("{a-b: [1]}", "matrix: 'a-b': name it with letters"),
    ],
)
def test_a_matrix_of_another_shape_is_refused(matrix: str, message: str) -> None:
    assert f"b.yaml:1: puters[0].{message}" in refused(f"puters: [{{tag: 't{{a}}', matrix: {matrix}}}]")


def test_a_matrix_beyond_the_most_puters_is_refused_before_it_is_made() -> None:
    values = "[" + ", ".join(map(str, range(400))) + "]"

    said = refused(f"puters: [{{tag: '{{a}}{{b}}{{c}}', matrix: {{a: {values}, b: {values}, c: {values}}}}}]")

    assert said == "b.yaml:1: puters[0]: has over 100,000 puters: split it into several batches"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("puters:\n- tag: a\n  disk: 1\n  disk: 2\n", "4: puters[0].disk: duplicate name, line 3"),
        ("puters:\n- a\n- tag: b\n  run: x\n  env: {A: 1, A: 2}\n",
         "5: puters[1].env.A: duplicate name, the same line"),
        ("puters:\n- {tag: 't{a}', matrix: {a: [1], a: [2]}}", "2: puters[0].matrix.a: duplicate name, the same line"),
        ("puters:\n- {tag: a, run: x, env: &e {A: 1, A: 2}}\n- {tag: b, run: x, env: *e}",
         "2: puters[0].env.A: duplicate name, the same line"),
        ("defaults:\n  ttl: 1h\n  ttl: 2h\nputers: [a]", "3: defaults.ttl: duplicate name, line 2"),
        ("defaults:\n  run: x\n  env:\n    A: 1\n    A: 2\nputers: [a]", "5: defaults.env.A: duplicate name, line 4"),
        ("puters: [a]\nputers: [b]", "2: puters: duplicate name, line 1"),
    ],
)  # fmt: skip
def test_equal_names_in_a_mapping_are_refused_with_their_field_and_both_lines(text: str, message: str) -> None:
    assert refused(text) == f"b.yaml:{message} has it too: keep one"


def test_equal_names_that_are_empty_are_told_as_such() -> None:
    told = refused("puters:\n- {tag: a, run: x, env: {'': 1, '': 2}}").splitlines()

    assert told[0] == "b.yaml:2: puters[0].env.'': duplicate name, the same line has it too: keep one"


def test_equal_names_below_what_is_no_field_are_told_with_their_place() -> None:
    told = refused("puters:\n- tag: a\n  ssh_from: [x, {k: 1, k: 2}]\n").splitlines()

    assert told[0] == "b.yaml:3: puters[0].ssh_from[1].k: duplicate name, the same line has it too: keep one"


def test_an_alias_stands_for_what_it_names() -> None:
    batch = read("puters:\n- {tag: a, run: x, env: &e {K: v}}\n- {tag: b, run: x, env: *e}\n")

    assert batch.entries[1].spec.env == {"K": "v"}


def test_aliases_of_aliases_are_refused_before_they_grow() -> None:
    levels = "\n".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 100)}]" for n in range(1, 9))

    said = refused(f"x0: &x0 lol\n{levels}\n")

    assert "aliases (*) repeat more than 16 MB of text: write shared fields under defaults" in said


def test_an_alias_of_what_holds_it_is_refused() -> None:
    assert refused("puters: &p [*p]") == "b.yaml:1: *p has no anchor before it: write &p there"


def test_merge_keys_are_refused_with_what_to_write_instead() -> None:
    said = refused("defaults: &d {ttl: 1h}\nputers:\n- tag: a\n  <<: *d\n")

    assert said == "b.yaml:4: merge keys (<<) are not supported: write shared fields under defaults"


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!int", "!!binary", "!mine"])
def test_yaml_tags_are_refused(tag: str) -> None:
    said = refused(f"puters:\n- {tag} ['1']\n")

    assert said == f"b.yaml:2: YAML tag '{tag}': remove it; values are taken as they are written"


def test_a_second_document_is_refused() -> None:
    assert refused("puters: [a]\n---\nputers: [b]\n").startswith("b.yaml:2: has a second document")


@pytest.mark.parametrize("text", ["[" * 5_000, "{a: " * 5_000, "- " * 5_000, "? " * 5_000])
def test_a_deep_file_is_refused(text: str) -> None:
    assert "b.yaml:1: " in refused(text)


def test_a_syntax_error_tells_its_place_and_what_to_do() -> None:
    said = refused("puters:\n- tag: a\n\trun: x\n")

    assert said.startswith("b.yaml:3: is not valid YAML (line 3, column 1): ")
    assert "indent with spaces" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "b.yaml: is empty: write at least one puter"),
        (" \n\n", "b.yaml: is empty: write at least one puter"),
        ("# nothing\n", "b.yaml: is empty: write puters: with a list of tags or entries below it"),
        ("---\n", "b.yaml: is empty: write puters: with a list of tags or entries below it"),
        ("- a\n", "b.yaml:1: is a list at the top: write puters: with a list of tags or entries below it"),
        ("hello", "b.yaml:1: is a text at the top: write puters: with a list of tags or entries below it"),
        ("namespace: x", "b.yaml: has no puters: write puters: with a list of tags or entries below it"),
        ("puters:", "b.yaml:1: puters: is empty: write a list of tags or entries"),
        ("puters: []", "b.yaml:1: puters: is an empty list: write a list of tags or entries"),
        ("puters: {a: b}", "b.yaml:1: puters: is a mapping: write a list of tags or entries"),
        ("puters: [[a]]", "b.yaml:1: puters[0]: is a list: write a tag, or fields with values"),
        ("puters: [a, ~]", "b.yaml:1: puters[1]: is empty: write a tag, or fields with values"),
        ("puters: [{run: x}]", "b.yaml:1: puters[0].tag: is missing: every puter needs its own"),
        ("puters: [{tag: [a]}]", "b.yaml:1: puters[0].tag: is not a text: put it in quotes"),
        ("defaults: x\nputers: [a]", "b.yaml:1: defaults: is a text: write fields with values below it"),
        ("namespace: [x]\nputers: [a]", "b.yaml:1: namespace: is not a text: write one name"),
        ("puter: [a]\nputers: [b]", "b.yaml:1: puter: unknown field; did you mean puters?"),
        ("ttl: 1h\nputers: [b]", "b.yaml:1: ttl: belongs under defaults or in an entry of puters"),
        (
            "puters: [a]\n[x]: y",
            "b.yaml:2: a name must be a text, not a list or mapping: quote it if it begins with [ or {",
        ),
        ("puters: [a\x07]", "b.yaml:1: contains a control character (U+0007): remove it"),
    ],
)  # fmt: skip
def test_a_file_of_another_shape_is_refused(text: str, message: str) -> None:
    assert refused(text) == message


def test_a_namespace_outside_its_alphabet_is_refused() -> None:
    assert refused("namespace: Team A\nputers: [a]").startswith("b.yaml:1: namespace: 'Team A': use 1 to 39")


def test_puter_reads_yaml_without_the_c_library_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("yaml.CSafeLoader", raising=False)

    assert tags(read("puters:\n- tag: 't{a}'\n  matrix: {a: [0.10, no]}\n- ~x\n".replace("~x", "b"))) == [
        "t0.10",
        "tno",
        "b",
    ]
