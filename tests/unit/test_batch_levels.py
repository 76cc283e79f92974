"""Entry beats option beats default; ssh sources and user data files are looked up once."""

from __future__ import annotations

import json
from typing import Any

import pytest

from puter_client.batch import Batch, generate, read_batch, single
from puter_client.batch.levels import USER_DATA_FILE
from puter_client.contract.errors import InvalidInput
from puter_client.contract.os_image import Os
from puter_client.contract.spec import Spec


def read(text: str, **options: Any) -> Batch:
    return read_batch("b.yaml", text.encode(), **options)


def spec(text: str, **options: Any) -> Spec:
    return read(text, **options).entries[0].spec


def refused(text: str, **options: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        read(text, **options)
    return str(caught.value)


FILES = {"boot.sh": b"#!/bin/sh\necho hi\n", "bom.sh": b"\xef\xbb\xbf#!/bin/sh\n", "latin.sh": b"\xe9", "empty.sh": b""}


def stored(path: str) -> bytes:
    if path not in FILES:
        raise InvalidInput(f"'{path}': is not there")
    return FILES[path]


def test_an_entry_beats_an_option() -> None:
    found = spec("puters: [{tag: a, region: us-east-2}]", overrides={"region": "us-west-2"})

    assert found.region == "us-east-2"


def test_an_option_beats_a_default() -> None:
    found = spec("defaults: {region: us-east-2}\nputers: [a]", overrides={"region": "us-west-2"})

    assert found.region == "us-west-2"


def test_a_default_beats_what_is_built_in() -> None:
    assert spec("defaults: {instance_type: m7i.large}\nputers: [a]").instance_type == "m7i.large"


@pytest.mark.parametrize("nothing", [None, ()])
def test_an_option_that_is_not_given_changes_nothing(nothing: object) -> None:
    found = spec("defaults: {region: us-east-2}\nputers: [a]", overrides={"region": nothing})

    assert found.region == "us-east-2"


def test_variables_are_merged_name_by_name() -> None:
    found = spec(
        "defaults: {env: {A: d, B: d, C: d}}\nputers: [{tag: a, run: x, env: {C: e}}]",
        overrides={"env": {"B": "o", "C": "o"}},
    )

    assert found.env == {"A": "d", "B": "o", "C": "e"}


@pytest.mark.parametrize(
    ("default", "own", "ttl_s"),
    [
        ("ttl: 2h", "no_shutdown: true", None),
        ("no_shutdown: true", "ttl: 3h", 10_800),
        ("ttl: 2h", "no_shutdown: false", 7_200),
        ("no_shutdown: true", "no_shutdown: false", 3_600),
    ],
)
def test_how_long_a_puter_lives_is_the_entrys_answer(default: str, own: str, ttl_s: int | None) -> None:
    assert spec(f"defaults: {{{default}}}\nputers: [{{tag: a, {own}}}]").ttl_s == ttl_s


def test_an_entrys_os_sets_a_default_image_aside() -> None:
    found = spec("defaults: {ami: ami-01234567}\nputers: [{tag: a, os: al2}]")

    assert (found.os, found.ami) == (Os.AL2, None)


def test_an_entrys_image_keeps_the_default_os() -> None:
    found = spec("defaults: {os: al2}\nputers: [{tag: a, ami: ami-01234567}]")

    assert (found.os, found.ami) == (Os.AL2, "ami-01234567")


def test_a_wrong_default_is_told_once_and_where_it_is() -> None:
    said = refused("defaults:\n  instance_type: t3_micro\nputers: [a, b, c]")

    assert said == "b.yaml:2: defaults.instance_type: 't3_micro': write a type like t3.micro"


def test_a_default_that_nobody_uses_is_checked() -> None:
    assert "defaults.disk" in refused("defaults: {disk: big}\nputers: [{tag: a, disk: 20}]")


def test_a_wrong_option_is_told_by_its_name() -> None:
    said = refused("puters: [a, b]", overrides={"instance_type": "t3_micro"})

    assert said == "--instance-type: 't3_micro': write a type like t3.micro"


def test_an_option_may_carry_what_the_client_fills_in() -> None:
    key = "ssh-ed25519 " + "A" * 68

    assert spec("puters: [a]", overrides={"public_key": key, "private_key_path": "/k"}).public_key == key


@pytest.mark.parametrize("field", ["public_key", "private_key_path"])
def test_a_file_may_not_carry_what_the_client_fills_in(field: str) -> None:
    assert f"puters[0].{field}: is filled in by the client: leave it out" in refused(
        f"puters: [{{tag: a, {field}: x}}]"
    )


def test_an_option_cannot_be_a_tag() -> None:
    assert refused("puters: [a]", overrides={"tag": "x"}) == "--tag: is different for each entry: write it there"


def test_a_default_tag_is_refused() -> None:
    assert (
        refused("defaults: {tag: x}\nputers: [a]")
        == "b.yaml:1: defaults.tag: is different for each entry: write it there"
    )


def test_variables_without_a_workload_are_told_of_the_entry() -> None:
    said = refused("defaults: {env: {A: b}}\nputers:\n- a\n- {tag: b, run: x}\n")

    assert said == "b.yaml:3: puters[0].env: has no effect alone: write run as well"


def test_ssh_sources_are_requested_once_for_each_distinct_value() -> None:
    asked: list[tuple[str, ...]] = []

    def resolve(words: tuple[str, ...]) -> tuple[str, ...]:
        asked.append(words)
        return ("192.0.2.1/32",)

    batch = read(
        "puters:\n- {tag: a, ssh_from: auto}\n- {tag: b, ssh_from: [auto]}\n- {tag: c, ssh_from: 10.0.0.1 auto}\n",
        resolve_ssh_from=resolve,
    )

    assert asked == [("auto",), ("auto", "10.0.0.1/32")]
    assert {entry.spec.ssh_from for entry in batch.entries} == {("192.0.2.1/32",)}


def test_ssh_sources_are_not_requested_where_cidrs_or_none_are_written() -> None:
    def resolve(words: tuple[str, ...]) -> tuple[str, ...]:
        raise AssertionError(words)

    batch = read(
        "puters: [{tag: a, ssh_from: 10.0.0.1}, {tag: b, ssh_from: none}]",
        overrides={"ssh_from": ("auto",)},
        resolve_ssh_from=resolve,
    )

    assert [entry.spec.ssh_from for entry in batch.entries] == [("10.0.0.1/32",), ()]


def test_the_resolver_says_what_holds_where_nobody_wrote_any() -> None:
    def resolve(words: tuple[str, ...]) -> tuple[str, ...]:
        return ("192.0.2.1/32",) if not words else ()

    assert spec("puters: [a]", resolve_ssh_from=resolve).ssh_from == ("192.0.2.1/32",)


def test_without_a_resolver_auto_is_refused() -> None:
    assert "b.yaml:1: puters[0].ssh_from: 'auto'" in refused("puters: [{tag: a, ssh_from: auto}]")


def test_what_the_resolver_cannot_tell_is_told_with_the_lines() -> None:
    def resolve(words: tuple[str, ...]) -> tuple[str, ...]:
        raise InvalidInput("no address found; write CIDRs")

    said = refused("defaults:\n  ssh_from: auto\nputers: [a, b]", resolve_ssh_from=resolve)

    assert said == "b.yaml:2: defaults.ssh_from: no address found; write CIDRs"


@pytest.mark.parametrize("value", ["nowhere", "10.0.0.1/8", "none auto", "[none, 10.0.0.1]", "{a: b}", "[[a]]"])
def test_ssh_sources_that_are_none_are_refused(value: str) -> None:
    assert "b.yaml:1: puters[0].ssh_from: " in refused(f"puters: [{{tag: a, ssh_from: {value}}}]")


def test_a_user_data_file_is_read_once() -> None:
    asked: list[str] = []

    def read_file(path: str) -> bytes:
        asked.append(path)
        return stored(path)

    batch = read(
        "defaults: {user_data_file: boot.sh}\nputers: [a, {tag: b, user_data_file: boot.sh}]", read_file=read_file
    )

    assert asked == ["boot.sh"]
    assert {entry.spec.user_data for entry in batch.entries} == {"#!/bin/sh\necho hi\n"}


def test_a_byte_order_mark_does_not_come_before_a_shebang() -> None:
    assert spec("puters: [{tag: a, user_data_file: bom.sh}]", read_file=stored).user_data == "#!/bin/sh\n"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("gone.sh", "'gone.sh': is not there"),
        ("latin.sh", "'latin.sh': is not valid UTF-8: save it as UTF-8"),
        ("empty.sh", "'empty.sh': is empty: leave it out, or write a value"),
        ("[boot.sh]", "write the path of one file"),
    ],
)
def test_a_user_data_file_that_is_no_script_is_refused(path: str, message: str) -> None:
    said = refused(f"puters: [{{tag: a, user_data_file: {path}}}]", read_file=stored)

    assert said == f"b.yaml:1: puters[0].user_data_file: {message}"


def test_a_user_data_file_over_ec2s_limit_is_refused() -> None:
    said = refused("puters: [{tag: a, user_data_file: big.sh}]", read_file=lambda _: "é".encode() * 8_193)

    assert "'big.sh': is over 16 KB" in said


def test_user_data_and_its_file_exclude_each_other() -> None:
    said = refused("puters: [{tag: a, user_data: x, user_data_file: boot.sh}]", read_file=stored)

    assert said == "b.yaml:1: puters[0].user_data_file: and user_data exclude each other: keep one"


def test_an_entrys_user_data_beats_a_default_file() -> None:
    found = spec("defaults: {user_data_file: boot.sh}\nputers: [{tag: a, user_data: '#!mine'}]", read_file=stored)

    assert found.user_data == "#!mine"


def test_a_batch_says_how_many_of_it_may_live_at_a_time_and_how_many_may_fail() -> None:
    batch = read_batch("b.yaml", b"max_parallel: 8\nmax_fails: 3\nputers: [a, b]")

    assert (batch.max_parallel, batch.max_fails) == (8, 3)
    assert read_batch("b.yaml", b"puters: [a]").max_fails is None


@pytest.mark.parametrize("name", ["max_parallel", "max_fails"])
@pytest.mark.parametrize("written", ["many", "0", "-1", "1.5", "100001", "1e3"])
def test_a_limit_that_is_no_number_is_refused_with_its_line(name: str, written: str) -> None:
    assert refused(f"puters: [a]\n{name}: {written}") == (
        f"b.yaml:2: {name}: '{written}': write a whole number from 1 to 100000"
    )


@pytest.mark.parametrize("name", ["max_parallel", "max_fails"])
def test_a_limit_of_the_batch_is_no_field_of_an_entry(name: str) -> None:
    option = "--" + name.replace("_", "-")
    assert f"belongs at the top of a YAML file; or use {option}" in refused(f"puters: [{{tag: a, {name}: 3}}]")


def test_several_types_are_tried_in_the_order_in_which_they_are_written() -> None:
    batch = read_batch("b.yaml", b"puters: [{tag: a, instance_type: [c7i.large, c6i.large]}]")

    assert (batch.entries[0].spec.instance_type, batch.entries[0].spec.instance_types) == ("c7i.large", ("c6i.large",))


LEVELS = ("config", "defaults", "options", "entry")
PAIRS = [(weak, strong) for n, weak in enumerate(LEVELS) for strong in LEVELS[n + 1 :]]
# What a weaker and a stronger level write, and what holds of both.
EXCLUSIVE: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"ttl": "4h"}, {"no_shutdown": True}, {"ttl_s": None}),
    ({"ttl": "4h"}, {"no_shutdown": "true"}, {"ttl_s": None}),
    ({"ttl": "4h"}, {"no_shutdown": "True"}, {"ttl_s": None}),
    ({"ttl": "4h"}, {"no_shutdown": False}, {"ttl_s": 14_400}),
    ({"ttl": "4h"}, {"no_shutdown": "False"}, {"ttl_s": 14_400}),
    ({"no_shutdown": True}, {"ttl": "2h"}, {"ttl_s": 7_200}),
    ({"no_shutdown": "True"}, {"ttl": "2h"}, {"ttl_s": 7_200}),
    ({"no_shutdown": True}, {"no_shutdown": "false"}, {"ttl_s": 3_600}),
    ({"ami": "ami-01234567"}, {"os": "al2"}, {"ami": None, "os": Os.AL2}),
    ({"ami": "ami-01234567", "ssh_user": "build"}, {"os": "debian12"}, {"ami": None, "ssh_user": None}),
    ({"ssh_user": "build"}, {"ami": "ami-01234567"}, {"ami": "ami-01234567", "ssh_user": "build"}),
    ({"ssh_user": "build"}, {"os": "debian12", "ssh_user": "root"}, {"os": Os.DEBIAN_12, "ssh_user": "root"}),
    ({"os": "al2"}, {"ami": "ami-01234567"}, {"ami": "ami-01234567", "os": Os.AL2}),
    ({"user_data": "#!weak"}, {"user_data": "#!strong"}, {"user_data": "#!strong"}),
    ({"user_data": "#!weak"}, {"user_data_file": "boot.sh"}, {"user_data": "#!/bin/sh\necho hi\n"}),
    ({"user_data_file": "boot.sh"}, {"user_data": "#!strong"}, {"user_data": "#!strong"}),
    ({"user_data_file": "boot.sh"}, {"user_data_file": "bom.sh"}, {"user_data": "#!/bin/sh\n"}),
]


def merged(**levels: dict[str, Any]) -> Spec:
    """The spec of one entry where each level writes some fields."""
    file = {"defaults": levels.get("defaults", {}), "puters": [{"tag": "a"} | levels.get("entry", {})]}
    batch = read_batch(
        "b.yaml",
        json.dumps(file).encode(),
        config=levels.get("config", {}),
        overrides=levels.get("options", {}),
        read_file=stored,
        format="yaml",
    )
    return batch.entries[0].spec


CASES = [
    (weak, strong, *answers)
    for weak, strong in PAIRS
    for answers in EXCLUSIVE
    if weak != "config" or USER_DATA_FILE not in answers[0]  # config.toml has no such field
]


@pytest.mark.parametrize(("weak", "strong", "weaker", "stronger", "holds"), CASES)
def test_the_stronger_level_answers_a_question_that_both_answer(
    weak: str, strong: str, weaker: dict[str, Any], stronger: dict[str, Any], holds: dict[str, Any]
) -> None:
    made = merged(**{weak: weaker, strong: stronger})

    assert {name: getattr(made, name) for name in holds} == holds


@pytest.mark.parametrize(("weak", "strong"), PAIRS)
def test_other_fields_are_overridden_one_by_one_and_mappings_by_name(weak: str, strong: str) -> None:
    weaker: dict[str, Any] = {"disk": 9, "region": "us-east-2", "env": {"A": "w", "B": "w"}, "aws_tags": {"a": "w"}}
    stronger: dict[str, Any] = {"region": "us-west-2", "run": "x", "env": {"A": "s"}, "aws_tags": {"b": "s"}}

    made = merged(**{weak: weaker, strong: stronger})

    assert (made.disk, made.region, made.env) == (9, "us-west-2", {"A": "s", "B": "w"})
    assert made.aws_tags == {"a": "w", "b": "s"}


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("true", [True, "true", "True"])
def test_one_level_that_answers_twice_is_refused(level: str, true: object) -> None:
    with pytest.raises(InvalidInput, match=r"no.shutdown: and (--)?ttl exclude each other: keep one"):
        merged(**{level: dict[str, Any](ttl="1h", no_shutdown=true)})


def test_a_field_of_config_toml_that_cannot_be_used_is_named_with_its_file() -> None:
    said = refused("puters: [a]", config={"ssh_from": "auto"})

    assert said.startswith("config.toml: defaults.ssh_from: 'auto': this machine's address is not known")


@pytest.mark.parametrize(
    ("config", "options", "ttl_s"),
    [
        ({"ttl": "4h"}, {"no_shutdown": True}, None),
        ({"no_shutdown": "True"}, {"ttl": "2h"}, 7_200),
        ({"ttl": "4h"}, {}, 14_400),
        ({"no_shutdown": True}, {}, None),
    ],
)
def test_machines_without_a_file_have_the_same_levels(
    config: dict[str, Any], options: dict[str, Any], ttl_s: int | None
) -> None:
    assert single(options, config=config).ttl_s == ttl_s
    assert generate("a", 1, options, config=config).entries[0].spec.ttl_s == ttl_s


def test_braces_of_a_single_machine_are_ordinary_characters() -> None:
    assert single({"run": "awk {print}"}).run == "awk {print}"


def test_no_address_is_looked_up_for_a_machine_that_cannot_be_used() -> None:
    def resolve(words: tuple[str, ...]) -> tuple[str, ...]:
        raise AssertionError(words)

    with pytest.raises(InvalidInput, match="--disk: 'big'"):
        single({"disk": "big"}, resolve_ssh_from=resolve)
