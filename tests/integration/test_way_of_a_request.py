"""One request, from submit to the end of its machine, looking at what EC2 holds."""

from __future__ import annotations

from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.view import WaitFor
from tests.integration.workshop import Workshop


async def test_a_request_becomes_a_running_machine_with_an_address(workshop: Workshop) -> None:
    async with workshop.working():
        (view,) = await workshop.request("one")

    assert view.outcome is Outcome.CREATED
    assert view.record is not None
    assert view.record.phase is Phase.RUNNING
    (instance,) = workshop.instances("running")
    assert view.record.instance_id == instance["InstanceId"]
    assert view.record.public_dns_name == instance["PublicDnsName"]


async def test_the_same_request_again_finds_the_same_machine(workshop: Workshop) -> None:
    async with workshop.working():
        (first,) = await workshop.request("one")
        (second,) = await workshop.request("one")

    assert second.outcome is Outcome.EXISTING
    assert first.record is not None
    assert second.record is not None
    assert first.record.instance_id == second.record.instance_id
    assert len(workshop.instances()) == 1


async def test_a_machine_that_ends_itself_ends_its_record(workshop: Workshop) -> None:
    async with workshop.working():
        (view,) = await workshop.request("one")
        assert view.record is not None
        assert view.record.instance_id
        workshop.ec2.terminate_instances(InstanceIds=[view.record.instance_id])
        (ended,) = await workshop.client.wait(tags=["one"], wait=WaitFor.TERMINATED, timeout_s=120)

    assert ended.record is not None
    assert ended.record.phase is Phase.TERMINATED
    assert ended.record.ended_at is not None
