"""Tags written, and read back with nothing believed of them."""

from __future__ import annotations

import base64
import random
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.contract.fields import InvalidSpec, build_spec
from puter_client.contract.key import TAG, PuterKey
from puter_worker.ec2.tags import (
    MANAGED,
    MAX_MANIFEST_TAGS,
    MAX_MEMBERS,
    birth_tags,
    decode_manifest,
    encode_manifest,
    key_of,
    own_tags,
)
from puter_worker.errors import ManifestTooLarge
from tests.ec2sim.config import SimConfig
from tests.ec2sim.direct import Direct, Refused

GROUP = birth_tags(namespace="lab", intent="i1", batch="b1", owner="me", expires_at=1_767_225_600.0)
MEMBERS = st.lists(
    st.tuples(st.from_regex(TAG, fullmatch=True), st.integers(1, 10**9 - 1)),
    min_size=1,
    max_size=20,
    unique_by=lambda member: member[0],
)


def packed(text: bytes) -> dict[str, str]:
    written = base64.urlsafe_b64encode(zlib.compress(text, 9)).decode().rstrip("=")
    return {f"puter:manifest-{n}": written[n * 256 : n * 256 + 256] for n in range(-(-len(written) // 256))}


@given(MEMBERS)
def test_a_manifest_tells_what_was_written(members: list[tuple[str, int]]) -> None:
    assert decode_manifest(encode_manifest(members)) == members


@given(MEMBERS)
def test_a_manifest_is_of_values_that_every_tag_takes(members: list[tuple[str, int]]) -> None:
    for value in encode_manifest(members).values():
        assert 0 < len(value) <= 256
        assert set(value) <= set(string.ascii_letters + string.digits + "-_")


def test_a_hundred_members_of_a_sweep_take_few_tags() -> None:
    assert len(encode_manifest([(f"sweep-{n}", 1) for n in range(100)])) <= 3


def test_members_that_do_not_fit_are_refused() -> None:
    dice = random.Random(1)
    names = ["".join(dice.choices(string.ascii_letters, k=128)) for _ in range(100)]

    with pytest.raises(ManifestTooLarge, match=f"at most {MAX_MANIFEST_TAGS}"):
        encode_manifest([(name, 1) for name in names])


def test_more_members_than_a_group_has_are_refused() -> None:
    with pytest.raises(ManifestTooLarge, match="at most 100"):
        encode_manifest([(f"t{n}", 1) for n in range(MAX_MEMBERS + 1)])


@given(st.dictionaries(st.sampled_from([f"puter:manifest-{n}" for n in range(30)]), st.text(max_size=300)))
def test_garbage_is_no_manifest(tags: dict[str, str]) -> None:
    assert decode_manifest(tags) is None


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b" " * 40_000 + b"]",
        b'[["a",1],["a",2]]',
        b'[["a b",1]]',
        b'[["a",0]]',
        b'[["a",1000000000]]',
        b'[["a",1.5]]',
        b'[["a",true]]',
        b'[["a"]]',
        b'{"a":1}',
        b"[" + b",".join(b'["t%d",1]' % n for n in range(101)) + b"]",
    ],
    ids=["bomb", "twice", "bad-tag", "zero", "huge", "float", "bool", "short", "object", "too-many"],
)
def test_a_manifest_that_nobody_could_have_written_is_none(text: bytes) -> None:
    assert decode_manifest(packed(text)) is None


def test_a_bomb_is_not_unpacked() -> None:
    bomb = packed(b"[" + b" " * 3_000_000 + b"]")
    assert len(bomb) <= MAX_MANIFEST_TAGS

    assert decode_manifest(bomb) is None


def test_a_manifest_with_a_lost_part_is_none() -> None:
    dice = random.Random(1)
    members = [("".join(dice.choices(string.ascii_letters, k=60)), 1) for _ in range(30)]
    tags = encode_manifest(members)

    for name in tags:
        assert decode_manifest({n: value for n, value in tags.items() if n != name}) is None


def test_a_group_says_whose_it_is_and_until_when() -> None:
    assert GROUP == {
        "Name": "puter/lab",
        "puter:managed": "true",
        "puter:namespace": "lab",
        "puter:intent": "i1",
        "puter:batch": "b1",
        "puter:owner": "me",
        "puter:expires-at": "2026-01-01T00:00:00Z",
        "puter:labelled": "no",
    }


def test_a_machine_that_stays_says_never() -> None:
    tags = birth_tags(namespace="lab", intent="i1", batch=None, owner=None, expires_at=None)

    assert tags["puter:expires-at"] == "never"


def test_a_users_tags_do_not_take_the_place_of_puters() -> None:
    tags = birth_tags(
        namespace="lab", intent="i", batch=None, owner=None, expires_at=None, extra={MANAGED: "no", "team": "x"}
    )

    assert (tags[MANAGED], tags["team"]) == ("true", "x")


def test_an_owner_fits_into_a_tag() -> None:
    tags = birth_tags(namespace="lab", intent="i", batch=None, owner="\n" + "x" * 300, expires_at=None)

    assert tags["puter:owner"] == "?" + "x" * 255


def test_a_machines_own_tags_tell_its_key() -> None:
    key = PuterKey("lab", "sweep-17")

    assert own_tags(key, 3)["Name"] == "puter/lab/sweep-17"
    assert key_of(GROUP | own_tags(key, 3)) == (key, 3)


def test_own_tags_go_before_the_manifest() -> None:
    tags = GROUP | encode_manifest([("a", 1), ("b", 1)]) | own_tags(PuterKey("lab", "b"), 1)

    assert key_of(tags, 0) == (PuterKey("lab", "b"), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {MANAGED: "false"},
        {"puter:namespace": "No Such"},
        {"puter:tag": "a/b", "puter:generation": "1"},
        {"puter:tag": "a", "puter:generation": "x"},
        {"puter:tag": "a", "puter:generation": "9" * 5000},
        {},
    ],
    ids=["not-ours", "namespace", "tag", "generation", "long-generation", "no-manifest"],
)
def test_tags_that_puter_would_not_write_tell_no_key(changes: dict[str, str]) -> None:
    assert key_of(GROUP | changes) is None


@pytest.mark.parametrize("index", [-1, 2])
def test_a_machine_beyond_the_manifest_has_no_key(index: int) -> None:
    assert key_of(GROUP | encode_manifest([("a", 1), ("b", 1)]), index) is None


def of_a_request(tags: dict[str, str]) -> dict[str, str] | None:
    """What a request takes as further tags; None if it refuses them."""
    try:
        return build_spec({"aws_tags": tags}).aws_tags
    except InvalidSpec:
        return None


def of_ec2(tags: dict[str, str]) -> dict[str, str] | None:
    """What EC2 takes as an instance's tags; None if it refuses them."""
    ec2 = Direct(SimConfig(throttle=False))
    named = [{"Key": key, "Value": value} for key, value in tags.items()]
    try:
        (one,) = ec2.launch(TagSpecifications=[{"ResourceType": "instance", "Tags": named}])
    except Refused:
        return None
    return {tag["Key"]: tag["Value"] for tag in one["Tags"]}


@pytest.mark.parametrize(
    "tags",
    [
        {"Cost Center": "Research / ML"},
        {"team/project": "a=b"},
        {"+ - = . _ : / @": "+ - = . _ : / @"},
        {" a ": " "},
        {"a": ""},
        {"Kostenstelle für Übung": "größer"},
        {"コスト　センター": "研究"},
        {"\N{ROCKET}" * 20: "\N{ROCKET}" * 200},
        {"ü" * 127: "ü" * 256},
        {f"k{n}": "ü" * 256 for n in range(20)},
        {"name": "a", "NAME": "b", "puterfarm": "c", "Puter farm": "d", "awsome": "e", "my aws:x": "f", ":": "g"},
        {"value": "aws:x"},
    ],
)
def test_a_request_takes_the_tags_that_ec2_takes(tags: dict[str, str]) -> None:
    assert of_a_request(tags) == of_ec2(tags) == tags


@pytest.mark.parametrize(
    "tags", [{"": "x"}, {"k" * 128: "x"}, {"k": "x" * 257}, {"aws:x": "x"}, {"AWS:x": "x"}, {"Aws:": "x"}]
)
def test_a_request_refuses_the_tags_that_ec2_refuses(tags: dict[str, str]) -> None:
    assert of_a_request(tags) is None
    assert of_ec2(tags) is None


@pytest.mark.parametrize(
    "key", ["Name", "puter", "Puter", "PUTER", "puter:tag", "puter:managed", "Puter:Managed", "PUTER:anything"]
)
def test_puters_own_tags_cannot_be_requested_in_any_case_in_which_a_policy_may_compare_them(key: str) -> None:
    assert of_a_request({key: "x"}) is None
