"""Requests that cannot be granted: each fails by itself, in AWS's words; what only the operator can mend waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.phase import Phase
from puter_client.contract.spec import Spec
from puter_client.view import View, WaitFor
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.calls import Caller
from puter_worker.errors import About, Ec2Error, Handling
from tests.integration.stage_world import redis_keeps_its_rules
from tests.integration.workshop import PATIENCE_S, Workshop, spec

__all__ = ["redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")


async def granted(shop: Workshop, specs: Mapping[str, Spec]) -> dict[str, View]:
    """One batch of these, waited for."""
    batch = await shop.client.submit([MachineRequest(tag, one) for tag, one in specs.items()])
    views = await shop.client.wait(batch_id=batch, tags=list(specs), timeout_s=120)
    return {view.tag: view for view in views}


async def test_what_cannot_be_launched_fails_alone(workshop: Workshop) -> None:
    async with workshop.working():
        views = await granted(
            workshop,
            {
                "good": spec(),
                "ami": spec(ami="ami-00000000000000bad"),
                "type": spec(instance_type="zz9.plural"),
                "profile": spec(profile="nobodys"),
                "subnet": spec(subnet="subnet-00000000000000bad"),
            },
        )

    assert views.pop("good").phase is Phase.RUNNING
    assert len(workshop.instances()) == 1
    errors = {tag: view.record.error for tag, view in views.items() if view.record and view.record.error}
    assert {tag: error.code for tag, error in errors.items()} == {
        "ami": "InvalidAMIID.NotFound",
        "type": "InvalidInstanceType",
        "profile": "ProfileMissing",
        "subnet": "InvalidSubnetID.NotFound",
    }
    assert "ami-00000000000000bad" in errors["ami"].message
    assert "zz9.plural" in errors["type"].message
    assert "'nobodys'" in errors["profile"].message
    assert "subnet-00000000000000bad" in errors["subnet"].message


Check = Callable[[Mapping[str, Any]], Ec2Error | None]


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """What is looked at before each RunInstances, as EC2 would and moto does not; all else goes to moto."""
    real, checks = ec2.run_instances, list[Check]()

    async def run_instances(caller: Caller, arguments: Mapping[str, Any]) -> Any:
        for check in checks:
            if (error := check(arguments)) is not None:
                raise error
        return await real(caller, arguments)

    monkeypatch.setattr(ec2, "run_instances", run_instances)
    return checks


async def test_a_missing_permission_fails_the_request_with_awss_own_words(
    workshop: Workshop, checks: list[Check]
) -> None:
    refused = Ec2Error("UnauthorizedOperation", "You are not authorized.", request_id="4711")
    checks.append(lambda arguments: refused if arguments["InstanceType"] == "t3.small" else None)
    async with workshop.working():
        views = await granted(workshop, {"good": spec(), "bad": spec(instance_type="t3.small")})
        events = await workshop.client.events("bad")

    assert views["good"].phase is Phase.RUNNING
    bad = views["bad"].record
    assert bad
    assert bad.error
    assert (bad.phase, bad.error.code, bad.error.request_id) == (Phase.FAILED, "UnauthorizedOperation", "4711")
    assert bad.error.message == "You are not authorized."
    assert events[-1].request_id == "4711"


async def test_without_credentials_a_request_waits_and_says_how_to_sign_in(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "testing"
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with workshop.working():
        waiting = asyncio.Event()

        def look(views: Any) -> None:
            if any("aws sso login" in (view.reason or "") for view in views):
                waiting.set()

        batch = await workshop.client.submit([MachineRequest("one", spec())])
        granted = asyncio.create_task(workshop.client.wait(batch_id=batch, tags=["one"], timeout_s=120, on_change=look))
        await asyncio.wait_for(waiting.wait(), PATIENCE_S)
        before = await workshop.record("one")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", secret)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
        (view,) = await granted

    assert before.phase is Phase.RESOLVING
    assert before.error is None
    assert view.phase is Phase.RUNNING
    assert len(workshop.instances()) == 1


async def test_credentials_that_expire_before_the_launch_are_waited_for(
    workshop: Workshop, checks: list[Check]
) -> None:
    expired = Ec2Error("RequestExpired", "expired: sign in (such as `aws sso login`)", handling=Handling.CREDENTIALS)
    checks.append(lambda _: expired)
    async with workshop.working():
        waiting = asyncio.Event()

        def look(views: Any) -> None:
            if any("aws sso login" in (view.reason or "") for view in views):
                waiting.set()

        batch = await workshop.client.submit([MachineRequest("one", spec())])
        granted = asyncio.create_task(workshop.client.wait(batch_id=batch, tags=["one"], timeout_s=120, on_change=look))
        await asyncio.wait_for(waiting.wait(), PATIENCE_S)
        checks.clear()
        (view,) = await granted

    assert view.phase is Phase.RUNNING
    assert len(workshop.instances()) == 1


async def test_a_key_pair_that_was_deleted_is_made_again(workshop: Workshop, checks: list[Check]) -> None:
    def held(arguments: Mapping[str, Any]) -> Ec2Error | None:
        names = [pair["KeyName"] for pair in workshop.ec2.describe_key_pairs()["KeyPairs"]]
        return (
            None if arguments["KeyName"] in names else Ec2Error("InvalidKeyPair.NotFound", "gone", about=About.KEY_PAIR)
        )

    checks.append(held)
    async with workshop.working():
        await workshop.request("one")
        workshop.ec2.delete_key_pair(KeyName="puter-v1-betty")
        (view,) = await workshop.request("two")

    assert view.phase is Phase.RUNNING, view.reason


async def test_a_group_that_was_deleted_is_made_again(workshop: Workshop, checks: list[Check]) -> None:
    def held(arguments: Mapping[str, Any]) -> Ec2Error | None:
        ids = {group["GroupId"] for group in workshop.ec2.describe_security_groups()["SecurityGroups"]}
        gone = Ec2Error("InvalidGroup.NotFound", "gone", handling=Handling.JUST_MADE, about=About.GROUP)
        return None if ids.issuperset(arguments["SecurityGroupIds"]) else gone

    checks.append(held)
    async with workshop.working():
        (view,) = await workshop.request("one")
        assert view.record
        workshop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])
        await workshop.client.wait(tags=["one"], wait=WaitFor.TERMINATED, timeout_s=120)
        workshop.ec2.delete_security_group(GroupName="puter-v1-betty")
        (view,) = await workshop.request("two")

    assert view.phase is Phase.RUNNING, view.reason
