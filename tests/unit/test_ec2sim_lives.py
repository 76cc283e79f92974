"""Instances live, end and fade as EC2's do, and new ones are late to be seen."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.ec2sim.config import SimConfig
from tests.ec2sim.direct import Direct, Refused
from tests.ec2sim.errors import Ec2Error


def launched(ec2: Direct, **params: Any) -> str:
    return str(ec2.launch(**params)[0]["InstanceId"])


def shown(ec2: Direct, instance_id: str) -> dict[str, Any]:
    return ec2.listed(InstanceIds=[instance_id])[0]


def state(ec2: Direct, instance_id: str) -> str:
    return str(shown(ec2, instance_id)["State"]["Name"])


def tags(one: dict[str, Any]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in one.get("Tags", ())}


def label(*names: str) -> dict[str, Any]:
    rows = [{"Key": name, "Value": "x"} for name in names]
    return {"TagSpecifications": [{"ResourceType": "instance", "Tags": rows}]}


def test_an_instance_is_pending_and_then_runs_with_its_addresses() -> None:
    ec2 = Direct(SimConfig(pending_s=(10, 10)))
    new = launched(ec2)
    before = shown(ec2, new)
    assert (before["State"], before.get("PublicIpAddress")) == ({"Code": 0, "Name": "pending"}, None)
    ec2.clock.advance(10)
    after = shown(ec2, new)
    assert after["State"] == {"Code": 16, "Name": "running"}
    assert after["PublicDnsName"] == f"ec2-{after['PublicIpAddress'].replace('.', '-')}.compute-1.amazonaws.com"


def test_the_address_can_come_later_than_the_state() -> None:
    ec2 = Direct(SimConfig(address_s=(5, 5)))
    new = launched(ec2)
    assert (state(ec2, new), shown(ec2, new).get("PublicIpAddress")) == ("running", None)
    ec2.clock.advance(5)
    assert shown(ec2, new)["PublicIpAddress"].startswith("198.1")


def test_a_subnet_without_public_addresses_gives_none() -> None:
    ec2 = Direct()
    private = ec2.ask("DescribeSubnets", Filters=[{"Name": "map-public-ip-on-launch", "Values": ["false"]}])["Subnets"]
    one = shown(ec2, launched(ec2, SubnetId=private[0]["SubnetId"]))
    assert (one["State"]["Name"], one["PublicDnsName"], "PublicIpAddress" in one) == ("running", "", False)


def test_launch_time_is_in_whole_seconds() -> None:
    ec2 = Direct()
    ec2.clock.advance(0.7)
    one = shown(ec2, launched(ec2))
    assert one["LaunchTime"].timestamp() == int(ec2.clock.now())


def test_some_instances_end_instead_of_starting() -> None:
    ec2 = Direct(SimConfig(stillborn=1.0))
    one = shown(ec2, launched(ec2))
    assert (one["State"]["Name"], one["StateReason"]["Code"]) == ("terminated", "Server.InternalError")


def test_terminating_goes_through_shutting_down() -> None:
    ec2 = Direct(SimConfig(shutdown_s=(5, 5)))
    new = launched(ec2)
    state(ec2, new)
    (change,) = ec2.ask("TerminateInstances", InstanceIds=[new])["TerminatingInstances"]
    assert (change["PreviousState"]["Name"], change["CurrentState"]["Name"]) == ("running", "shutting-down")
    ec2.clock.advance(5)
    one = shown(ec2, new)
    assert (one["State"]["Code"], one["StateReason"]["Code"]) == (48, "Client.UserInitiatedShutdown")
    assert not {"VpcId", "PrivateIpAddress", "PublicIpAddress"} & one.keys()


def test_stopping_keeps_the_instance_without_its_public_address() -> None:
    ec2 = Direct()
    new = launched(ec2)
    address = shown(ec2, new)["PrivateIpAddress"]
    ec2.ask("StopInstances", InstanceIds=[new])
    one = shown(ec2, new)
    assert (one["State"]["Name"], one["PrivateIpAddress"], one["PublicDnsName"]) == ("stopped", address, "")


@pytest.mark.parametrize(("behavior", "end"), [("terminate", "terminated"), ("stop", "stopped")])
def test_shutting_itself_down_obeys_the_shutdown_behavior(behavior: str, end: str) -> None:
    ec2 = Direct()
    new = launched(ec2, InstanceInitiatedShutdownBehavior=behavior)
    state(ec2, new)
    ec2.here().roster.shut_down(ec2.inside(new))
    one = shown(ec2, new)
    assert (one["State"]["Name"], one["StateReason"]["Code"]) == (end, "Client.InstanceInitiatedShutdown")


def test_the_shutdown_behavior_can_be_changed() -> None:
    ec2 = Direct()
    new = launched(ec2)
    ec2.ask("ModifyInstanceAttribute", InstanceId=new, InstanceInitiatedShutdownBehavior={"Value": "terminate"})
    ec2.here().roster.shut_down(ec2.inside(new))
    assert state(ec2, new) == "terminated"


def test_what_does_not_run_cannot_shut_itself_down() -> None:
    ec2 = Direct(SimConfig(pending_s=(9, 9)))
    new = launched(ec2)
    with pytest.raises(Ec2Error, match="IncorrectInstanceState"):
        ec2.here().roster.shut_down(ec2.inside(new))


def test_a_protected_instance_is_not_terminated() -> None:
    ec2 = Direct()
    new = launched(ec2)
    ec2.ask("ModifyInstanceAttribute", InstanceId=new, DisableApiTermination={"Value": True})
    with pytest.raises(Refused, match="OperationNotPermitted"):
        ec2.ask("TerminateInstances", InstanceIds=[new])


def test_a_terminated_instance_loses_its_tags_little_by_little_and_then_vanishes() -> None:
    ec2 = Direct(SimConfig(tags_fade_s=300, gone_s=600))
    new = launched(ec2, **label("a", "b", "c"))
    ec2.ask("TerminateInstances", InstanceIds=[new])
    left = []
    for _ in range(4):
        left.append(len(tags(shown(ec2, new))))
        ec2.clock.advance(100)
    assert left == [3, 2, 1, 0]
    ec2.clock.advance(200)
    assert ec2.listed() == []
    with pytest.raises(Refused, match=r"InvalidInstanceID\.NotFound"):
        shown(ec2, new)


def test_a_faded_tag_is_no_longer_found() -> None:
    ec2 = Direct(SimConfig(tags_fade_s=300))
    new = launched(ec2, **label("a"))
    ec2.ask("TerminateInstances", InstanceIds=[new])
    wanted = [{"Name": "tag-key", "Values": ["a"]}]
    assert len(ec2.listed(Filters=wanted)) == 1
    ec2.clock.advance(300)
    assert ec2.listed(Filters=wanted) == []


def test_one_late_look_sees_what_many_would_have_seen() -> None:
    ec2 = Direct(SimConfig(pending_s=(10, 10), address_s=(10, 10), shutdown_s=(10, 10)))
    new = launched(ec2)
    ec2.clock.advance(30)
    assert "PublicIpAddress" in shown(ec2, new)
    ec2.ask("TerminateInstances", InstanceIds=[new])
    ec2.clock.advance(500)
    state(ec2, new)
    ended_at = ec2.inside(new).ended_at
    assert ended_at is not None
    assert ec2.clock.now() - ended_at == 490


# groups and console


def test_security_groups_are_replaced_by_those_named() -> None:
    ec2 = Direct()
    new = launched(ec2)
    added = ec2.ask("CreateSecurityGroup", GroupName="g", Description="d")["GroupId"]
    before = [group["GroupId"] for group in shown(ec2, new)["SecurityGroups"]]
    ec2.ask("ModifyInstanceAttribute", InstanceId=new, Groups=[*before, added])
    assert [group["GroupId"] for group in shown(ec2, new)["SecurityGroups"]] == [*before, added]


def console(ec2: Direct, instance_id: str, **params: Any) -> str:
    answer = ec2.ask("GetConsoleOutput", InstanceId=instance_id, **params)
    return base64.b64decode(answer.get("Output", "")).decode()


def test_console_output_is_late_unless_the_latest_is_requested() -> None:
    ec2 = Direct(SimConfig(console_delay_s=60))
    new = launched(ec2)
    state(ec2, new)
    ec2.inside(new).console.append((ec2.clock.now(), b"exit 0\n"))
    assert console(ec2, new) == ""
    assert console(ec2, new, Latest=True).endswith("exit 0\n")
    ec2.clock.advance(60)
    assert console(ec2, new).endswith("exit 0\n")


def test_console_output_ends_after_its_last_64_kib() -> None:
    ec2 = Direct()
    new = launched(ec2)
    state(ec2, new)
    ec2.inside(new).console.append((ec2.clock.now(), b"x" * 70_000 + b"end"))
    got = console(ec2, new)
    assert (len(got), got[-3:]) == (65_536, "end")


def test_console_output_that_is_posted_by_hand_stays_as_it_was_posted() -> None:
    ec2 = Direct(SimConfig(greeting=False))
    new = launched(ec2)
    state(ec2, new)
    one = ec2.inside(new)
    assert (one.console, console(ec2, new)) == ([], "")
    one.console.append((ec2.clock.now(), b"boot\n"))
    one.posted = len(one.console)
    one.console.append((ec2.clock.now(), b"later\n"))
    ec2.clock.advance(3_000)
    assert (console(ec2, new), console(ec2, new, Latest=True)) == ("boot\n", "boot\nlater\n")


def test_the_latest_console_output_is_refused_off_nitro() -> None:
    ec2 = Direct()
    new = launched(ec2, InstanceType="t2.micro")
    with pytest.raises(Refused, match="UnsupportedOperation"):
        console(ec2, new, Latest=True)


# eventual consistency


def test_a_new_instance_is_not_found_by_its_id_at_first() -> None:
    ec2 = Direct(SimConfig(id_lag_s=(3, 3)))
    new = launched(ec2)
    for action in ("GetConsoleOutput", "ModifyInstanceAttribute"):
        with pytest.raises(Refused, match=r"InvalidInstanceID\.NotFound"):
            ec2.ask(action, InstanceId=new)
    with pytest.raises(Refused, match=r"InvalidInstanceID\.NotFound"):
        shown(ec2, new)
    ec2.clock.advance(3)
    assert shown(ec2, new)["InstanceId"] == new


def test_a_new_instance_is_missed_by_filters_at_first() -> None:
    ec2 = Direct(SimConfig(list_lag_s=(3, 3)))
    new = launched(ec2, ClientToken="t")
    wanted = [{"Name": "client-token", "Values": ["t"]}]
    assert ec2.listed(Filters=wanted) == []
    assert shown(ec2, new)["InstanceId"] == new
    ec2.clock.advance(3)
    assert [one["InstanceId"] for one in ec2.listed(Filters=wanted)] == [new]


def test_a_new_instance_can_be_shown_missed_and_shown_again() -> None:
    ec2 = Direct(SimConfig(list_lag_s=(6, 6), flapping=1.0))
    launched(ec2)
    seen = []
    for _ in range(4):
        seen.append(len(ec2.listed()))
        ec2.clock.advance(2)
    assert seen == [0, 1, 0, 1]


def test_a_lag_differs_from_instance_to_instance() -> None:
    ec2 = Direct(SimConfig(list_lag_s=(0, 10)))
    ec2.launch(100)
    ec2.clock.advance(5)
    assert 20 < len(ec2.listed()) < 80


def test_create_tags_does_not_find_a_new_instance_at_first() -> None:
    ec2 = Direct(SimConfig(create_tags_lag_s=(3, 3)))
    new = launched(ec2)
    with pytest.raises(Refused, match=r"InvalidInstanceID\.NotFound"):
        ec2.ask("CreateTags", Resources=[new], Tags=[{"Key": "a", "Value": "1"}])
    ec2.clock.advance(3)
    ec2.ask("CreateTags", Resources=[new], Tags=[{"Key": "a", "Value": "1"}])
    assert tags(shown(ec2, new)) == {"a": "1"}


def test_a_new_tag_is_shown_and_found_late() -> None:
    ec2 = Direct(SimConfig(tag_lag_s=(3, 3)))
    new = launched(ec2)
    ec2.ask("CreateTags", Resources=[new], Tags=[{"Key": "a", "Value": "1"}])
    wanted = [{"Name": "tag:a", "Values": ["1"]}]
    assert (tags(shown(ec2, new)), ec2.listed(Filters=wanted)) == ({}, [])
    ec2.clock.advance(3)
    assert (tags(shown(ec2, new)), len(ec2.listed(Filters=wanted))) == ({"a": "1"}, 1)


def test_a_late_tag_does_not_come_back_after_its_instance_lost_it() -> None:
    ec2 = Direct(SimConfig(tag_lag_s=(5, 5), tags_fade_s=1))
    new = launched(ec2)
    ec2.ask("CreateTags", Resources=[new], Tags=[{"Key": "a", "Value": "1"}])
    ec2.ask("TerminateInstances", InstanceIds=[new])
    ec2.clock.advance(10)
    assert tags(shown(ec2, new)) == {}


def test_a_new_group_is_not_found_at_first() -> None:
    ec2 = Direct(SimConfig(group_lag_s=(3, 3)))
    group = ec2.ask("CreateSecurityGroup", GroupName="g", Description="d")["GroupId"]
    with pytest.raises(Refused, match=r"InvalidGroup\.NotFound"):
        ec2.ask("DescribeSecurityGroups", GroupIds=[group])
    with pytest.raises(Refused, match=r"InvalidGroup\.NotFound"):
        ec2.run(SecurityGroupIds=[group])
    ec2.clock.advance(3)
    assert len(ec2.launch(SecurityGroupIds=[group])) == 1
