"""The buckets that Puter paces itself by, against what AWS publishes."""

from __future__ import annotations

import pytest

from puter_worker.pacer import _DESCRIBE, BUCKETS, INSTANCES

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

    assert BUCKETS[action].rate == rate
    assert 0.8 * size <= BUCKETS[action].size <= size


def test_every_paced_action_is_published() -> None:
    assert BUCKETS.keys() == PUBLISHED.keys()


def test_describing_is_paced_as_published_for_filtered_calls() -> None:
    assert (_DESCRIBE.size, _DESCRIBE.rate) == (95, 20)
