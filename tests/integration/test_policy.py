"""A policy in workers: what is asked again before a launch, and of what is known already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from puter_client.client import MachineRequest
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.request import Origin
from puter_client.view import WaitFor
from puter_worker.store import names
from puter_worker.worker import Worker
from tests.ec2sim.config import Fault
from tests.integration.sim_workshop import SimWorkshop, eventually, sim_url, sim_workshop
from tests.integration.stage_world import time_passes
from tests.integration.workshop import spec

__all__ = ["sim_url", "sim_workshop"]

ALL: dict[str, str] = {
    "default_credentials": "true",
    "regions": '["*"]',
    "instance_types": '["*"]',
    "images": '["al2023"]',
    "ssh_from_ipv4_prefix": "32",
    "ssh_from_count": "5",
    "longest_ttl": '"2h"',
    "most_machines": '"unlimited"',
    "most_vcpus": '"unlimited"',
    "most_machines_an_hour": '"unlimited"',
    "most_requests": '"unlimited"',
    "most_records": '"unlimited"',
}


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """A worker's setting: a policy with these rules, beside ALL."""

    def made(**rules: str) -> dict[str, Any]:
        path = tmp_path / "policy.toml"
        lines = [f"{name} = {value}" for name, value in (ALL | rules).items()]
        new = path.with_suffix(".new")
        new.write_text("\n".join(['[namespaces."*"]', *lines, ""]))
        new.replace(path)
        return {"policy_file": path}

    return made


def refusals(logs: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, int]]]:
    """The namespaces and reasons of what the log says was refused."""
    return [(line["namespace"], line["why"]) for line in logs if line["event"] == "requests.refused"]


async def an_image(shop: SimWorkshop) -> tuple[str, str]:
    """An image of Canonical's that the simulator has, and its owner."""
    image, *_ = shop.ec2.describe_images(
        Owners=["099720109477"], Filters=[{"Name": "architecture", "Values": ["x86_64"]}]
    )["Images"]
    return image["ImageId"], image["OwnerId"]


@pytest.mark.parametrize(("owner", "ok"), [("099720109477", True), ("self", False), ("amazon", False)])
async def test_an_images_owner_is_asked_before_the_launch(
    sim_workshop: SimWorkshop, policy: Any, owner: str, ok: bool
) -> None:
    ami, of = await an_image(sim_workshop)
    with capture_logs() as logs:

        async def is_told() -> bool:
            return ok or bool(refusals(logs))

        async with sim_workshop.working(**policy(image_owners=f'["{owner}"]')):
            (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED, ami=ami)
            await eventually("the log tells of the refusal", is_told)

    assert view.record is not None
    assert view.outcome is Outcome.CREATED
    if ok:
        assert view.record.error is None
        return
    assert view.record.error is not None
    assert (view.record.phase, view.record.error.code) == (Phase.FAILED, "PolicyRefused")
    assert f"image {ami} of account {of} (rule images; allowed: al2023; images of {owner})" in view.record.error.message
    assert refusals(logs) == [("betty", {"policy: images": 1})]
    told = [line["examples"] for line in logs if line["event"] == "requests.refused"]
    assert told == [{"policy: images": view.record.error.message}]
    (failed,) = [line for line in logs if line["event"] == "puter.failed"]
    assert failed["message"] == view.record.error.message
    assert await sim_workshop.calls("RunInstances") == []


async def test_an_image_whose_owner_cannot_be_read_is_refused(sim_workshop: SimWorkshop, policy: Any) -> None:
    ami, _ = await an_image(sim_workshop)
    await sim_workshop.faults(Fault(action="DescribeImages", code="UnauthorizedOperation"))
    async with sim_workshop.working(**policy(image_owners='["099720109477"]')):
        (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED, ami=ami)

    assert view.record is not None
    assert view.record.error is not None
    assert f"image {ami} of an unknown owner" in view.record.error.message


async def in_force(worker: Worker, rule: str, value: Any) -> bool:
    allowed = worker.rules.of("betty")
    return allowed is not None and allowed.values[rule] == value


async def test_what_waits_for_its_launch_is_refused_by_a_policy_that_has_become_stricter(
    sim_workshop: SimWorkshop, policy: Any
) -> None:
    sim_workshop.hurry(policy_s=0.05)
    async with sim_workshop.working(**policy(most_machines="1")) as worker:
        await sim_workshop.request("first", wait=WaitFor.LAUNCHED)
        batch = await sim_workshop.submit("one", spot=False)

        async def waits() -> bool:
            return any("policy rule most_machines" in reason for reason in await sim_workshop.reasons("one"))

        await eventually("it waits", waits)
        policy(instance_types='["c7i.*"]')
        await eventually("the policy is read", lambda: in_force(worker, "instance_types", ("c7i.*",)))
        (view,) = await sim_workshop.client.wait(batch_id=batch, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=120)
        (again,) = await sim_workshop.request("first", wait=WaitFor.LAUNCHED)

    assert view.record is not None
    assert view.record.error is not None
    assert "instance type t3.micro (rule instance_types; allowed: c7i.*)" in view.record.error.message
    assert again.outcome is Outcome.EXISTING, "what exists is not asked for its type"


@pytest.mark.parametrize(
    ("asked", "rule"),
    [
        ({"ssh_from": ("10.0.0.0/8",)}, "ssh_from"),
        ({"ssh_from": tuple(f"192.0.2.{n}/32" for n in range(6))}, "ssh_from_count"),
    ],
)
async def test_of_a_machine_that_exists_is_asked_who_may_reach_it(
    sim_workshop: SimWorkshop, policy: Any, asked: dict[str, Any], rule: str
) -> None:
    async with sim_workshop.working(**policy()):
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED)
        (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED, **asked)

    assert view.outcome is Outcome.REFUSED
    assert view.row is not None
    assert f"(rule {rule}; " in (view.row.message or "")


async def test_a_region_that_nobody_named_is_asked_when_it_is_known(sim_workshop: SimWorkshop, policy: Any) -> None:
    async with sim_workshop.working(**policy(regions='["eu-*"]')):
        (view,) = await sim_workshop.request("one", wait=WaitFor.LAUNCHED, region=None)

    assert view.record is not None
    assert view.record.error is not None
    assert "region us-east-1 (rule regions; allowed: eu-*)" in view.record.error.message
    assert {call.action for call in await sim_workshop.sim.ledger()} <= {"GetCallerIdentity"}


async def test_without_the_right_to_read_types_a_limit_of_vcpus_lets_nothing_through_and_says_why(
    sim_workshop: SimWorkshop, policy: Any
) -> None:
    await sim_workshop.faults(Fault(action="DescribeInstanceTypes", code="UnauthorizedOperation"))
    async with sim_workshop.working(**policy(most_vcpus="8")):
        await sim_workshop.submit("one")

        async def told() -> bool:
            return any("DescribeInstanceTypes, which the policy rule most_vcpus needs" in reason
                       for reason in await sim_workshop.reasons("one"))  # fmt: skip

        await eventually("it says why", told)
    assert await sim_workshop.living() == []


@pytest.mark.parametrize("rule", ["most_machines", "most_vcpus", "most_machines_an_hour", "most_requests"])
async def test_what_waits_is_refused_by_a_limit_that_lets_nothing_through_any_more(
    sim_workshop: SimWorkshop, policy: Any, rule: str
) -> None:
    """No machine's end and no hour's would make room for it."""
    sim_workshop.hurry(policy_s=0.05)
    async with sim_workshop.working(**policy(most_machines="1")) as worker:
        await sim_workshop.request("first", wait=WaitFor.LAUNCHED)
        batch = await sim_workshop.submit("one")

        async def waits() -> bool:
            return any("policy rule most_machines" in why for why in await sim_workshop.reasons("one"))

        await eventually("it waits", waits)
        policy(**{rule: "0"})
        await eventually("the policy is read", lambda: in_force(worker, rule, 0))
        (view,) = await sim_workshop.client.wait(batch_id=batch, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=120)

    assert view.record is not None
    assert view.record.error is not None
    assert f"(rule {rule}; allowed: nothing)" in view.record.error.message


async def open_to(shop: SimWorkshop) -> set[str]:
    """The networks that any security group lets in."""
    return {
        one.get("CidrIp") or one["CidrIpv6"]
        for group in shop.ec2.describe_security_groups()["SecurityGroups"]
        for rule in group["IpPermissions"]
        for one in (*rule["IpRanges"], *rule["Ipv6Ranges"])
    }


async def test_a_request_that_finds_an_ended_machine_opens_nothing_for_the_next_one(
    sim_workshop: SimWorkshop, policy: Any
) -> None:
    """Of what has ended nobody asks the policy, so nothing of the request may be kept."""
    rules = policy()
    async with sim_workshop.working(**rules):
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED, origin=Origin.SUBMIT, run="true")
        (first,) = await sim_workshop.living()
        await sim_workshop.sim.shut_down(first.id)

        async def ended() -> bool:
            return (await sim_workshop.record("one")).phase is Phase.TERMINATED

        await eventually("it has ended", ended)
    asked = await sim_workshop.submit("one", origin=Origin.SUBMIT, run="true", ssh_from=("0.0.0.0/0",))
    async with sim_workshop.working(**rules):
        await sim_workshop.request("one", wait=WaitFor.RUNNING, run="true")
        (_, (found,)) = await sim_workshop.client.batch(asked)
        await eventually("no rule is left to be added", lambda: nothing_to_open(sim_workshop))

    assert found.row is not None
    assert found.row.outcome is Outcome.EXISTING
    assert await open_to(sim_workshop) == {"192.0.2.7/32"}


async def nothing_to_open(shop: SimWorkshop) -> bool:
    with shop.server.client() as behind:
        return not behind.exists(names.INGRESS)


async def test_what_redis_has_forgotten_of_a_machine_makes_its_life_no_longer(
    sim_workshop: SimWorkshop, policy: Any
) -> None:
    rules = policy()  # longest_ttl is 2 h
    async with sim_workshop.working(**rules):
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED, ttl_s=3_600)
    with sim_workshop.server.client() as behind:
        behind.flushall()
    sim_workshop.redis_ahead_s = 600.0  # the machine has lived for ten minutes
    async with sim_workshop.working(**rules):
        batch = await sim_workshop.client.submit([MachineRequest("one", spec(ttl_s=7_200), given=("ttl",))])
        (view,) = await sim_workshop.client.wait(batch_id=batch, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=120)

    assert (view.outcome, view.row and view.row.not_applied) == (Outcome.EXISTING, ("ttl",))
    assert view.record is not None
    assert view.record.order is None


async def test_networks_that_are_not_let_in_yet_are_asked_of_a_policy_that_has_become_stricter(
    sim_workshop: SimWorkshop, policy: Any
) -> None:
    sim_workshop.hurry(policy_s=0.05)
    with capture_logs() as logs:

        async def is_told() -> bool:
            return bool(refusals(logs))

        await asked_beside_a_stricter_policy(sim_workshop, policy, is_told)

    assert await open_to(sim_workshop) == {"192.0.2.7/32"}
    assert refusals(logs) == [("betty", {"policy: ssh_from": 1})]


async def asked_beside_a_stricter_policy(
    sim_workshop: SimWorkshop, policy: Any, is_told: Callable[[], Awaitable[bool]]
) -> None:
    """Networks are requested for a key that waits; then the policy becomes stricter, and the machine is launched."""
    async with sim_workshop.working(**policy(most_machines="1", ssh_from_ipv6_prefix="64")) as worker:
        await sim_workshop.request("first", wait=WaitFor.LAUNCHED)
        batch = await sim_workshop.submit("one")
        (joined,) = await sim_workshop.request("one", wait=WaitFor.QUEUED, ssh_from=("192.0.2.7/32", "2001:db8::/64"))
        assert joined.outcome is Outcome.JOINED
        policy()
        await eventually("the policy is read", lambda: in_force(worker, "ssh_from_ipv6_prefix", 0))
        await sim_workshop.client.wait(batch_id=batch, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=120)
        time_passes(sim_workshop)
        await eventually("no rule is left to be added", lambda: nothing_to_open(sim_workshop))
        await eventually("the log tells of the refusal", is_told)
