"""The token buckets refuse as EC2's published ones do."""

from __future__ import annotations

import pytest

from tests.ec2sim.buckets import Bucket, Rate, rate_of
from tests.ec2sim.config import Capacity, Fault, SimConfig
from tests.ec2sim.direct import Direct, Refused


def test_a_full_bucket_gives_its_size_and_no_more() -> None:
    bucket = Bucket(Rate(5, 2), now=0)
    assert [bucket.take(1, now=0) for _ in range(6)] == [True] * 5 + [False]


def test_a_bucket_refills_at_its_rate() -> None:
    bucket = Bucket(Rate(5, 2), now=0)
    bucket.take(5, now=0)
    assert [bucket.take(1, now=at) for at in (0.4, 0.5, 0.9, 1.0)] == [False, True, False, True]


def test_a_bucket_never_holds_more_than_its_size() -> None:
    bucket = Bucket(Rate(5, 2), now=0)
    assert bucket.level(now=1_000) == 5


def test_a_refusal_costs_what_is_left() -> None:
    bucket = Bucket(Rate(5, 2), now=0)
    bucket.take(5, now=0)
    assert not bucket.take(1, now=0.4, refused_cost=1)
    assert bucket.level(now=0.4) == 0


def test_a_new_rate_keeps_the_tokens_that_are_there() -> None:
    bucket = Bucket(Rate(5, 2), now=0)
    bucket.take(4, now=0)
    bucket.set_rate(Rate(50, 20), now=0)
    assert bucket.level(now=0.1) == pytest.approx(3)


@pytest.mark.parametrize(
    ("action", "narrowed", "name", "rate"),
    [
        ("RunInstances", False, "RunInstances", (5, 2)),
        ("CreateTags", False, "CreateTags", (100, 10)),
        ("DescribeInstances", True, "DescribeInstances", (100, 20)),
        ("DescribeInstances", False, "DescribeInstances:whole", (50, 10)),
        ("DescribeSecurityGroups", False, "DescribeSecurityGroups:whole", (50, 10)),
        ("DescribeImages", False, "DescribeImages", (100, 20)),
        ("DescribeKeyPairs", False, "DescribeKeyPairs", (100, 20)),
        ("GetConsoleOutput", False, "GetConsoleOutput", (100, 20)),
        ("CreateSecurityGroup", False, "CreateSecurityGroup", (50, 5)),
        ("ImportKeyPair", False, "ImportKeyPair", (50, 5)),
        ("ModifyInstanceAttribute", False, "ModifyInstanceAttribute", (50, 5)),
        ("AuthorizeSecurityGroupIngress", False, "AuthorizeSecurityGroupIngress", (50, 5)),
        ("CreateKeyPair", False, "CreateKeyPair", (50, 5)),
    ],
)
def test_each_action_has_its_published_bucket(
    action: str, narrowed: bool, name: str, rate: tuple[float, float]
) -> None:
    assert rate_of(action, narrowed) == (name, Rate(*rate))


def launches_let_in(ec2: Direct, calls: int, count: int = 1) -> int:
    done = 0
    for _ in range(calls):
        try:
            ec2.run(MinCount=1, MaxCount=count)
        except Refused as refused:
            if refused.code != "RequestLimitExceeded":
                raise
        else:
            done += 1
    return done


def test_five_launches_go_at_once_and_two_more_each_second() -> None:
    ec2 = Direct(SimConfig(refused_cost=0))
    assert launches_let_in(ec2, 8) == 5
    ec2.clock.advance(1)
    assert launches_let_in(ec2, 8) == 2


def test_hammering_on_a_bucket_keeps_it_empty() -> None:
    ec2 = Direct()
    launches_let_in(ec2, 5)
    let_in = 0
    for _ in range(20):
        ec2.clock.advance(0.3)  # faster than the 0.5 s that a token takes
        let_in += launches_let_in(ec2, 1)
    assert let_in == 0


def test_speed_refills_so_much_faster() -> None:
    ec2 = Direct(SimConfig(speed=20, refused_cost=0))
    launches_let_in(ec2, 5)
    ec2.clock.advance(0.0625)  # 2.5 tokens at 40 a second
    assert launches_let_in(ec2, 8) == 2


def test_burst_scale_makes_the_buckets_so_much_larger() -> None:
    assert launches_let_in(Direct(SimConfig(burst_scale=2)), 12) == 10


def test_a_refusal_is_a_503() -> None:
    ec2 = Direct()
    launches_let_in(ec2, 5)
    with pytest.raises(Refused) as refused:
        ec2.run()
    assert (refused.value.code, refused.value.status) == ("RequestLimitExceeded", 503)


def test_without_throttling_nothing_is_refused() -> None:
    assert launches_let_in(Direct(SimConfig(throttle=False)), 30) == 30


def test_speed_can_change_on_the_way() -> None:
    ec2 = Direct(SimConfig(refused_cost=0))
    launches_let_in(ec2, 5)
    ec2.world.configure(SimConfig(speed=10, refused_cost=0))
    ec2.clock.advance(0.125)  # 2.5 tokens at 20 a second
    assert launches_let_in(ec2, 5) == 2


def test_above_a_thousand_instances_launches_are_counted_in_instances() -> None:
    ec2 = Direct()
    ec2.run(MinCount=1_000, MaxCount=1_000)
    with pytest.raises(Refused, match="RequestLimitExceeded"):
        ec2.run()
    ec2.clock.advance(10)
    ec2.run(MinCount=20, MaxCount=20)
    with pytest.raises(Refused, match="RequestLimitExceeded"):
        ec2.run()


def test_a_launch_that_is_refused_launches_nothing() -> None:
    ec2 = Direct()
    ec2.run(MinCount=900, MaxCount=900)
    with pytest.raises(Refused, match="RequestLimitExceeded"):
        ec2.run(MinCount=1, MaxCount=101)
    assert len(list(ec2.world.instances())) == 900


def test_a_repeated_token_costs_no_tokens_for_instances() -> None:
    ec2 = Direct()
    for _ in range(3):
        ec2.run(MinCount=400, MaxCount=400, ClientToken="t")
    assert ec2.here().throttle.levels()["instances"] == 600


@pytest.mark.parametrize(
    ("refusing", "code"),
    [
        (SimConfig(capacity=(Capacity(slots=0),)), "InsufficientInstanceCapacity"),
        (SimConfig(vcpu_quota={"standard": 0}), "VcpuLimitExceeded"),
        (SimConfig(instance_quota=0), "InstanceLimitExceeded"),
        (SimConfig(faults=(Fault(action="RunInstances", code="ServiceUnavailable"),)), "ServiceUnavailable"),
    ],
)
def test_a_launch_refused_after_the_buckets_takes_its_tokens_all_the_same(refusing: SimConfig, code: str) -> None:
    ec2 = Direct(refusing)
    with pytest.raises(Refused, match=code):
        ec2.run(MinCount=100, MaxCount=100)
    assert ec2.here().throttle.levels()["instances"] == 900


def test_refused_launches_alone_can_empty_the_bucket_of_instances() -> None:
    ec2 = Direct(SimConfig(capacity=(Capacity(slots=0),)))
    for _ in range(2):
        with pytest.raises(Refused, match="InsufficientInstanceCapacity"):
            ec2.run(MinCount=500, MaxCount=500)
    with pytest.raises(Refused, match="RequestLimitExceeded"):
        ec2.run()


def test_a_partial_launch_takes_the_tokens_of_all_it_requested() -> None:
    ec2 = Direct(SimConfig(capacity=(Capacity(slots=3),)))
    ec2.run(MinCount=1, MaxCount=100)
    assert ec2.here().throttle.levels()["instances"] == 900


def test_a_launch_that_the_bucket_of_instances_refuses_takes_none_of_it() -> None:
    ec2 = Direct()
    ec2.run(MinCount=900, MaxCount=900)
    with pytest.raises(Refused, match="RequestLimitExceeded"):
        ec2.run(MinCount=101, MaxCount=101)
    assert ec2.here().throttle.levels()["instances"] == 100


def test_each_region_has_buckets_of_its_own() -> None:
    ec2 = Direct()
    assert launches_let_in(ec2, 6) == 5
    ec2.region = "us-west-2"
    assert launches_let_in(ec2, 6) == 5
