"""Keys: the two names that no separator, wildcard or path can hide in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import NAMESPACE, TAG, PuterKey, check_namespace, check_tag, shown, tag_order

keys = st.builds(PuterKey, st.from_regex(NAMESPACE, fullmatch=True), st.from_regex(TAG, fullmatch=True))


@given(keys)
def test_a_key_is_read_back_from_its_text(key: PuterKey) -> None:
    assert PuterKey.parse(str(key)) == key


@given(keys, keys)
def test_no_two_keys_share_a_text(one: PuterKey, other: PuterKey) -> None:
    assert (str(one) == str(other)) == (one == other)


@pytest.mark.parametrize("tag", ["a", "A1", "sweep-17", "x" * 128, "a.b_c:d@e+f=g-h", "0"])
def test_a_good_tag_is_itself(tag: str) -> None:
    assert check_tag(tag) == tag


@pytest.mark.parametrize(
    "tag", ["", "x" * 129, "-a", ".a", "_info", "a/b", "a b", "a*", "a?", "a\\b", "a\n", "ä", "a\0", "٣"]
)
def test_a_bad_tag_is_refused(tag: str) -> None:
    with pytest.raises(InvalidInput, match="use 1 to 128 letters"):
        check_tag(tag)


@pytest.mark.parametrize("namespace", ["a", "0", "team-7", "x" * 39])
def test_a_good_namespace_is_itself(namespace: str) -> None:
    assert check_namespace(namespace) == namespace


@pytest.mark.parametrize("namespace", ["", "x" * 40, "-a", "_in", "A", "a_b", "a:b", "a/b", "a.b", "a\n", "ä"])
def test_a_bad_namespace_is_refused(namespace: str) -> None:
    with pytest.raises(InvalidInput, match="use 1 to 39 lower-case letters"):
        check_namespace(namespace)


@pytest.mark.parametrize("text", ["", "betty", "betty/", "/one", "betty/one/two", "Betty/one"])
def test_what_is_no_key_is_not_read_as_one(text: str) -> None:
    with pytest.raises(InvalidInput):
        PuterKey.parse(text)


@given(st.text())
def test_a_shown_value_is_one_short_line(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) <= 2 * 60 + 2


def test_numbers_in_tags_count_as_numbers() -> None:
    tags = ["job-10", "job-2", "job-010", "job", "10", "job-10-b", "9", "Job-3", "job-2.10", "job-2.9"]
    assert sorted(tags, key=tag_order) == [
        "9", "10", "Job-3", "job", "job-2", "job-2.9", "job-2.10", "job-010", "job-10", "job-10-b",
    ]  # fmt: skip


@given(st.lists(st.from_regex(TAG, fullmatch=True), unique=True))
def test_any_tags_have_one_order(tags: list[str]) -> None:
    turned = tags[::-1]
    assert sorted(tags, key=tag_order) == sorted(turned, key=tag_order)
