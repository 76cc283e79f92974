"""Regions: those that AWS has, and what a misspelt one is told."""

from __future__ import annotations

import botocore.session
import pytest

from puter_client.contract.regions import REGIONS, region


def test_they_are_those_of_the_sdk() -> None:
    partitions = botocore.session.get_session().get_data("endpoints")["partitions"]

    assert {name for partition in partitions for name in partition["regions"]} == REGIONS


def test_each_is_read_as_it_is() -> None:
    assert {region(name) for name in REGIONS} == REGIONS


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("us-east1", "did you mean us-east-1"),
        ("eu-west-9", "did you mean eu-west-"),
        ("US-EAST-1", "did you mean us-east-1"),
        ("mars-north-1", "'mars-north-1': is no AWS region"),
        ("", "write one like us-east-1"),
        ("x" * 10_000, "write one like us-east-1"),
    ],
)
def test_another_is_refused_with_those_that_are_like_it(written: str, told: str) -> None:
    with pytest.raises(ValueError, match="is no AWS region") as refused:
        region(written)

    assert told in str(refused.value)
    assert len(str(refused.value)) < 300
