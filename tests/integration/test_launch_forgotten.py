"""One key, several targets, and a Redis that has lost its data: real Valkey, simulated EC2, workers with a memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.os_image import Os
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.request import Origin
from puter_client.view import View, WaitFor
from tests.ec2sim.config import Fault
from tests.ec2sim.ledger import Entry
from tests.integration.sim_workshop import SimWorkshop, eventually, sim_url, sim_workshop
from tests.integration.workshop import spec

__all__ = ["sim_url", "sim_workshop"]

EAST, WEST = "us-east-1", "us-west-2"
MANY = [f"job-{n}" for n in range(30)]


async def asked(shop: SimWorkshop, *tags: str, **fields: object) -> list[View]:
    """Request machines, and wait until they run or cannot."""
    requests = [MachineRequest(tag, spec(**fields)) for tag in tags]
    batch = await shop.client.submit(requests, origin=Origin.UP)
    return await shop.client.wait(batch_id=batch, tags=tags, wait=WaitFor.RUNNING, timeout_s=120)


def lose_all(shop: SimWorkshop) -> None:
    """Redis loses its data."""
    with shop.server.client() as client:
        client.flushall()


@pytest.fixture(params=["a worker that begins after", "a worker that goes on"])
def host(request: pytest.FixtureRequest, sim_workshop: SimWorkshop, tmp_path: Path) -> Host:
    return Host(sim_workshop, tmp_path / "targets", goes_on="goes on" in request.param)


class Host:
    """A host with one worker at a time, which remembers its targets in the host's folder."""

    def __init__(self, shop: SimWorkshop, folder: Path, *, goes_on: bool) -> None:
        self.shop = shop
        self._settings: dict[str, Any] = {"memory_folder": folder, "quiet_sweep_s": 0.5}
        self._goes_on = goes_on
        self._working: Any = None

    async def __aenter__(self) -> Host:
        self._working = self.shop.working(**self._settings)
        await self._working.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._working.__aexit__(*error)

    async def loses_redis(self) -> None:
        """Redis loses its data while the worker runs, or while none does."""
        if not self._goes_on:
            await self.__aexit__(None, None, None)
        lose_all(self.shop)
        if not self._goes_on:
            await self.__aenter__()


async def test_a_key_that_redis_forgot_is_found_in_the_other_region(host: Host) -> None:
    async with host:
        await asked(host.shop, "twin", region=EAST)
        await host.loses_redis()
        (twin,) = await asked(host.shop, "twin", region=WEST)

    (living,) = await host.shop.living()
    assert twin.outcome is Outcome.CONFLICT
    assert "region" in (twin.reason or "")
    assert (living.region, twin.record and twin.record.instance_id) == (EAST, living.id)


async def test_it_is_found_again_where_it_is(host: Host) -> None:
    async with host:
        await asked(host.shop, "twin", region=EAST)
        await host.loses_redis()
        await asked(host.shop, "twin", region=WEST)
        (twin,) = await asked(host.shop, "twin", region=EAST)

    assert twin.outcome is Outcome.EXISTING
    await host.shop.one_each("twin")


async def test_a_machine_that_is_found_without_a_request_has_the_user_of_its_image(host: Host) -> None:
    async with host:
        await asked(host.shop, "twin", region=EAST, os=Os.DEBIAN_12)
        await host.loses_redis()
        (twin,) = await asked(host.shop, "twin", region=WEST)

    assert twin.outcome is Outcome.CONFLICT
    assert twin.record
    assert twin.record.ssh_user == "admin"


async def test_other_keys_are_launched_once_every_target_was_checked(host: Host) -> None:
    async with host:
        await asked(host.shop, *MANY[:10], region=EAST)
        await host.loses_redis()
        views = await asked(host.shop, *MANY, region=WEST)

    regions = {one.tags["puter:tag"]: one.region for one in await host.shop.living()}
    assert len(await host.shop.living()) == len(MANY)
    assert regions == {tag: EAST if tag in MANY[:10] else WEST for tag in MANY}
    assert [view.outcome for view in views] == [Outcome.CONFLICT] * 10 + [Outcome.CREATED] * 20


async def test_a_host_that_remembers_tells_one_that_does_not(sim_workshop: SimWorkshop, tmp_path: Path) -> None:
    async with sim_workshop.working(memory_folder=tmp_path / "here", quiet_sweep_s=0.5):
        await asked(sim_workshop, "twin", region=EAST)
    lose_all(sim_workshop)
    async with (
        sim_workshop.working(memory_folder=tmp_path / "here", quiet_sweep_s=0.5),
        sim_workshop.working(memory_folder=tmp_path / "there", quiet_sweep_s=0.5),
    ):
        (twin,) = await asked(sim_workshop, "twin", region=WEST)

    assert twin.outcome is Outcome.CONFLICT
    assert len(await sim_workshop.living()) == 1


async def test_while_a_remembered_target_cannot_be_checked_new_keys_wait_and_say_so(host: Host) -> None:
    """Its credentials have expired, for example; once they are renewed, all goes on."""
    async with host:
        await asked(host.shop, "twin", region=EAST)
        await host.shop.faults(Fault(action="DescribeInstances", region=EAST, code="RequestExpired"))
        await host.loses_redis()
        await host.shop.submit("twin", region=WEST)

        async def told() -> bool:
            reasons = await host.shop.reasons("twin")
            return any("Redis has lost data" in reason and EAST in reason for reason in reasons)

        await eventually("it says what it waits for", told)
        looked_here = len(await calls_in(host.shop, WEST))
        seen_there = len(await calls_in(host.shop, EAST))

        async def looked_there_again() -> bool:
            return len(await calls_in(host.shop, EAST)) >= seen_there + 5

        await eventually("the other region is asked again and again", looked_there_again)
        looked_again_here = len(await calls_in(host.shop, WEST)) - looked_here
        launched = len(await host.shop.living())
        await host.shop.faults()

        async def decided() -> bool:
            (record,) = await host.shop.records("twin")
            return record.phase is Phase.RUNNING

        await eventually("it is decided", decided)

    assert launched == 1
    assert looked_again_here <= 1  # by the sweep: the key itself is looked up only once the other region was checked
    assert len(await host.shop.living()) == 1


async def calls_in(shop: SimWorkshop, region: str) -> list[Entry]:
    """The look-ups in this region so far."""
    return [call for call in await shop.calls("DescribeInstances") if call.region == region]


async def test_a_target_that_nobody_may_check_stops_nobody_for_good(host: Host) -> None:
    async with host:
        await asked(host.shop, "one", region=EAST)
        await host.shop.faults(Fault(action="DescribeInstances", region=EAST, code="UnauthorizedOperation"))
        await host.loses_redis()
        (two,) = await asked(host.shop, "two", region=WEST)

    assert two.outcome is Outcome.CREATED


async def test_as_long_as_redis_knows_all_nothing_is_looked_for_elsewhere(
    sim_workshop: SimWorkshop, tmp_path: Path
) -> None:
    async with sim_workshop.working(memory_folder=tmp_path, quiet_sweep_s=3_600.0):
        await asked(sim_workshop, "one", region=EAST)
        before = await calls_in(sim_workshop, EAST)
        await asked(sim_workshop, *MANY, region=WEST)
        after = await calls_in(sim_workshop, EAST)

    assert len(after) - len(before) <= 2  # the machine there that has just started is looked at


@pytest.mark.parametrize("original_lives", [True, False])
async def test_a_copy_that_somebody_made_of_a_machine_is_not_taken_for_it(
    sim_workshop: SimWorkshop, original_lives: bool
) -> None:
    """ "Launch more like this" of EC2's console copies all tags."""
    async with sim_workshop.working(quarantine_s=0.0):
        await asked(sim_workshop, "one")
        (original,) = await sim_workshop.living()
        tags = [{"Key": key, "Value": value} for key, value in original.tags.items()]
        sim_workshop.ec2.run_instances(
            ImageId=original.image_id,
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )
        if not original_lives:
            await sim_workshop.sim.shut_down(original.id)
        lose_all(sim_workshop)
        (one,) = await asked(sim_workshop, "one")

    assert one.record
    assert (one.record.instance_id == original.id) == original_lives
    assert one.record.generation == (1 if original_lives else 2)


async def test_an_earlier_machine_that_has_ended_here_does_not_hide_the_one_that_lives_elsewhere(host: Host) -> None:
    async with host:
        await asked(host.shop, "twin", region=EAST)
        (first,) = await host.shop.living()
        await host.shop.sim.shut_down(first.id)

        async def has_ended() -> bool:
            (record,) = await host.shop.records("twin")
            return record.phase is Phase.TERMINATED

        await eventually("the first has ended", has_ended)
        await asked(host.shop, "twin", region=WEST)
        await host.shop.faults(Fault(action="DescribeInstances", region=WEST, code="RequestExpired", times=5))
        await host.loses_redis()
        (twin,) = await asked(host.shop, "twin", region=EAST)

    (living,) = await host.shop.living()
    assert (twin.outcome, living.region) == (Outcome.CONFLICT, WEST)
