"""RunInstances: what it refuses, how much of it fits, and what a ClientToken stands for."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.ec2sim.config import Capacity, SimConfig, Unsupported
from tests.ec2sim.direct import Direct, Refused

CALM = SimConfig(throttle=False)


def ids(instances: list[dict[str, Any]]) -> list[str]:
    return [one["InstanceId"] for one in instances]


def subnet(ec2: Direct, cidr: str) -> dict[str, Any]:
    found = ec2.ask("DescribeSubnets", Filters=[{"Name": "cidr-block", "Values": [cidr]}])["Subnets"]
    assert len(found) == 1
    return dict(found[0])


def test_a_launch_numbers_its_instances() -> None:
    assert [one["AmiLaunchIndex"] for one in Direct(CALM).launch(4)] == [0, 1, 2, 3]


def test_spot_instances_all_have_the_same_index() -> None:
    launched = Direct(CALM).launch(3, InstanceMarketOptions={"MarketType": "spot"})
    assert [(one["AmiLaunchIndex"], one["InstanceLifecycle"]) for one in launched] == [(0, "spot")] * 3


def test_what_was_requested_is_what_is_there() -> None:
    ec2 = Direct(CALM)
    data = b"#!/bin/sh\necho hello\n"
    (one,) = ec2.launch(
        UserData=base64.b64encode(data).decode(),
        InstanceInitiatedShutdownBehavior="terminate",
        MetadataOptions={"HttpTokens": "required", "InstanceMetadataTags": "enabled"},
        IamInstanceProfile={"Name": "reader"},
        BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 30}}],
        TagSpecifications=[
            {"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "<&> ü"}]},
            {"ResourceType": "volume", "Tags": [{"Key": "b", "Value": "2"}]},
        ],
    )
    inside = ec2.inside(one["InstanceId"])
    assert (inside.options.user_data, inside.shutdown_behavior, inside.options.root_gib) == (data, "terminate", 30)
    assert (inside.volume_tags, one["Tags"]) == ({"b": "2"}, [{"Key": "a", "Value": "<&> ü"}])
    assert one["MetadataOptions"]["HttpTokens"] == "required"
    assert one["IamInstanceProfile"]["Arn"].endswith(":instance-profile/reader")


def test_an_instance_that_shuts_down_stops_unless_told_otherwise() -> None:
    ec2 = Direct(CALM)
    (one,) = ec2.launch()
    assert ec2.inside(one["InstanceId"]).shutdown_behavior == "stop"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"ImageId": "ami-00000000000000000"}, "InvalidAMIID.NotFound"),
        ({"ImageId": "al2023"}, "InvalidAMIID.Malformed"),
        ({"InstanceType": "t9.huge"}, "InvalidParameterValue"),
        ({"InstanceType": "t4g.micro"}, "InvalidParameterValue"),
        ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
        ({"SecurityGroupIds": ["sg-0"]}, "InvalidGroup.NotFound"),
        ({"SecurityGroups": ["nobody"]}, "InvalidGroup.NotFound"),
        ({"SubnetId": "subnet-0"}, "InvalidSubnetID.NotFound"),
        ({"Placement": {"AvailabilityZone": "us-east-1z"}}, "InvalidParameterValue"),
        ({"MinCount": 2, "MaxCount": 1}, "InvalidParameterValue"),
        ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
        ({"ClientToken": "ü"}, "InvalidParameterValue"),
        ({"UserData": "not base64!"}, "InvalidUserData.Malformed"),
        ({"InstanceInitiatedShutdownBehavior": "explode"}, "InvalidParameterValue"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}]}, "InvalidBlockDeviceMapping"),
        ({"RamdiskId": "ari-1"}, "UnknownParameter"),
    ],
)
def test_a_launch_that_cannot_be_is_refused(params: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as refused:
        Direct(CALM).run(**params)
    assert refused.value.code == code


@pytest.mark.parametrize(("size", "taken"), [(16_384, True), (16_385, False)])
def test_user_data_is_counted_before_base64(size: int, taken: bool) -> None:
    ec2 = Direct(CALM)
    data = base64.b64encode(b"x" * size).decode()
    if taken:
        assert len(ec2.inside(ids(ec2.launch(UserData=data))[0]).options.user_data) == size
    else:
        with pytest.raises(Refused, match="16384 bytes"):
            ec2.launch(UserData=data)


def test_an_unknown_instance_profile_is_refused() -> None:
    with pytest.raises(Refused, match="iamInstanceProfile"):
        Direct(SimConfig(instance_profiles=("reader",))).run(IamInstanceProfile={"Name": "writer"})


def test_without_a_default_vpc_a_subnet_is_needed() -> None:
    with pytest.raises(Refused, match="VPCIdNotSpecified"):
        Direct(SimConfig(default_vpc=False)).run()


def test_a_group_of_another_vpc_is_refused() -> None:
    ec2 = Direct(CALM)
    other = subnet(ec2, "10.20.0.0/24")
    group = ec2.ask("CreateSecurityGroup", GroupName="g", Description="d")["GroupId"]
    with pytest.raises(Refused, match="different networks"):
        ec2.run(SubnetId=other["SubnetId"], SecurityGroupIds=[group])


def test_a_dry_run_launches_nothing() -> None:
    ec2 = Direct(CALM)
    with pytest.raises(Refused, match="DryRunOperation"):
        ec2.run(DryRun=True)
    assert ec2.listed() == []


# room


def test_as_many_are_launched_as_fit_and_their_indexes_have_gaps() -> None:
    ec2 = Direct(SimConfig(throttle=False, capacity=(Capacity(slots=3),), seed=5))
    indexes = [one["AmiLaunchIndex"] for one in ec2.launch(50)]
    assert len(set(indexes)) == 3
    assert max(indexes) > 2


def test_a_partial_fill_can_be_without_gaps() -> None:
    ec2 = Direct(SimConfig(throttle=False, capacity=(Capacity(slots=3),), gaps=False))
    assert [one["AmiLaunchIndex"] for one in ec2.launch(50)] == [0, 1, 2]


def test_none_are_launched_if_the_fewest_do_not_fit() -> None:
    ec2 = Direct(SimConfig(throttle=False, capacity=(Capacity(slots=3),)))
    with pytest.raises(Refused, match="InsufficientInstanceCapacity") as refused:
        ec2.run(MinCount=4, MaxCount=4)
    assert (refused.value.status, ec2.listed()) == (500, [])


def test_a_full_zone_is_avoided_when_none_is_named() -> None:
    full = (Capacity(zone="us-east-1[ab]", slots=0),)
    (one,) = Direct(SimConfig(throttle=False, capacity=full)).launch()
    assert one["Placement"]["AvailabilityZone"] == "us-east-1c"


def test_a_full_zone_that_is_named_refuses() -> None:
    full = (Capacity(zone="us-east-1a", instance_type="t3.*", slots=0),)
    with pytest.raises(Refused, match="InsufficientInstanceCapacity"):
        Direct(SimConfig(throttle=False, capacity=full)).run(Placement={"AvailabilityZone": "us-east-1a"})


def test_capacity_is_of_one_type() -> None:
    ec2 = Direct(SimConfig(throttle=False, capacity=(Capacity(instance_type="t3.micro", slots=0),)))
    assert len(ec2.launch(InstanceType="t3.small")) == 1


def test_an_ended_instance_gives_its_capacity_back() -> None:
    ec2 = Direct(SimConfig(throttle=False, capacity=(Capacity(zone="*a", slots=1), Capacity(slots=0))))
    first = ids(ec2.launch())
    with pytest.raises(Refused, match="InsufficientInstanceCapacity"):
        ec2.run()
    ec2.ask("TerminateInstances", InstanceIds=first)
    assert len(ec2.launch()) == 1


def test_a_type_that_a_zone_does_not_offer_is_unsupported_there() -> None:
    ec2 = Direct(SimConfig(throttle=False, unsupported=(Unsupported(zone="us-east-1b"),)))
    with pytest.raises(Refused, match=r"Unsupported: .*us-east-1a, us-east-1c"):
        ec2.run(Placement={"AvailabilityZone": "us-east-1b"})


def test_a_subnet_runs_out_of_addresses() -> None:
    ec2 = Direct(CALM)
    small = subnet(ec2, "10.20.1.0/28")
    assert len(ec2.launch(50, SubnetId=small["SubnetId"])) == small["AvailableIpAddressCount"] == 11
    with pytest.raises(Refused, match="InsufficientFreeAddressesInSubnet"):
        ec2.run(SubnetId=small["SubnetId"])


def test_an_ended_instance_gives_its_address_back() -> None:
    ec2 = Direct(CALM)
    small = subnet(ec2, "10.20.1.0/28")["SubnetId"]
    launched = ec2.launch(11, SubnetId=small)
    ec2.ask("TerminateInstances", InstanceIds=[launched[4]["InstanceId"]])
    assert ec2.launch(SubnetId=small)[0]["PrivateIpAddress"] == launched[4]["PrivateIpAddress"]


@pytest.mark.parametrize(
    ("config", "params", "code"),
    [
        (SimConfig(vcpu_quota={"standard": 5}), {}, "VcpuLimitExceeded"),
        (SimConfig(instance_quota=2), {}, "InstanceLimitExceeded"),
        (SimConfig(spot_quota=2), {"InstanceMarketOptions": {"MarketType": "spot"}}, "MaxSpotInstanceCountExceeded"),
    ],
)
def test_a_quota_lets_through_what_it_allows_and_then_nothing(
    config: SimConfig, params: dict[str, Any], code: str
) -> None:
    ec2 = Direct(config)
    assert len(ec2.launch(9, **params)) == 2
    with pytest.raises(Refused) as refused:
        ec2.run(**params)
    assert refused.value.code == code


def test_a_quota_is_of_one_class_of_types() -> None:
    ec2 = Direct(SimConfig(vcpu_quota={"standard": 0}))
    assert len(ec2.launch(InstanceType="g4dn.xlarge")) == 1


# tokens


def test_the_same_token_launches_once() -> None:
    ec2 = Direct(CALM)
    first = ec2.run(MinCount=1, MaxCount=3, ClientToken="t")
    again = ec2.run(MinCount=1, MaxCount=3, ClientToken="t")
    assert (again["ReservationId"], ids(again["Instances"])) == (first["ReservationId"], ids(first["Instances"]))
    assert len(ec2.listed()) == 3


def test_another_token_launches_again() -> None:
    ec2 = Direct(CALM)
    assert ids(ec2.launch(ClientToken="t")) != ids(ec2.launch(ClientToken="u"))


def test_the_same_token_in_another_zone_launches_again() -> None:
    ec2 = Direct(CALM)
    zones: tuple[dict[str, Any], ...] = (
        {"Placement": {"AvailabilityZone": "us-east-1a"}},
        {"Placement": {"AvailabilityZone": "us-east-1b"}},
        {},
    )
    launched = {ids(ec2.launch(ClientToken="t", **zone))[0] for zone in zones}
    assert len(launched) == 3


def test_a_subnet_names_its_zone_for_the_token() -> None:
    ec2 = Direct(CALM)
    here = ec2.ask("DescribeSubnets", Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    launched = {ids(ec2.launch(ClientToken="t", SubnetId=each["SubnetId"]))[0] for each in here}
    assert len(launched) == 3


def test_a_token_with_other_parameters_is_a_mismatch() -> None:
    ec2 = Direct(CALM)
    ec2.run(ClientToken="t")
    with pytest.raises(Refused, match="IdempotentParameterMismatch"):
        ec2.run(ClientToken="t", MaxCount=2)
    assert len(ec2.listed()) == 1


def test_a_mismatch_can_succeed_without_effect() -> None:
    ec2 = Direct(SimConfig(token_mismatch="ignore"))
    first = ids(ec2.launch(ClientToken="t"))
    assert ids(ec2.launch(5, ClientToken="t")) == first
    assert len(ec2.listed()) == 1


@pytest.mark.parametrize("refused", [True, False])
def test_the_token_of_an_ended_instance_never_launches_again(refused: bool) -> None:
    ec2 = Direct(SimConfig(dead_token="error" if refused else "instances"))
    first = ids(ec2.launch(ClientToken="t"))
    ec2.ask("TerminateInstances", InstanceIds=first)
    if refused:
        with pytest.raises(Refused, match="IdempotentInstanceTerminated"):
            ec2.run(ClientToken="t")
    else:
        (dead,) = ec2.launch(ClientToken="t")
        assert (dead["InstanceId"], dead["State"]["Name"]) == (first[0], "terminated")
    assert len(ec2.listed()) == 1


def test_a_launch_without_capacity_keeps_its_token() -> None:
    ec2 = Direct(SimConfig(throttle=False, capacity=(Capacity(slots=0),)))
    with pytest.raises(Refused, match="InsufficientInstanceCapacity"):
        ec2.run(ClientToken="t")
    ec2.world.configure(CALM)
    with pytest.raises(Refused, match="IdempotentParameterMismatch"):
        ec2.run(ClientToken="t", InstanceType="t3.small")
    assert len(ec2.launch(ClientToken="t")) == 1


def test_a_launch_without_capacity_can_give_its_token_back() -> None:
    ec2 = Direct(SimConfig(capacity=(Capacity(slots=0),), token_bound_by_failed_launch=False))
    with pytest.raises(Refused, match="InsufficientInstanceCapacity"):
        ec2.run(ClientToken="t")
    ec2.world.configure(CALM)
    assert len(ec2.launch(ClientToken="t", InstanceType="t3.small")) == 1


def test_a_token_is_forgotten_after_its_lifetime() -> None:
    ec2 = Direct(SimConfig(token_lifetime_s=60))
    first = ids(ec2.launch(ClientToken="t"))
    ec2.clock.advance(61)
    assert ids(ec2.launch(ClientToken="t")) != first


def test_a_launch_answers_in_any_order_if_wanted() -> None:
    indexes = [one["AmiLaunchIndex"] for one in Direct(SimConfig(shuffled=True)).launch(20)]
    assert sorted(indexes) == list(range(20)) != indexes


def test_the_same_seed_launches_the_same_ids() -> None:
    one, same, other = (Direct(SimConfig(seed=seed)).launch(3) for seed in (1, 1, 2))
    assert ids(one) == ids(same) != ids(other)
