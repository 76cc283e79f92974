"""Filters and pages of Describe calls keep EC2's rules."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ec2sim.config import SimConfig
from tests.ec2sim.direct import Direct, Refused
from tests.ec2sim.filters import Matcher


@pytest.mark.parametrize(
    ("wanted", "value", "matches"),
    [
        ("abc", "abc", True),
        ("abc", "Abc", False),
        ("a*c", "abbc", True),
        ("a*c", "ac", True),
        ("a*c", "acd", False),
        ("a?c", "abc", True),
        ("a?c", "ac", False),
        (r"a\*c", "a*c", True),
        (r"a\*c", "abc", False),
        (r"a\?c", "a?c", True),
        (r"a\\c", "a\\c", True),
        (r"a\\*", "a\\bc", True),
        ("a.c", "abc", False),
        ("a[b]c", "abc", False),
        ("*", "two\nlines", True),
    ],
)
def test_wildcards_and_escapes(wanted: str, value: str, matches: bool) -> None:
    assert Matcher([wanted]).matches([value]) is matches


def tagged(tags: dict[str, str]) -> list[dict[str, object]]:
    rows = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": "instance", "Tags": rows}]


@pytest.fixture
def ec2() -> Direct:
    ec2 = Direct(SimConfig(throttle=False))
    ec2.launch(TagSpecifications=tagged({"puter": "one", "kind": "a"}), ClientToken="t-1")
    ec2.launch(TagSpecifications=tagged({"puter": "two"}), ClientToken="t-2")
    ec2.launch()
    return ec2


def tags_found(ec2: Direct, *filters: tuple[str, list[str]]) -> list[str]:
    listed = ec2.listed(Filters=[{"Name": name, "Values": values} for name, values in filters])
    return [next((t["Value"] for t in one.get("Tags", ()) if t["Key"] == "puter"), "-") for one in listed]


@pytest.mark.parametrize(
    ("name", "values", "found"),
    [
        ("tag:puter", ["one"], ["one"]),
        ("tag:puter", ["one", "two"], ["one", "two"]),
        ("tag:puter", ["t*", "none"], ["two"]),
        ("tag:Puter", ["one"], []),
        ("tag-key", ["kind"], ["one"]),
        ("tag-value", ["two"], ["two"]),
        ("client-token", ["t-1"], ["one"]),
        ("client-token", ["t-?"], ["one", "two"]),
        ("instance-state-name", ["running"], ["one", "two", "-"]),
        ("instance-state-code", ["48"], []),
        ("instance-type", ["t3.*"], ["one", "two", "-"]),
        ("launch-index", ["0"], ["one", "two", "-"]),
    ],
)
def test_a_filter_finds(ec2: Direct, name: str, values: list[str], found: list[str]) -> None:
    assert tags_found(ec2, (name, values)) == found


def test_all_filters_have_to_match(ec2: Direct) -> None:
    assert tags_found(ec2, ("tag-key", ["puter"]), ("client-token", ["t-2", "t-3"])) == ["two"]


def test_a_filter_narrows_named_instances(ec2: Direct) -> None:
    ids = [one["InstanceId"] for one in ec2.listed()]
    wanted = [{"Name": "tag:puter", "Values": ["two"]}]
    assert [one["InstanceId"] for one in ec2.listed(InstanceIds=ids, Filters=wanted)] == [ids[1]]


def test_an_unknown_filter_is_refused(ec2: Direct) -> None:
    with pytest.raises(Refused, match="InvalidParameterValue: The filter 'colour' is invalid"):
        tags_found(ec2, ("colour", ["red"]))


def test_two_hundred_values_are_taken(ec2: Direct) -> None:
    assert tags_found(ec2, ("tag:puter", ["one", *map(str, range(199))])) == ["one"]


def test_more_than_two_hundred_values_are_refused(ec2: Direct) -> None:
    with pytest.raises(Refused, match="FilterLimitExceeded"):
        tags_found(ec2, ("tag:puter", [str(n) for n in range(201)]))


def test_values_of_all_filters_count_together(ec2: Direct) -> None:
    running = ("instance-state-name", ["running", "pending"])

    assert tags_found(ec2, running, ("tag:puter", ["one", *map(str, range(197))])) == ["one"]
    with pytest.raises(Refused, match="FilterLimitExceeded"):
        tags_found(ec2, running, ("tag:puter", [str(n) for n in range(199)]))


def test_no_ids_at_all_ask_for_everything(ec2: Direct) -> None:
    assert len(ec2.listed(InstanceIds=[])) == 3


def test_one_unknown_id_refuses_them_all(ec2: Direct) -> None:
    known = ec2.listed()[0]["InstanceId"]
    with pytest.raises(Refused, match=r"InvalidInstanceID\.NotFound: The instance ID 'i-0' does not exist"):
        ec2.listed(InstanceIds=[known, "i-0"])


@pytest.mark.parametrize("size", [4, 1_001])
def test_a_page_of_another_size_is_refused(ec2: Direct, size: int) -> None:
    with pytest.raises(Refused, match="InvalidParameterValue"):
        ec2.listed(MaxResults=size)


def test_pages_and_ids_exclude_each_other(ec2: Direct) -> None:
    known = ec2.listed()[0]["InstanceId"]
    with pytest.raises(Refused, match="InvalidParameterCombination"):
        ec2.listed(InstanceIds=[known], MaxResults=5)


def pages(ec2: Direct, size: int) -> list[list[str]]:
    found: list[list[str]] = []
    token: dict[str, Any] = {}
    while True:
        answer = ec2.ask("DescribeInstances", MaxResults=size, **token)
        found.append([one["InstanceId"] for r in answer["Reservations"] for one in r["Instances"]])
        if not answer.get("NextToken"):
            return found
        token = {"NextToken": answer["NextToken"]}


def test_pages_hold_everything_once() -> None:
    ec2 = Direct(SimConfig(throttle=False))
    ids = [one["InstanceId"] for one in ec2.launch(12)]
    assert pages(ec2, 5) == [ids[:5], ids[5:10], ids[10:]]


def test_short_pages_hold_everything_once_too() -> None:
    ec2 = Direct(SimConfig(throttle=False, short_pages=True, seed=3))
    ids = [one["InstanceId"] for one in ec2.launch(12)]
    found = pages(ec2, 5)
    assert [i for page in found for i in page] == ids
    assert [] in found[:-1]


def test_a_launch_is_split_over_pages_under_the_same_reservation() -> None:
    ec2 = Direct(SimConfig(throttle=False))
    launched = ec2.run(MinCount=7, MaxCount=7)["ReservationId"]
    first = ec2.ask("DescribeInstances", MaxResults=5)
    second = ec2.ask("DescribeInstances", MaxResults=5, NextToken=first["NextToken"])
    assert [r["ReservationId"] for r in first["Reservations"] + second["Reservations"]] == [launched, launched]


def test_a_token_of_another_list_is_refused() -> None:
    ec2 = Direct(SimConfig(throttle=False))
    ec2.launch(12)
    token = ec2.ask("DescribeInstances", MaxResults=5)["NextToken"]
    with pytest.raises(Refused, match="NextToken"):
        ec2.listed(MaxResults=5, NextToken=token, Filters=[{"Name": "launch-index", "Values": ["1"]}])
