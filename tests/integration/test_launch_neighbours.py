"""What EC2 refuses to one request holds up only those that the refusal is about: real Valkey, simulated EC2."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.store import names as public
from puter_client.view import WaitFor
from puter_worker.store import names
from tests.ec2sim.config import Fault
from tests.integration.sim_workshop import TARGET, SimWorkshop, eventually, sim_url, sim_workshop

__all__ = ["sim_url", "sim_workshop"]

SPOT, ON_DEMAND = ("InstanceMarketOptions.MarketType", "spot"), ("InstanceMarketOptions.MarketType", "")
WHY = "The requested configuration is currently not supported. Please check the documentation."
ZONE_LACKS_IT = (
    "Your requested instance type (t3.micro) is not supported in your requested Availability Zone (us-east-1a). "
    "Please retry your request by not specifying an Availability Zone or choosing us-east-1b."
)
MANY = [f"job-{n}" for n in range(40)]


def refuses(code: str, *params: tuple[str, str], message: str | None = None) -> Fault:
    """EC2 refuses launches with these parameters."""
    return Fault(action="RunInstances", code=code, message=message, params=params)


# The refusal; a request that meets it; the neighbours' request, which does not.
NEIGHBOURS = [
    (refuses("InsufficientInstanceCapacity", SPOT), {"spot": True}, {}),
    (refuses("InsufficientInstanceCapacity", ON_DEMAND), {}, {"spot": True}),
    (refuses("InsufficientInstanceCapacity", ("InstanceType", "t3.micro")), {}, {"instance_type": "t3.small"}),
    (refuses("MaxSpotInstanceCountExceeded", SPOT), {"spot": True}, {}),
    (refuses("VcpuLimitExceeded", ("InstanceType", "g4dn.*")), {"instance_type": "g4dn.xlarge"}, {}),
    (refuses("InstanceLimitExceeded", ("InstanceType", "t3.micro")), {}, {"instance_type": "t3.small"}),
    (refuses("VolumeLimitExceeded", ("BlockDeviceMapping.1.Ebs.VolumeSize", "16000")), {"disk": 16_000}, {"disk": 20}),
]  # fmt: skip


@pytest.mark.parametrize(("fault", "refused", "others"), NEIGHBOURS, ids=lambda value: getattr(value, "code", None))
async def test_who_is_not_meant_by_a_refusal_does_not_wait_for_it(
    sim_workshop: SimWorkshop, fault: Fault, refused: dict[str, Any], others: dict[str, Any]
) -> None:
    """Another namespace's machines, requested after the refusal, are all launched; and at the first call for each."""
    await sim_workshop.faults(fault)
    neighbour = sim_workshop.client_of("bob")
    async with sim_workshop.working():
        await sim_workshop.submit("first", **refused)
        await eventually("EC2 has refused it", lambda: is_refused(sim_workshop, str(fault.code)))
        batch = await sim_workshop.submit(*MANY, client=neighbour, **others)
        views = await neighbour.wait(batch_id=batch, tags=MANY, wait=WaitFor.LAUNCHED, timeout_s=120)
        (first,) = await sim_workshop.records("first")

    assert {view.phase for view in views} <= {Phase.PENDING, Phase.RUNNING}
    assert first.phase is Phase.LAUNCHING
    launched = [call for call in await sim_workshop.calls("RunInstances") if call.code == "OK"]
    assert sum(len(call.effect) for call in launched) == len(MANY)


async def test_zones_that_cannot_be_read_take_no_call_for_each_launch(sim_workshop: SimWorkshop) -> None:
    """They are read beside the stage, and by who needs them: a machine that is tried without a zone first does not."""
    sim_workshop.hurry(launch_again_s=60.0, no_capacity_s=60.0)
    await sim_workshop.faults(
        refuses("InsufficientInstanceCapacity", ("InstanceType", "t2.micro")),
        Fault(action="DescribeSubnets", code="InternalError"),
    )
    neighbour = sim_workshop.client_of("bob")
    async with sim_workshop.working():
        await sim_workshop.submit("first", instance_type="t2.micro")
        await eventually("EC2 has refused it", lambda: is_refused(sim_workshop, "InsufficientInstanceCapacity"))
        for tag in MANY[:10]:
            batch = await sim_workshop.submit(tag, client=neighbour)
            await neighbour.wait(batch_id=batch, wait=WaitFor.LAUNCHED, timeout_s=120)

    assert len(await sim_workshop.calls("DescribeSubnets")) <= 2  # after the refusal, and by the stage


async def is_refused(shop: SimWorkshop, code: str) -> bool:
    return await shop.refused(code) > 0


async def test_on_demand_machines_are_launched_while_spot_has_no_capacity_in_any_zone(
    sim_workshop: SimWorkshop,
) -> None:
    """Two markets, two namespaces, both with requests that come again and again."""
    await sim_workshop.sim.configure(capacity=[{"market": "spot", "slots": 0}])
    neighbour = sim_workshop.client_of("bob")
    async with sim_workshop.working():
        await sim_workshop.submit(*MANY, spot=True)
        await eventually("Spot has no capacity", lambda: is_refused(sim_workshop, "InsufficientInstanceCapacity"))
        for start in range(0, len(MANY), 10):
            some = MANY[start : start + 10]
            batch = await sim_workshop.submit(*some, client=neighbour)
            await neighbour.wait(batch_id=batch, tags=some, wait=WaitFor.LAUNCHED, timeout_s=120)
        reasons = await sim_workshop.reasons(*MANY)

    assert len(await sim_workshop.living()) == len(MANY)
    assert not any(one.spot for one in await sim_workshop.living())
    on_its_way = {"waiting for launch", "launching in EC2"}
    assert all(reason in on_its_way or reason.startswith("no Spot capacity for t3.micro") for reason in reasons)


async def test_what_is_not_supported_at_all_fails_at_once_in_ec2s_words(sim_workshop: SimWorkshop) -> None:
    image = sim_workshop.ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    await sim_workshop.faults(refuses("Unsupported", ("ImageId", image), message=WHY))
    async with sim_workshop.working():
        batch = await sim_workshop.submit("odd", ami=image)
        (odd,) = await sim_workshop.client.wait(batch_id=batch, tags=["odd"], wait=WaitFor.LAUNCHED, timeout_s=120)
        batch = await sim_workshop.submit(*MANY)
        await sim_workshop.client.wait(batch_id=batch, tags=MANY, wait=WaitFor.LAUNCHED, timeout_s=120)

    assert (odd.phase, odd.reason) == (Phase.FAILED, WHY)
    assert await sim_workshop.refused("Unsupported") == 1
    await sim_workshop.one_each(*MANY)


async def test_a_zone_that_lacks_a_type_is_gone_round(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(
        Fault(action="RunInstances", code="Unsupported", message=ZONE_LACKS_IT, times=1),
    )
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED)
        told = [event.reason or "" for event in await sim_workshop.told("one")]

    await sim_workshop.one_each("one")
    assert any("t3.micro is not offered there (Unsupported)" in reason for reason in told)


async def test_a_full_subnet_is_full_for_every_type(sim_workshop: SimWorkshop) -> None:
    first, second, *_ = subnets(sim_workshop)
    await sim_workshop.faults(
        refuses("InsufficientFreeAddressesInSubnet", ("NetworkInterface.1.SubnetId", first)),
        refuses("InsufficientFreeAddressesInSubnet", ("SubnetId", first)),
    )
    sim_workshop.hurry(no_capacity_s=60.0)
    async with sim_workshop.working():
        await sim_workshop.request("one", wait=WaitFor.LAUNCHED, subnet=first, subnets=(second,))
        batch = await sim_workshop.submit("two", instance_type="t3.small", subnet=first, subnets=(second,))
        await sim_workshop.client.wait(batch_id=batch, tags=["two"], wait=WaitFor.LAUNCHED, timeout_s=120)

    assert {one.subnet_id for one in await sim_workshop.living()} == {second}
    assert await sim_workshop.refused("InsufficientFreeAddressesInSubnet") == 1


async def test_one_machine_that_asks_for_too_much_fails_and_groups_are_split(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(refuses("ResourceCountExceeded", ("MaxCount", "1"), message="too many"))
    async with sim_workshop.working():
        batch = await sim_workshop.submit("one")
        (one,) = await sim_workshop.client.wait(batch_id=batch, tags=["one"], wait=WaitFor.LAUNCHED, timeout_s=120)

    assert (one.phase, one.reason) == (Phase.FAILED, "too many")


@pytest.mark.parametrize("slots", [0, 3])
async def test_both_markets_fill_up_by_themselves(sim_workshop: SimWorkshop, slots: int) -> None:
    await sim_workshop.sim.configure(capacity=[{"market": "spot", "slots": slots}, {"market": "on-demand", "slots": 5}])
    subnet, *_ = subnets(sim_workshop)
    async with sim_workshop.working():
        await asyncio.gather(
            sim_workshop.submit(*MANY[:20], spot=True, subnet=subnet),
            sim_workshop.submit(*MANY[20:], subnet=subnet),
        )

        async def full() -> bool:
            living = await sim_workshop.living()
            return (sum(one.spot for one in living), sum(not one.spot for one in living)) == (slots, 5)

        await eventually("both are full", full)


def subnets(shop: SimWorkshop) -> list[str]:
    """The default VPC's subnets."""
    found = shop.ec2.describe_subnets(Filters=[{"Name": "default-for-az", "Values": ["true"]}])["Subnets"]
    return [one["SubnetId"] for one in found]


async def test_a_namespace_that_cannot_be_read_does_not_hold_up_the_launches_of_others(
    sim_workshop: SimWorkshop,
) -> None:
    """What Redis does not give of one namespace is looked at again later; whoever comes meanwhile is launched."""
    async with sim_workshop.working():
        first = await sim_workshop.submit("first")
        await sim_workshop.client.wait(batch_id=first, wait=WaitFor.LAUNCHED, timeout_s=120)
        with sim_workshop.server.client() as behind, capture_logs() as lines:
            unreadable = PuterKey("a", "bad")
            behind.set(public.record(unreadable), "not a hash")
            behind.zadd(names.launch_queue(TARGET, "a"), {"bad": 1})
            behind.sadd(names.launch_queues(TARGET), "a")
            for tag in ("second", "third"):
                batch = await sim_workshop.submit(tag)
                (view,) = await sim_workshop.client.wait(
                    batch_id=batch, tags=[tag], wait=WaitFor.LAUNCHED, timeout_s=120
                )
                assert view.record
                assert view.record.instance_id

    told = [line for line in lines if line["event"] == "launch.unreadable"]
    assert {line["namespace"] for line in told} == {"a"}
