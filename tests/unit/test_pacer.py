"""The buckets that Puter paces itself by, against what AWS publishes."""

from __future__ import annotations

import pytest

from puter_worker.rates import INSTANCES, Rates

RATES = Rates()
# "Request throttling for the Amazon EC2 API", AWS's developer guide: bucket size and refill a second.
PUBLISHED = {
    "RunInstances": (5, 2),
    INSTANCES: (1_000, 2),
    "CreateTags": (100, 10),
    "CreateSecurityGroup": (50, 5),
    "ImportKeyPair": (50, 5),
    "CreateKeyPair": (50, 5),
    "ModifyInstanceAttribute": (50, 5),
    "AuthorizeSecurityGroupIngress": (50, 5),
}


@pytest.mark.parametrize("action", PUBLISHED)
def test_no_bucket_gives_more_than_aws_does(action: str) -> None:
    size, rate = PUBLISHED[action]

    assert RATES.of(action).rate == rate
    assert 0.8 * size <= RATES.of(action).size <= size


def test_every_paced_action_is_published() -> None:
    assert RATES.buckets.keys() == PUBLISHED.keys()


def test_describing_is_paced_as_published_for_filtered_calls() -> None:
    assert (RATES.of("DescribeInstances").size, RATES.of("DescribeInstances").rate) == (95, 20)


def test_for_a_stand_in_whose_time_runs_faster_all_buckets_refill_faster_and_hold_as_much() -> None:
    faster = RATES.faster(20)

    assert faster.buckets.keys() == RATES.buckets.keys()
    for action in (*PUBLISHED, "DescribeInstances"):
        plain, quick = RATES.of(action), faster.of(action)
        assert (quick.size, quick.rate, quick.reserve) == (plain.size, 20 * plain.rate, plain.reserve)
