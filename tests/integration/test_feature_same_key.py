"""The same key again: what becomes of a request for a key that is known already, and what EC2 holds then."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.request import Origin
from puter_client.contract.result import Result
from puter_client.view import View, WaitFor
from tests.integration.stage_world import redis_keeps_its_rules, rewrite, until
from tests.integration.workshop import Workshop, spec

__all__ = ["redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")
KEY = PuterKey("betty", "one")
OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx8Tn8wJmVvLq1uwRWhGtg5zT8p7xyk8vJ4k8jVvq4A you"


async def ended(shop: Workshop, result: Result | None = None, **fields: Any) -> None:
    """The key `one` has had a machine, which has ended; `result` of its workload."""
    (view,) = await shop.request("one", **fields)
    assert view.record
    shop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])
    await shop.client.wait(tags=["one"], wait=WaitFor.TERMINATED, timeout_s=120)
    if result:
        rewrite(shop, KEY, result=result)


def is_next_generation(shop: Workshop, view: View) -> None:
    assert view.outcome is Outcome.CREATED
    assert view.record
    assert view.record.generation == 2
    (alive,) = shop.instances("running")
    assert alive["InstanceId"] == view.record.instance_id
    assert shop.tags(alive["InstanceId"])["puter:generation"] == "2"
    assert len(shop.instances("terminated")) == 1


# -- unknown, failed, cancelled --------------------------------------------------------------------------------------


@pytest.mark.parametrize("again", [{"profile": "nobodys"}, {}], ids=["same spec", "other spec"])
async def test_a_failed_key_is_launched(workshop: Workshop, tmp_path: Path, again: dict[str, Any]) -> None:
    async with workshop.working():
        (failed,) = await workshop.request("one", profile="nobodys")
        (tmp_path / "aws-config").write_text(
            "[profile nobodys]\naws_access_key_id = testing\naws_secret_access_key = testing\n"
        )
        (view,) = await workshop.request("one", **again)

    assert failed.phase is Phase.FAILED
    assert view.outcome is Outcome.CREATED
    assert view.record
    assert (view.phase, view.record.generation) == (Phase.RUNNING, 1)
    assert len(workshop.instances()) == 1


@pytest.mark.parametrize("kind", ["t3.micro", "t3.small"], ids=["same spec", "other spec"])
async def test_a_cancelled_key_is_launched_as_it_is_requested_now(workshop: Workshop, kind: str) -> None:
    await workshop.client.submit(asked("one"))
    await workshop.client.cancel(["one"])
    async with workshop.working():
        await workshop.client.wait(tags=["one"], wait=WaitFor.TERMINATED, timeout_s=120)
        cancelled = await workshop.record("one")
        (view,) = await workshop.request("one", instance_type=kind)

    assert cancelled.phase is Phase.CANCELLED
    assert view.outcome is Outcome.CREATED
    (instance,) = workshop.instances("running")
    assert instance["InstanceType"] == kind


# -- on its way ------------------------------------------------------------------------------------------------------


async def test_a_second_request_joins_the_first(workshop: Workshop) -> None:
    first = await workshop.client.submit(asked("one"))
    second = await workshop.client.submit(asked("one", ttl_s=120, ssh_from=()))
    async with workshop.working():
        (one,) = await workshop.client.wait(batch_id=first, tags=["one"], timeout_s=120)
        (two,) = await workshop.client.wait(batch_id=second, tags=["one"], timeout_s=120)

    assert (one.outcome, two.outcome) == (Outcome.CREATED, Outcome.JOINED)
    assert len(workshop.instances()) == 1


async def test_another_spec_conflicts_with_a_request_on_its_way(workshop: Workshop) -> None:
    first = await workshop.client.submit(asked("one"))
    second = await workshop.client.submit(asked("one", instance_type="t3.small", run="make"))
    async with workshop.working():
        await workshop.client.wait(batch_id=first, tags=["one"], timeout_s=120)
        (two,) = await workshop.client.wait(batch_id=second, tags=["one"], timeout_s=120)

    assert two.outcome is Outcome.CONFLICT
    assert two.reason
    assert "instance-type" in two.reason
    assert "run" in two.reason
    (instance,) = workshop.instances()
    assert instance["InstanceType"] == "t3.micro"


# -- alive -----------------------------------------------------------------------------------------------------------


async def test_a_living_machine_is_existing_whatever_is_not_compared(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one")
        (view,) = await workshop.request("one", ttl_s=120, aws_tags={"team": "b"}, key_name="other", again=True)

    assert view.outcome is Outcome.EXISTING
    assert len(workshop.instances()) == 1


async def test_another_spec_conflicts_with_a_living_machine(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one")
        (view,) = await workshop.request("one", user_data="#!/bin/sh\n", again=True)

    assert view.outcome is Outcome.CONFLICT
    assert view.reason
    assert "user-data" in view.reason
    assert len(workshop.instances()) == 1


async def test_a_machine_that_redis_has_forgotten_is_found_in_ec2(workshop: Workshop) -> None:
    async with workshop.working():
        (first,) = await workshop.request("one")
    with workshop.server.client() as behind:
        behind.flushall()
    async with workshop.working():
        (second,) = await workshop.request("one")

    assert second.outcome is Outcome.EXISTING
    assert first.record
    assert second.record
    assert first.record.instance_id == second.record.instance_id
    assert len(workshop.instances()) == 1


@pytest.mark.parametrize("remembers", [False, True], ids=["another host", "this host"])
@pytest.mark.parametrize(
    ("requested", "outcome", "told"),
    [
        ({"instance_type": "c5.large"}, Outcome.CONFLICT, "instance-type"),
        ({"instance_type": "c5.large", "instance_types": ("t3.micro",)}, Outcome.EXISTING, None),
        ({"run": "make"}, Outcome.EXISTING, "it may run another workload"),
    ],
)
async def test_what_ec2_shows_of_a_forgotten_machine_is_compared(
    workshop: Workshop,
    remembers: bool,
    requested: dict[str, Any],
    outcome: Outcome,
    told: str | None,
) -> None:
    """Found by the request's look-up, or by a worker that remembers its launch and looks at all machines first."""
    workshop.hurry(in_flight_s=0.0)
    async with AsyncExitStack() as first:
        await first.enter_async_context(workshop.working(quarantine_s=0.2))
        await workshop.request("one")
        if not remembers:
            await first.aclose()
        with workshop.server.client() as behind:
            behind.flushall()
        if not remembers:
            await first.enter_async_context(workshop.working())
        (view,) = await workshop.request("one", **requested)
        (again,) = await workshop.request("one", **requested)
        events = await workshop.client.events("one")

    assert (view.outcome, again.outcome) == (outcome, outcome)
    assert view.record
    assert (view.record.instance_type, len(workshop.instances())) == ("t3.micro", 1)
    notes = [view.row.message if view.row else None, *(event.detail.get("notice") for event in events)]
    assert told is None or any(note and told in note for note in notes)


async def test_what_redis_has_forgotten_counts_as_a_generation(workshop: Workshop) -> None:
    async with workshop.working():
        await ended(workshop)
    with workshop.server.client() as behind:
        behind.flushall()
    async with workshop.working():
        (view,) = await workshop.request("one")

    is_next_generation(workshop, view)


async def test_a_stopped_machine_is_neither_started_nor_replaced(workshop: Workshop) -> None:
    async with workshop.working():
        (view,) = await workshop.request("one")
        assert view.record
        workshop.ec2.stop_instances(InstanceIds=[view.record.instance_id])
        (failed,) = await workshop.client.wait(tags=["one"], wait=WaitFor.TERMINATED, timeout_s=120)

    assert failed.record
    assert failed.record.error
    assert failed.record.error.code == "InstanceStopped"
    assert "terminate it" in failed.record.error.message
    assert len(workshop.instances("stopped")) == 1


# -- ended -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"origin": Origin.UP}, {"origin": Origin.SUBMIT, "instance_type": "t3.small"}],
    ids=["same spec", "other spec"],
)
async def test_what_ended_without_a_workload_gets_the_next_generation(
    workshop: Workshop, fields: dict[str, Any]
) -> None:
    async with workshop.working():
        await ended(workshop)
        (view,) = await workshop.request("one", **fields)

    is_next_generation(workshop, view)


async def test_a_submitted_workload_that_succeeded_is_done(workshop: Workshop) -> None:
    async with workshop.working():
        await ended(workshop, Result.SUCCEEDED, run="make")
        (view,) = await workshop.request("one", origin=Origin.SUBMIT, run="make", retry_failed=True)

    assert view.outcome is Outcome.DONE
    assert workshop.instances("running") == []


async def test_a_submitted_workload_that_failed_is_skipped(workshop: Workshop) -> None:
    async with workshop.working():
        await ended(workshop, Result.FAILED, run="make")
        (view,) = await workshop.request("one", origin=Origin.SUBMIT, run="make")

    assert view.outcome is Outcome.SKIPPED
    assert view.reason
    assert "--retry-failed" in view.reason
    assert workshop.instances("running") == []


NEXT: dict[str, tuple[Result, dict[str, Any]]] = {
    "up after success": (Result.SUCCEEDED, {"origin": Origin.UP, "run": "make"}),
    "up after failure": (Result.FAILED, {"origin": Origin.UP, "run": "make"}),
    "other spec after failure": (Result.FAILED, {"origin": Origin.SUBMIT, "run": "make all"}),
    "other spec after success": (Result.SUCCEEDED, {"origin": Origin.SUBMIT, "run": "make all"}),
    "again after success": (Result.SUCCEEDED, {"origin": Origin.SUBMIT, "run": "make", "again": True}),
    "retry after failure": (Result.TIMED_OUT, {"origin": Origin.SUBMIT, "run": "make", "retry_failed": True}),
}


@pytest.mark.parametrize(("result", "fields"), NEXT.values(), ids=NEXT)
async def test_an_ended_workload_runs_once_more(workshop: Workshop, result: Result, fields: dict[str, Any]) -> None:
    async with workshop.working():
        await ended(workshop, result, run="make")
        (view,) = await workshop.request("one", **fields)

    is_next_generation(workshop, view)


async def test_a_generation_that_has_ended_keeps_its_row(workshop: Workshop) -> None:
    async with workshop.working():
        first = await workshop.client.submit(asked("one"))
        await workshop.client.wait(batch_id=first, tags=["one"], timeout_s=120)
        workshop.ec2.terminate_instances(InstanceIds=[i["InstanceId"] for i in workshop.instances()])
        await workshop.client.wait(tags=["one"], wait=WaitFor.TERMINATED, timeout_s=120)
        await workshop.request("one")
        _, (view,) = await workshop.client.batch(first)

    assert view.row
    assert (view.row.outcome, view.row.generation) == (Outcome.CREATED, 1)


async def test_every_further_address_reaches_a_machine_that_was_there(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one")
        await workshop.request("one", ssh_from=("198.51.100.0/24",))
        await until("both addresses are let in", lambda: let_in(workshop) == {"192.0.2.7/32", "198.51.100.0/24"})


@pytest.mark.parametrize("again", [{}, {"ssh_from": ("198.51.100.0/24",)}, {"ssh_from": ()}])
async def test_a_living_machine_that_lacks_the_group_gets_it_beside_its_own(
    workshop: Workshop, again: dict[str, Any]
) -> None:
    async with workshop.working():
        await workshop.request("one")
        (instance,) = workshop.instances()
        (ours,) = [group["GroupId"] for group in instance["SecurityGroups"]]
        other = workshop.ec2.create_security_group(GroupName="theirs", Description="-", VpcId=instance["VpcId"])
        workshop.ec2.modify_instance_attribute(InstanceId=instance["InstanceId"], Groups=[other["GroupId"]])
        await workshop.request("one", **again)
        await until(
            "it has both groups",
            lambda: {g["GroupId"] for g in workshop.instances()[0]["SecurityGroups"]} == {ours, other["GroupId"]},
        )


def let_in(shop: Workshop) -> set[str]:
    """What may reach port 22 through Puter's group."""
    (group,) = shop.ec2.describe_security_groups(GroupNames=["puter-v1-betty"])["SecurityGroups"]
    (rule,) = group["IpPermissions"]
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 22, 22)
    return {found["CidrIp"] for found in rule["IpRanges"]}


def asked(*tags: str, **fields: Any) -> list[MachineRequest]:
    return [MachineRequest(tag, spec(**fields)) for tag in tags]


# -- what a machine that exists has otherwise -------------------------------------------------------------------------


async def test_what_is_not_applied_to_a_machine_that_exists_is_told(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one")
        (view,) = await workshop.request("one", ttl_s=18_000, disk=500)

    assert view.outcome is Outcome.EXISTING
    assert view.to_json()["not_applied"] == ["disk", "ttl"]
    assert not view.has_other_key


async def test_a_machine_with_another_key_is_told_and_no_key_is_named_for_it(
    workshop: Workshop, tmp_path: Path
) -> None:
    key = tmp_path / "puter-v1.pem"
    key.touch()
    async with workshop.working():
        (first,) = await workshop.request("one", private_key_path=str(key))
        (view,) = await workshop.request("one", public_key=OTHER_KEY, private_key_path=str(key))

    assert f"-i {key}" in first.to_json()["ssh"]
    assert (view.outcome, view.has_other_key) == (Outcome.EXISTING, True)
    assert "-i" not in view.to_json()["ssh"] + view.to_json()["rsync"]


async def test_another_key_is_told_too_when_redis_had_forgotten_the_machine(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("first")  # its key has the common name; the next one's name tells whose it is
        await workshop.request("one", public_key=OTHER_KEY)
    with workshop.server.client() as behind:
        behind.flushall()
    async with workshop.working(quarantine_s=0.0):
        (view,) = await workshop.request("one")

    assert (view.outcome, view.has_other_key) == (Outcome.EXISTING, True)
