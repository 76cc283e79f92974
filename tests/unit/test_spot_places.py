"""Which machine of a Spot launch is which: the same for whoever sees them all, and nobody's guess before."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_worker.ec2.answers import InstanceAnswer, StateAnswer, Tag
from puter_worker.ec2.instances import Instance, instance_of, with_places
from puter_worker.ec2.tags import MEMBER, UNASSIGNED, encode_manifest, number_of
from puter_worker.stages.send import by_member
from puter_worker.store.intent import Intent, IntentMember, Place

TAGS = ["a", "b", "c", "d"]


def intent(count: int, *, spot: bool = True) -> Intent:
    return Intent(
        intent_id="0123456789abcdef",
        target="t",
        namespace="lab",
        members=tuple(IntentMember(tag, 1, 1) for tag in TAGS[:count]),
        place=Place("t3.micro", spot=spot),
        arguments=msgspec.Raw(b"{}"),
        made_at=0.0,
    )


def machines(count: int, **numbers: int) -> list[Instance]:
    """Of a Spot launch; `numbers`: the places that are written on some of them already, by `i1`, `i2` …"""
    tags = {MEMBER: UNASSIGNED} | encode_manifest([(tag, 1) for tag in TAGS])
    return [
        Instance(instance_id=f"i-{n}", state="running", tags=tags, number=numbers.get(f"i{n}")) for n in range(count)
    ]


def named(found: dict[str, Instance]) -> dict[str, str]:
    return {tag: one.instance_id for tag, one in found.items()}


@given(st.randoms(use_true_random=False), st.sets(st.integers(0, 2**64 - 1), min_size=2, max_size=60), st.data())
def test_the_places_depend_on_nothing_but_the_ids(dice: random.Random, ids: set[int], data: st.DataObject) -> None:
    shown = [Instance(instance_id=f"i-{one:016x}", state="running", number=None) for one in ids]
    first = {one.instance_id: one.number for one in with_places(shown)}

    # Any part of them has its place written on it meanwhile, and EC2 shows them in another order.
    written = data.draw(st.sets(st.sampled_from(sorted(first))))
    later = [msgspec.structs.replace(one, number=first[one.instance_id] if one.instance_id in written else None)
             for one in shown]  # fmt: skip
    dice.shuffle(later)

    assert {one.instance_id: one.number for one in with_places(later)} == first
    assert sorted(first.values(), key=lambda place: place or 0) == list(range(len(ids)))


def test_a_whole_launch_tells_which_machine_is_which() -> None:
    assert named(by_member(intent(4), machines(4)[::-1])) == {"a": "i-0", "b": "i-1", "c": "i-2", "d": "i-3"}


def test_a_part_of_a_launch_tells_no_more_than_what_is_written_on_it() -> None:
    assert by_member(intent(4), machines(3)) == {}
    assert named(by_member(intent(4), machines(3, i1=2))) == {"c": "i-1"}


def test_what_nothing_else_will_be_shown_of_gets_the_places_that_are_left() -> None:
    assert named(by_member(intent(4), machines(3, i1=2), all_there=True)) == {"a": "i-0", "b": "i-2", "c": "i-1"}


@pytest.mark.parametrize("dead", [0, 1])
def test_of_two_with_one_place_the_living_one_counts(dead: int) -> None:
    shown = machines(2, i0=1, i1=1)
    shown[dead] = msgspec.structs.replace(shown[dead], state="terminated")

    assert named(by_member(intent(2), shown)) == {"b": f"i-{1 - dead}"}


def test_on_demand_machines_have_their_launch_indexes() -> None:
    shown = [Instance(instance_id=f"i-{n}", state="running", number=3 - n) for n in range(3)]

    assert named(by_member(intent(4, spot=False), shown)) == {"d": "i-0", "c": "i-1", "b": "i-2"}


def test_a_place_that_no_member_has_is_nobodys() -> None:
    assert by_member(intent(2), machines(1, i0=7)) == {}


@pytest.mark.parametrize(
    ("tags", "number"),
    [({}, 5), ({MEMBER: UNASSIGNED}, None), ({MEMBER: "12"}, 12), ({MEMBER: "x1"}, None), ({MEMBER: "1" * 9}, None)],
)
def test_a_tag_says_the_place_where_there_is_one(tags: dict[str, str], number: int | None) -> None:
    assert number_of(tags, 5) == number


@pytest.mark.parametrize(("tags", "number"), [({}, None), ({"puter:tag": "a"}, 0), ({MEMBER: "2"}, 2)])
def test_an_ended_spot_machine_that_has_lost_its_tag_has_no_place(tags: dict[str, str], number: int | None) -> None:
    answer = InstanceAnswer(
        instance_id="i-0",
        state=StateAnswer(name="terminated"),
        tags=[Tag(key=key, value=value) for key, value in tags.items()],
        instance_lifecycle="spot",
    )

    assert instance_of(answer).number == number
