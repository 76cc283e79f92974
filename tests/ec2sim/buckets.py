"""Throttling: a token bucket an action, an account and a region, and one of instances for RunInstances.

Sizes: https://docs.aws.amazon.com/AWSEC2/latest/DeveloperGuide/ec2-api-throttling.html
"""

from __future__ import annotations

from typing import NamedTuple

from tests.ec2sim.dials import Dials
from tests.ec2sim.errors import Ec2Error


class Rate(NamedTuple):
    """A bucket's size and how fast it refills, in tokens and tokens a second."""

    size: float
    per_s: float


READ = Rate(100, 20)
READ_WHOLE = Rate(50, 10)
MUTATE = Rate(50, 5)
INSTANCES = Rate(1_000, 2)
# Reads that cost more when they have neither a filter nor a page.
WHOLE = frozenset({"DescribeInstances", "DescribeSecurityGroups"})
OTHERS = {
    "RunInstances": Rate(5, 2),
    "CreateTags": Rate(100, 10),
    "GetConsoleOutput": READ,
    "TerminateInstances": Rate(100, 5),
}


def rate_of(action: str, narrowed: bool) -> tuple[str, Rate]:
    """The bucket of a call: its name and rate; `narrowed` tells a call with a filter or a page."""
    if action in OTHERS:
        return action, OTHERS[action]
    if not action.startswith("Describe"):
        return action, MUTATE
    if action in WHOLE and not narrowed:
        return f"{action}:whole", READ_WHOLE
    return action, READ


class Bucket:
    """Tokens that come back with time; knows no clock of its own."""

    __slots__ = ("_at", "_rate", "_tokens")

    def __init__(self, rate: Rate, now: float) -> None:
        self._rate = rate
        self._tokens = float(rate.size)
        self._at = now

    def set_rate(self, rate: Rate, now: float) -> None:
        """Another rate from now on; a fuller bucket is not emptied, nor an emptier one filled."""
        self.level(now)
        self._tokens = min(self._tokens, rate.size)
        self._rate = rate

    def level(self, now: float) -> float:
        """Tokens in it."""
        self._tokens = min(self._rate.size, self._tokens + max(0.0, now - self._at) * self._rate.per_s)
        self._at = max(now, self._at)
        return self._tokens

    def take(self, count: float, now: float, refused_cost: float = 0.0) -> bool:
        """Takes tokens if there are enough; a refusal takes `refused_cost` of those left."""
        if self.level(now) >= count:
            self._tokens -= count
            return True
        self._tokens = max(0.0, self._tokens - refused_cost)
        return False

    def give(self, count: float, now: float) -> None:
        """Puts tokens back, as far as there is room."""
        self._tokens = min(self._rate.size, self.level(now) + count)


class Throttle:
    """All buckets of one account in one region."""

    def __init__(self, dials: Dials) -> None:
        self._dials = dials
        self._buckets: dict[str, tuple[Rate, Bucket]] = {}

    def admit(self, action: str, narrowed: bool) -> None:
        """Lets a call in.

        Raises:
            Ec2Error: RequestLimitExceeded.
        """
        name, rate = rate_of(action, narrowed)
        self._take(name, rate, 1, self._dials.config.refused_cost)

    def admit_instances(self, count: int) -> None:
        """Lets a launch of at most so many instances in; that costs as many, whatever becomes of it afterwards.

        Raises:
            Ec2Error: RequestLimitExceeded; nothing is taken then.
        """
        self._take("instances", INSTANCES, count, 0.0)

    def give_instances_back(self, count: int) -> None:
        """Puts the tokens of a launch back that only told once more what an earlier one had launched."""
        if self._dials.config.throttle:
            self._bucket("instances", INSTANCES).give(count, self._dials.now())

    def retune(self) -> None:
        """Has every bucket go on at the configured speed, from the tokens it has."""
        now = self._dials.now()
        for rate, bucket in self._buckets.values():
            bucket.set_rate(self._scaled(rate), now)

    def levels(self) -> dict[str, float]:
        """Tokens by bucket."""
        now = self._dials.now()
        return {name: bucket.level(now) for name, (_, bucket) in self._buckets.items()}

    def _take(self, name: str, rate: Rate, count: float, refused_cost: float) -> None:
        if self._dials.config.throttle and not self._bucket(name, rate).take(count, self._dials.now(), refused_cost):
            raise Ec2Error("RequestLimitExceeded")

    def _bucket(self, name: str, rate: Rate) -> Bucket:
        known = self._buckets.get(name)
        if known is None:
            known = self._buckets[name] = (rate, Bucket(self._scaled(rate), self._dials.now()))
        return known[1]

    def _scaled(self, rate: Rate) -> Rate:
        config = self._dials.config
        return Rate(max(1.0, rate.size * config.burst_scale), rate.per_s * config.speed)
