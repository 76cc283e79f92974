"""EC2's published rates: the token buckets with which it limits calls.

Source: "Request throttling for the Amazon EC2 API" in AWS's developer guide. The sizes here are a little smaller than
the published ones, because EC2 sometimes refuses calls at the published size; the refill rates are as published.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec


class Bucket(msgspec.Struct, frozen=True):
    """One token bucket of an account and region.

    Attributes:
        size: tokens that it holds when full.
        rate: tokens that it regains a second.
        reserve: tokens that are never taken from it unless it is full; headroom for a bucket with the published size.
    """

    size: float
    rate: float
    reserve: float = 0.0


RUN_INSTANCES = "RunInstances"
INSTANCES = "RunInstances.instances"  # the second bucket of RunInstances counts machines, not calls
CREATE_TAGS = "CreateTags"
# The largest number of machines that one launch may ask for: the size of the instance bucket.
MOST_INSTANCES = 1000


PUBLISHED: Mapping[str, Bucket] = MappingProxyType(
    {
        RUN_INSTANCES: Bucket(4, 2),
        INSTANCES: Bucket(MOST_INSTANCES, 2, reserve=3),
        CREATE_TAGS: Bucket(95, 10),
        "CreateSecurityGroup": Bucket(45, 5),
        "ImportKeyPair": Bucket(45, 5),
        "CreateKeyPair": Bucket(45, 5),
        "ModifyInstanceAttribute": Bucket(45, 5),
        "AuthorizeSecurityGroupIngress": Bucket(45, 5),
    }
)


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The buckets of every account and region.

    Attributes:
        buckets: the buckets by action.
        others: the bucket of every other action: reads with filters or pages.
    """

    buckets: Mapping[str, Bucket] = msgspec.field(default_factory=lambda: PUBLISHED)
    others: Bucket = Bucket(95, 20)

    def of(self, action: str) -> Bucket:
        """The bucket of an action."""
        return self.buckets.get(action, self.others)

    def faster(self, speed: float) -> Rates:
        """The same sizes, refilled `speed` times as fast: for stand-ins of EC2 whose time runs faster."""
        quick = {
            name: msgspec.structs.replace(bucket, rate=bucket.rate * speed) for name, bucket in self.buckets.items()
        }
        return Rates(buckets=quick, others=msgspec.structs.replace(self.others, rate=self.others.rate * speed))
