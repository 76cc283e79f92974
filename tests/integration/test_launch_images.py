"""Images that a request names: what is not Amazon Linux is launched all the same, and its owner is told."""

from __future__ import annotations

from structlog.testing import capture_logs

from puter_client.contract.phase import Phase
from puter_client.view import WaitFor
from tests.ec2sim.config import Fault
from tests.ec2sim.images import CANONICAL
from tests.integration.sim_workshop import SimWorkshop, sim_url, sim_workshop

__all__ = ["sim_url", "sim_workshop"]

UNDESCRIBED = Fault(action="DescribeImages", code="UnauthorizedOperation")


def image_of(shop: SimWorkshop, owner: str) -> str:
    """The id of an image of this owner's."""
    found = shop.ec2.describe_images(Owners=[owner], Filters=[{"Name": "architecture", "Values": ["x86_64"]}])
    return str(found["Images"][0]["ImageId"])


async def notices(shop: SimWorkshop, tag: str) -> list[str]:
    """What the tag's timeline tells its owner besides what happened."""
    return [notice for event in await shop.told(tag) if (notice := event.detail.get("notice"))]


async def test_an_image_of_another_system_is_launched_with_a_note(sim_workshop: SimWorkshop) -> None:
    ubuntu = image_of(sim_workshop, CANONICAL)
    with capture_logs() as logs:
        async with sim_workshop.working():
            views = await sim_workshop.request("one", "two", ami=ubuntu, wait=WaitFor.LAUNCHED)

    assert [view.record and view.record.ami_id for view in views] == [ubuntu, ubuntu]
    note = (
        f"image {ubuntu} ('ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64', of account {CANONICAL}) is not Amazon "
        "Linux, the only system that Puter supports: Docker, the workload and ssh as ec2-user will probably not work"
    )
    assert [await notices(sim_workshop, tag) for tag in ("one", "two")] == [[note], [note]]
    (line,) = [line for line in logs if line["event"] == "image.not_amazon_linux"]
    assert (line["image_id"], line["owner_id"], line["log_level"]) == (ubuntu, CANONICAL, "warning")
    assert len(await sim_workshop.calls("DescribeImages")) == 2  # this test's own, and one for both machines


async def test_an_image_of_amazon_linux_is_launched_without_a_note(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        await sim_workshop.request("one", ami=image_of(sim_workshop, "amazon"), wait=WaitFor.LAUNCHED)

    assert await notices(sim_workshop, "one") == []


async def test_without_the_permission_to_describe_it_a_named_image_is_launched(sim_workshop: SimWorkshop) -> None:
    ubuntu = image_of(sim_workshop, CANONICAL)
    await sim_workshop.faults(UNDESCRIBED)
    async with sim_workshop.working():
        (view,) = await sim_workshop.request("one", ami=ubuntu, wait=WaitFor.LAUNCHED)

    assert view.record
    assert (view.record.ami_id, view.record.error) == (ubuntu, None)
    assert await notices(sim_workshop, "one") == []


async def test_without_that_permission_the_disk_of_a_named_image_cannot_be_sized(sim_workshop: SimWorkshop) -> None:
    ubuntu = image_of(sim_workshop, CANONICAL)
    await sim_workshop.faults(UNDESCRIBED)
    async with sim_workshop.working():
        (view,) = await sim_workshop.request("one", ami=ubuntu, disk=30, wait=WaitFor.LAUNCHED)

    assert view.record
    assert view.record.error
    assert (view.phase, view.record.error.code) == (Phase.FAILED, "UnusableImage")
    assert "may not call DescribeImages" in view.record.error.message
