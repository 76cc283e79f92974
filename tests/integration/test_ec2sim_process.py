"""The simulator in its own process, driven by aioboto3 as the worker drives EC2."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import aioboto3
import aiohttp
import botocore.exceptions
import pytest
from aiobotocore.config import AioConfig

from tests.ec2sim.client import ControlError
from tests.ec2sim.config import Fault, SimConfig
from tests.ec2sim.process import ROOT, SimProcess

if TYPE_CHECKING:
    from types_aiobotocore_ec2 import EC2Client
    from types_aiobotocore_ec2.type_defs import RunInstancesRequestTypeDef
    from types_aiobotocore_sts import STSClient

SESSION = aioboto3.Session()  # loading EC2's model takes longer than all else here
ONCE = AioConfig(retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=120, connect_timeout=120)
ED25519 = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP5TnYSHQgF2cyUhZJKBZ9gTfGi8VVKQ6+CRZ3x2jHqZ me@home"


@asynccontextmanager
async def ec2_at(sim: SimProcess, region: str = "us-east-1", read_timeout_s: float = 120) -> AsyncIterator[EC2Client]:
    async with SESSION.client(
        "ec2",
        region_name=region,
        endpoint_url=sim.endpoint_url,
        aws_access_key_id="AKIATEST",
        aws_secret_access_key="none",
        config=ONCE.merge(AioConfig(read_timeout=read_timeout_s)),
    ) as client:
        yield client


@asynccontextmanager
async def sts_at(sim: SimProcess) -> AsyncIterator[STSClient]:
    async with SESSION.client(
        "sts",
        region_name="us-east-1",
        endpoint_url=sim.endpoint_url,
        aws_access_key_id="AKIATEST",
        aws_secret_access_key="none",
        config=ONCE,
    ) as client:
        yield client


@pytest.fixture
async def sim() -> AsyncIterator[SimProcess]:
    async with SimProcess(SimConfig(throttle=False)) as sim:
        yield sim


@pytest.fixture
async def ec2(sim: SimProcess) -> AsyncIterator[EC2Client]:
    async with ec2_at(sim) as client:
        yield client


async def machine(ec2: EC2Client, count: int = 1) -> RunInstancesRequestTypeDef:
    found = await ec2.describe_images(
        Owners=["amazon"],
        Filters=[
            {"Name": "name", "Values": ["al2023-ami-2023.*-kernel-6.1-x86_64"]},
            {"Name": "state", "Values": ["available"]},
        ],
    )
    newest = max(found["Images"], key=lambda image: image["CreationDate"])
    return {"ImageId": newest["ImageId"], "InstanceType": "t3.micro", "MinCount": 1, "MaxCount": count}


async def test_a_machine_from_its_key_to_its_end(sim: SimProcess, ec2: EC2Client) -> None:
    await ec2.import_key_pair(KeyName="k", PublicKeyMaterial=ED25519)
    (vpc,) = (await ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}]))["Vpcs"]
    group = (await ec2.create_security_group(GroupName="g", Description="d", VpcId=vpc["VpcId"]))["GroupId"]
    await ec2.authorize_security_group_ingress(
        GroupId=group,
        IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "192.0.2.1/32"}]}],
    )
    asked: RunInstancesRequestTypeDef = {
        **await machine(ec2, 2),
        "KeyName": "k",
        "SecurityGroupIds": [group],
        "UserData": "#!/bin/sh\n",
        "ClientToken": "t",
        "InstanceInitiatedShutdownBehavior": "terminate",
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "puter:intent", "Value": "one"}]}],
    }
    launched = await ec2.run_instances(**asked)
    first, second = (one["InstanceId"] for one in launched["Instances"])
    await ec2.create_tags(Resources=[first], Tags=[{"Key": "Name", "Value": "puter/me/first"}])
    wanted = [{"Name": "tag:Name", "Values": ["puter/me/*"]}]
    (found,) = (await ec2.describe_instances(Filters=wanted))["Reservations"]  # type: ignore[arg-type]
    (one,) = found["Instances"]
    assert (one["InstanceId"], one["State"]["Name"], one["SecurityGroups"]) == (
        first,
        "running",
        [{"GroupId": group, "GroupName": "g"}],
    )
    await sim.control.shut_down(first)
    await ec2.stop_instances(InstanceIds=[second])
    ended = {each.id: (each.state, each.state_reason) for each in await sim.control.instances()}
    assert ended == {
        first: ("terminated", "Client.InstanceInitiatedShutdown"),
        second: ("stopped", "Client.UserInitiatedShutdown"),
    }


async def test_botocore_reads_the_answers_to_all_that_only_look(sim: SimProcess, ec2: EC2Client) -> None:
    pair = await ec2.create_key_pair(KeyName="k", KeyType="ed25519")
    new = (await ec2.run_instances(**await machine(ec2)))["Instances"][0]["InstanceId"]
    await sim.control.write_console(new, "exit 0\n")
    await ec2.modify_instance_attribute(InstanceId=new, InstanceInitiatedShutdownBehavior={"Value": "terminate"})
    types = await ec2.describe_instance_types(InstanceTypes=["t4g.micro"])
    console = await ec2.get_console_output(InstanceId=new, Latest=True)
    offered = await ec2.describe_instance_type_offerings(LocationType="availability-zone")
    async with sts_at(sim) as sts:
        caller = await sts.get_caller_identity()
    read = {
        "key": pair["KeyMaterial"].splitlines()[0],
        "keys": [each["KeyName"] for each in (await ec2.describe_key_pairs())["KeyPairs"]],
        "groups": {each["GroupName"] for each in (await ec2.describe_security_groups())["SecurityGroups"]},
        "zones": len((await ec2.describe_availability_zones())["AvailabilityZones"]),
        "subnets": len((await ec2.describe_subnets())["Subnets"]),
        "vpcs": len((await ec2.describe_vpcs())["Vpcs"]),
        "architectures": types["InstanceTypes"][0]["ProcessorInfo"]["SupportedArchitectures"],
        "console": console["Output"].splitlines()[-1],
        "offered": {"us-east-1a", "us-east-1b", "us-east-1c"}
        <= {each["Location"] for each in offered["InstanceTypeOfferings"]},
        "account": caller["Account"],
    }
    assert read == {
        "key": "-----BEGIN OPENSSH PRIVATE KEY-----",
        "keys": ["k"],
        "groups": {"default"},
        "zones": 3,
        "subnets": 5,
        "vpcs": 2,
        "architectures": ["arm64"],
        "console": "exit 0",
        "offered": True,
        "account": "123456789012",
    }


async def test_botocore_reads_a_refusal(ec2: EC2Client) -> None:
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        await ec2.describe_instances(InstanceIds=["i-0"])
    error = refused.value.response
    assert (error["Error"]["Code"], error["ResponseMetadata"]["HTTPStatusCode"]) == ("InvalidInstanceID.NotFound", 400)
    assert error["ResponseMetadata"]["RequestId"]


async def test_the_paginator_sees_everything_once(ec2: EC2Client) -> None:
    await ec2.run_instances(**await machine(ec2, 23))
    pages = ec2.get_paginator("describe_instances").paginate(PaginationConfig={"PageSize": 5})
    seen = [one["InstanceId"] async for page in pages for r in page["Reservations"] for one in r["Instances"]]
    assert (len(seen), len(set(seen))) == (23, 23)


async def test_regions_share_nothing(sim: SimProcess, ec2: EC2Client) -> None:
    await ec2.run_instances(**await machine(ec2))
    async with ec2_at(sim, "eu-central-1") as other:
        assert (await other.describe_instances())["Reservations"] == []


@pytest.mark.parametrize(
    ("fault", "error", "instances"),
    [
        (Fault(action="RunInstances", drop=True, when="before"), botocore.exceptions.ConnectionClosedError, 0),
        (Fault(action="RunInstances", drop=True, when="after"), botocore.exceptions.ConnectionClosedError, 1),
        (Fault(action="RunInstances", cut=True), botocore.exceptions.ConnectionClosedError, 1),
        (Fault(action="RunInstances", hold=True, when="after"), botocore.exceptions.ReadTimeoutError, 1),
    ],
)
async def test_an_answer_is_lost_before_or_after_the_effect(
    sim: SimProcess, fault: Fault, error: type[Exception], instances: int
) -> None:
    async with ec2_at(sim) as ec2:
        asked = await machine(ec2)
    await sim.control.configure(faults=[fault])
    async with ec2_at(sim, read_timeout_s=1 if fault.hold else 120) as ec2:
        with pytest.raises(error):
            await ec2.run_instances(**asked)
    assert len(await sim.control.instances()) == instances


async def test_the_simulator_goes_on_after_it_dropped_a_connection(sim: SimProcess, ec2: EC2Client) -> None:
    await sim.control.configure(faults=[Fault(drop=True, times=2)])
    for _ in range(2):
        with pytest.raises(botocore.exceptions.ConnectionClosedError):
            await ec2.describe_vpcs()
    assert len((await ec2.describe_vpcs())["Vpcs"]) == 2
    assert [(e.code, e.answer) for e in await sim.control.ledger()] == [
        ("Lost", "dropped"),
        ("Lost", "dropped"),
        ("OK", "whole"),
    ]


# the side door


async def test_time_can_be_moved_forwards(sim: SimProcess, ec2: EC2Client) -> None:
    new = (await ec2.run_instances(**await machine(ec2)))["Instances"][0]["InstanceId"]
    await ec2.terminate_instances(InstanceIds=[new])
    await sim.control.advance(3_601)
    assert await sim.control.instances() == []


async def test_aws_can_end_an_instance_for_a_reason(sim: SimProcess, ec2: EC2Client) -> None:
    new = (await ec2.run_instances(**await machine(ec2)))["Instances"][0]["InstanceId"]
    seen = await sim.control.end(new, "Server.SpotInstanceTermination", "interrupted")
    assert (seen.state, seen.state_reason) == ("terminated", "Server.SpotInstanceTermination")


async def test_the_ledger_tells_of_calls_after_a_number(sim: SimProcess, ec2: EC2Client) -> None:
    await ec2.describe_vpcs()
    await ec2.describe_subnets()
    await ec2.describe_vpcs()
    assert [e.number for e in await sim.control.ledger(since=1)] == [2, 3]
    assert [e.number for e in await sim.control.ledger(action="DescribeVpcs")] == [1, 3]


async def test_the_summary_counts_calls_and_states(sim: SimProcess, ec2: EC2Client) -> None:
    await ec2.run_instances(**await machine(ec2, 3))
    summary = await sim.control.summary()
    assert (summary.counts["RunInstances"], summary.states, summary.bugs) == ({"OK": 1}, {"running": 3}, [])


async def test_a_change_of_one_field_keeps_the_others(sim: SimProcess) -> None:
    await sim.control.configure(speed=20)
    assert await sim.control.config() == SimConfig(throttle=False, speed=20)


async def test_a_spent_fault_stays_spent_when_another_field_changes(sim: SimProcess, ec2: EC2Client) -> None:
    await sim.control.configure(faults=[Fault(drop=True, times=1)])
    with pytest.raises(botocore.exceptions.ConnectionClosedError):
        await ec2.describe_vpcs()
    await sim.control.configure(speed=20)
    assert len((await ec2.describe_vpcs())["Vpcs"]) == 2


async def test_a_behaviour_that_does_not_exist_is_refused(sim: SimProcess) -> None:
    with pytest.raises(ControlError, match=r"400 .*sped"):
        await sim.control.configure(sped=20)


async def test_user_data_is_told_when_requested(sim: SimProcess, ec2: EC2Client) -> None:
    asked: RunInstancesRequestTypeDef = {**await machine(ec2), "UserData": "#!/bin/sh\n"}
    await ec2.run_instances(**asked)
    (without,) = await sim.control.instances()
    (with_data,) = await sim.control.instances(user_data=True)
    assert (without.user_data, with_data.user_data) == (b"", b"#!/bin/sh\n")


async def test_an_unsigned_call_is_refused(sim: SimProcess) -> None:
    async with aiohttp.ClientSession() as http, http.post(sim.endpoint_url, data={"Action": "DescribeVpcs"}) as got:
        assert (got.status, "AuthFailure" in await got.text()) == (401, True)


async def test_the_process_ends_with_its_context() -> None:
    async with SimProcess() as sim:
        pid = sim.pid
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_the_process_ends_when_its_starter_lets_go() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.ec2sim", "--stop-at-eof", stdin=PIPE, stdout=PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert (await process.stdout.readline()).startswith(b"http://127.0.0.1:")
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 120) == 0


async def test_a_behaviour_that_cannot_be_read_is_told_at_the_start() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.ec2sim", "--config", '{"sped": 20}', stderr=PIPE, cwd=ROOT
    )
    _, said = await process.communicate()
    assert process.returncode == 2
    assert b"--config: Object contains unknown field `sped`" in said
