"""Everything wrong is told at once, by cause, without secrets."""

from __future__ import annotations

import pytest

from puter_client.batch import read_batch
from puter_client.batch.model import Written
from puter_client.contract.errors import InvalidInput


def refused(text: str, source: str = "b.jsonl") -> tuple[str, ...]:
    with pytest.raises(InvalidInput) as caught:
        read_batch(source, text.encode())
    return caught.value.problems


def test_one_cause_in_a_hundred_lines_is_told_in_one() -> None:
    told = refused("".join(f'{{"tag": "t{n}", "instance_type": "t3_micro"}}\n' for n in range(100)))

    assert told == ("b.jsonl:1, 2, 3 (+97 more): instance_type: 't3_micro': write a type like t3.micro",)


def test_a_name_that_a_hundred_entries_have_twice_is_told_in_one_line() -> None:
    entries = "".join(f"- {{tag: t{n}, run: x, env: {{A: 1, A: 2}}}}\n" for n in range(100))

    told = refused("puters:\n" + entries, "b.yaml")

    assert told == ("b.yaml:2, 3, 4 (+97 more): env.A: duplicate name, the same line has it too: keep one",)


def test_after_twenty_causes_the_rest_is_counted() -> None:
    told = refused("".join(f'{{"tag": "t{n}", "region": "r{n}"}}\n' for n in range(50)))

    assert len(told) == 21
    assert told[-1] == "(+30 more problems)"


def test_causes_are_told_in_the_order_of_the_file() -> None:
    told = refused('{"tag": "a", "disk": "big"}\n{"tag": "!"}\n{"tag": "c", "disk": "big", "colour": 1}\n')

    assert [line.split(":")[1] for line in told] == ["1, 3", "2", "3"]


def test_all_fields_of_an_entry_are_told() -> None:
    told = refused('{"tag": "a b", "disk": 0, "ttl": 5, "os": "windows", "colour": 1}')

    assert {line.split(": ")[1] for line in told} == {"tag", "disk", "ttl", "os", "colour"}


def test_equal_tags_are_told_with_both_lines() -> None:
    told = refused('{"tag": "a"}\n{"tag": "b"}\n{"tag": "a"}\n')

    assert told == ("b.jsonl:3: tag: 'a': duplicate tag, line 1 has it too; every puter needs its own",)


def test_a_wrong_option_is_told_with_the_wrongs_of_the_file() -> None:
    with pytest.raises(InvalidInput) as caught:
        read_batch("b.jsonl", b'{"tag": "a b"}', overrides={"aws_tags": {"Name": "x"}})

    assert [problem.partition(":")[0] for problem in caught.value.problems] == ["--aws-tag", "b.jsonl"]


def test_a_misspelt_field_is_told_with_the_nearest() -> None:
    assert refused('{"tag": "a", "instancetype": "x"}') == (
        "b.jsonl:1: instancetype: unknown field; did you mean instance_type?",
    )


def test_a_name_that_is_like_none_is_told_with_all() -> None:
    assert "unknown field; known are alone, ami, aws_tags, " in refused('{"tag": "a", "xyzzy": "x"}')[0]


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "entry",
    [
        f"{{tag: a, run: x, env: {{TOKEN: ['{SECRET}']}}}}",
        f"{{tag: a, run: x, env: {{TOKEN={SECRET}: }}}}",
        f"{{tag: a, run: x, env: {{TOKEN={SECRET}}}}}",
        f"{{tag: a, run: x, env: [TOKEN={SECRET}]}}",
        f"{{tag: a, run: x, env: TOKEN={SECRET}}}",
        f"{{tag: a, run: x, env: {{BAD-NAME: {SECRET}}}}}",
        f"{{tag: a, env: {{TOKEN: {SECRET}}}}}",
        f"{{tag: a, run: x, env: {{TOKEN: {SECRET * 2_000}}}}}",
        f"{{tag: a, run: x, TOKEN={SECRET}: y}}",
        f"{{tag: 't{{n}}', matrix: {{n: [1]}}, run: x, env: {{TOKEN: '{{{SECRET}}}'}}}}",
        f"{{tag: a, run: [{SECRET}]}}",
        f"{{tag: a, run: '{SECRET * 2_000}'}}",
        f"{{tag: a, user_data: '{SECRET * 2_000}'}}",
        f"{{tag: a, run: x, env: {{TOKEN: '{SECRET}'",
        f"{{tag: a, run: x, env: {{TOKEN: {SECRET}, TOKEN: {SECRET}}}}}",
        f"{{tag: a, run: x, env: {{TOKEN={SECRET}: x, TOKEN={SECRET}: y}}}}",
        f"{{tag: a, run: x, env: {{TOKEN={SECRET}: {{A: 1, A: 2}}}}}}",
    ],
)
def test_secrets_are_not_told(entry: str) -> None:
    told = "\n".join(refused(f"puters:\n- {entry}\n", "b.yaml"))

    assert "b.yaml:" in told
    assert SECRET not in told


def test_a_written_value_is_not_in_its_repr() -> None:
    assert SECRET not in repr(Written({"TOKEN": SECRET}, 1))


def test_control_characters_do_not_reach_the_terminal() -> None:
    told = "\n".join(refused('{"tag": "\\u001b[31m", "\\u001b[2J": 1, "region": "\\u0007"}', "\x1b[1m.jsonl"))

    assert "\x1b" not in told
    assert "\x07" not in told
