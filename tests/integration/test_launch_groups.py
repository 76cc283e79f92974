"""Groups: many machines with one call, each with its own workload, labelled at the pace that EC2 allows."""

from __future__ import annotations

import gzip
import random
import shlex
import subprocess
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.request import Origin
from puter_client.view import WaitFor
from puter_worker.ec2.tags import own_tags
from puter_worker.rates import INSTANCES, Bucket
from puter_worker.stages import label as label_stage
from puter_worker.stages import launch_unit
from puter_worker.stages.launch_unit import LaunchUnit, UnitLauncher
from puter_worker.stages.plan import Unit
from puter_worker.store import names
from tests.ec2sim.config import Fault
from tests.ec2sim.reports import Seen
from tests.integration.sim_workshop import (
    SPEED,
    TARGET,
    SimWorkshop,
    eventually,
    in_groups,
    sim_url,
    sim_workshop,
)
from tests.integration.test_userdata_cloudinit import READ, SYSTEM_PYTHON, Arrived, needs_cloud_init
from tests.integration.workshop import spec

__all__ = ["in_groups", "sim_url", "sim_workshop"]

SLOWLY = 2.0
TAGS = [f"job-{n}" for n in range(200)]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


async def submit_workloads(shop: SimWorkshop, runs: dict[str, str], **fields: Any) -> str:
    """Request a machine for each of these workloads."""
    asked = [MachineRequest(tag, spec(run=run, **fields)) for tag, run in runs.items()]
    return await shop.client.submit(asked, origin=Origin.SUBMIT)


def by_launch(seen: list[Seen]) -> list[list[Seen]]:
    """The machines of each call."""
    launches: dict[str, list[Seen]] = defaultdict(list)
    for one in seen:
        launches[one.reservation_id].append(one)
    return list(launches.values())


def tasks(folder: Path, user_data: bytes, indexes: list[int]) -> dict[int, str]:
    """What cloud-init hands each machine of a launch to run, by launch index; '' if not just one task."""
    (folder / "user-data").write_bytes(user_data)
    count = str(max(indexes) + 1)
    read = subprocess.run([SYSTEM_PYTHON, "-c", READ, folder, count], capture_output=True, text=True, check=True)
    found: dict[int, str] = {}
    for index, line in enumerate(read.stdout.splitlines()):
        own = [part.text for part in msgspec.json.decode(line, type=list[Arrived]) if part.name == "000-puter-4-task"]
        found[index] = own[0] if len(own) == 1 else ""
    return {index: found[index] for index in indexes}


async def each_has_its_own(shop: SimWorkshop, folder: Path, runs: dict[str, str]) -> None:
    """Each machine runs the workload of the tag that it bears."""
    needs_cloud_init()
    for of_one_call in by_launch(await shop.seen()):
        own = tasks(folder, of_one_call[0].user_data, [one.launch_index for one in of_one_call])
        for one in of_one_call:
            tag = one.tags["puter:tag"]
            assert f"task betty/{tag} 1 shutdown {shlex.quote(runs[tag])}\n" in own[one.launch_index]


async def all_labelled(shop: SimWorkshop, *tags: str) -> None:
    async def labelled() -> bool:
        return all(record.labelled for record in await shop.records(*tags))

    await eventually("every machine bears its own tags", labelled)


# -- what a launch consists of ---


async def test_two_hundred_of_two_workers_are_launched_in_groups_with_no_call_refused(
    sim_workshop: SimWorkshop, tmp_path: Path
) -> None:
    # In quick motion the headroom of the pacer's buckets is milliseconds, less than this process stands still at times.
    await sim_workshop.sim.configure(speed=SLOWLY)
    sim_workshop.rates = sim_workshop.rates.faster(SLOWLY / SPEED)
    sim_workshop.hurry(arrives_s=50.0)
    runs = {tag: f"render {tag}" for tag in TAGS}
    async with sim_workshop.working(), sim_workshop.working():
        batch = await submit_workloads(sim_workshop, runs)
        await sim_workshop.client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.LAUNCHED, timeout_s=120)
        await all_labelled(sim_workshop, *TAGS)

    assert await sim_workshop.refused("RequestLimitExceeded") == 0
    assert len(await sim_workshop.calls("RunInstances")) < len(TAGS) / 4
    await sim_workshop.one_each(*TAGS)
    await each_has_its_own(sim_workshop, tmp_path, runs)


@pytest.mark.usefixtures("in_groups")
async def test_every_machine_of_a_group_bears_the_tags_of_its_key(sim_workshop: SimWorkshop) -> None:
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS[:20], wait=WaitFor.LAUNCHED)
        await all_labelled(sim_workshop, *TAGS[:20])

    ids = {record.tag: record.instance_id for record in await sim_workshop.records(*TAGS[:20])}
    for one in await sim_workshop.living():
        tag = one.tags["puter:tag"]
        assert one.id == ids[tag]
        assert one.tags["Name"] == f"puter/betty/{tag}"
        assert (one.tags["puter:generation"], one.tags["puter:labelled"]) == ("1", "yes")


async def test_as_many_as_there_are_tokens_are_launched_singly_with_all_tags_at_birth(
    sim_workshop: SimWorkshop,
) -> None:
    async with sim_workshop.working():
        await sim_workshop.request("one", "two", "three", wait=WaitFor.LAUNCHED)
        records = await sim_workshop.records("one", "two", "three")

    assert [call.params["MaxCount"] for call in await sim_workshop.calls("RunInstances")] == ["1"] * 3
    assert await sim_workshop.calls("CreateTags") == []
    assert [record.labelled for record in records] == [True] * 3
    assert {one.tags["puter:tag"] for one in await sim_workshop.living()} == {"one", "two", "three"}


@pytest.mark.usefixtures("in_groups")
async def test_a_group_never_holds_machines_of_two_namespaces(sim_workshop: SimWorkshop) -> None:
    carol = sim_workshop.client_of("carol")
    async with sim_workshop.working():
        ours = await sim_workshop.submit(*TAGS[:20])
        theirs = await sim_workshop.submit(*TAGS[:20], client=carol)
        await sim_workshop.client.wait(batch_id=ours, tags=TAGS[:20], wait=WaitFor.LAUNCHED, timeout_s=120)
        await carol.wait(batch_id=theirs, tags=TAGS[:20], wait=WaitFor.LAUNCHED, timeout_s=120)

    launches = by_launch(await sim_workshop.living())
    assert sum(map(len, launches)) == 40
    assert [len({one.tags["puter:namespace"] for one in launch}) for launch in launches] == [1] * len(launches)


@pytest.mark.usefixtures("in_groups")
async def test_what_is_alone_shares_its_user_data_with_no_other(sim_workshop: SimWorkshop) -> None:
    tags, alone = TAGS[:30], TAGS[3:9]
    asked = [MachineRequest(tag, spec(run="pay", env={"TOKEN": tag}, alone=tag in alone)) for tag in tags]
    async with sim_workshop.working():
        batch = await sim_workshop.client.submit(asked, origin=Origin.SUBMIT)
        await sim_workshop.client.wait(batch_id=batch, tags=tags, wait=WaitFor.LAUNCHED, timeout_s=120)
        await all_labelled(sim_workshop, *tags)

    launches = by_launch(await sim_workshop.living())
    together = {one.tags["puter:tag"]: len(of_one_call) for of_one_call in launches for one in of_one_call}
    assert [together[tag] for tag in alone] == [1] * len(alone)
    assert max(together.values()) > 1
    await sim_workshop.one_each(*tags)


@pytest.mark.usefixtures("in_groups")
async def test_nobodys_user_data_is_launched_with_anothers(sim_workshop: SimWorkshop) -> None:
    own = {tag: (None, "#!/bin/sh\n# anna's\n", "#!/bin/sh\n# betty's\n")[n % 3] for n, tag in enumerate(TAGS[:24])}
    asked = [MachineRequest(tag, spec(run=f"render {tag}", user_data=text)) for tag, text in own.items()]
    async with sim_workshop.working():
        batch = await sim_workshop.client.submit(asked, origin=Origin.SUBMIT)
        await sim_workshop.client.wait(batch_id=batch, tags=list(own), wait=WaitFor.LAUNCHED, timeout_s=120)
        await all_labelled(sim_workshop, *own)

    launches = by_launch(await sim_workshop.seen())
    assert [len({own[one.tags["puter:tag"]] for one in launch}) for launch in launches] == [1] * len(launches)
    assert max(map(len, launches)) > 1
    for launch in launches:
        (text,) = {own[one.tags["puter:tag"]] for one in launch}
        told = decoded(launch[0].user_data)
        assert {other for other in own.values() if other and other.encode() in told} == {text} - {None}
    await sim_workshop.one_each(*own)


def decoded(user_data: bytes) -> bytes:
    return gzip.decompress(user_data) if user_data.startswith(b"\x1f\x8b") else user_data


# -- what does not fit into one call ---


@pytest.mark.usefixtures("in_groups")
async def test_a_group_whose_user_data_does_not_fit_is_launched_in_parts(
    sim_workshop: SimWorkshop, tmp_path: Path
) -> None:
    dice = random.Random(1)
    runs = {tag: "render " + "".join(dice.choices(LETTERS, k=3_000)) for tag in TAGS[:24]}
    async with sim_workshop.working():
        batch = await submit_workloads(sim_workshop, runs)
        await sim_workshop.client.wait(batch_id=batch, tags=list(runs), wait=WaitFor.LAUNCHED, timeout_s=120)
        await all_labelled(sim_workshop, *runs)

    await sim_workshop.one_each(*runs)
    assert max(map(len, by_launch(await sim_workshop.living()))) > 1
    await each_has_its_own(sim_workshop, tmp_path, runs)


@pytest.mark.usefixtures("in_groups")
async def test_parts_of_a_group_cost_no_more_of_the_budget_than_their_machines(sim_workshop: SimWorkshop) -> None:
    dice = random.Random(1)
    runs = {tag: "render " + "".join(dice.choices(LETTERS, k=3_000)) for tag in TAGS[:24]}
    sim_workshop.set_bucket(INSTANCES, Bucket(500, 0.001))
    async with sim_workshop.working():
        batch = await submit_workloads(sim_workshop, runs)
        await sim_workshop.client.wait(batch_id=batch, tags=list(runs), wait=WaitFor.LAUNCHED, timeout_s=120)

    with sim_workshop.server.client() as behind:
        left = behind.hget(names.bucket(TARGET[:12], "us-east-1", INSTANCES), "tokens")
    assert left is not None
    assert float(left) >= 500 - 24


@pytest.mark.usefixtures("in_groups")
async def test_a_group_whose_tags_do_not_fit_is_launched_in_parts(sim_workshop: SimWorkshop) -> None:
    dice = random.Random(2)
    tags = ["".join(dice.choices(LETTERS, k=120)) for _ in range(60)]
    async with sim_workshop.working():
        await sim_workshop.request(*tags, wait=WaitFor.LAUNCHED)
        await all_labelled(sim_workshop, *tags)

    await sim_workshop.one_each(*tags)
    ids = {record.tag: record.instance_id for record in await sim_workshop.records(*tags)}
    assert {one.tags["puter:tag"]: one.id for one in await sim_workshop.living()} == ids


@pytest.mark.usefixtures("in_groups")
async def test_a_workload_that_fits_no_machine_fails_alone(sim_workshop: SimWorkshop) -> None:
    dice = random.Random(3)
    run, own = ("".join(dice.choices(LETTERS, k=15_000)) for _ in range(2))
    asked = [MachineRequest(tag, spec(run=f"render {tag}")) for tag in TAGS[:12]]
    asked.append(MachineRequest("large", spec(run=run, user_data=f"#!/bin/sh\n# {own}\n")))
    async with sim_workshop.working():
        batch = await sim_workshop.client.submit(asked)
        tags = [one.tag for one in asked]
        await sim_workshop.client.wait(batch_id=batch, tags=tags, wait=WaitFor.LAUNCHED, timeout_s=120)

    (large,) = await sim_workshop.records("large")
    assert large.error is not None
    assert (large.phase, large.error.code) == (Phase.FAILED, "UserDataTooLarge")
    await sim_workshop.one_each(*TAGS[:12])


@pytest.mark.usefixtures("in_groups")
@pytest.mark.parametrize("step", ["prepare", "open_intent"])
async def test_a_key_that_cannot_be_composed_holds_up_nobody(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    owner: Any = UnitLauncher if step == "open_intent" else launch_unit
    whole = getattr(owner, step)

    async def broken(of: Any, launch: Any, *given: Any) -> Any:
        unit: Unit = launch.unit if isinstance(launch, LaunchUnit) else launch
        if any(one.key.tag == "odd" for one in unit):
            raise RuntimeError("nobody has thought of this")
        return await whole(of, launch, *given)

    async def told() -> bool:
        why = "an internal error in Puter (RuntimeError) prevents its launch, see the worker's log"
        return any(why in reason for reason in await sim_workshop.reasons("odd"))

    monkeypatch.setattr(owner, step, broken)
    sim_workshop.hurry(launch_again_s=60.0)
    with capture_logs() as logs:  # to show its tracebacks takes seconds
        async with sim_workshop.working():
            await sim_workshop.submit(*TAGS[:6], "odd", *TAGS[6:12])
            await sim_workshop.client.wait(tags=TAGS[:12], wait=WaitFor.LAUNCHED, timeout_s=120)
            await eventually("it is told", told)
            (odd,) = await sim_workshop.records("odd")

    assert (odd.phase, odd.error) == (Phase.LAUNCHING, None)
    assert "launch.not_composed" in {line["event"] for line in logs}
    await sim_workshop.one_each(*TAGS[:12])


# -- labels ---


@pytest.mark.usefixtures("in_groups")
async def test_a_machine_is_usable_before_it_bears_its_own_tags(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="CreateTags", code="InternalError"))
    async with sim_workshop.working():
        views = await sim_workshop.request(*TAGS[:8], wait=WaitFor.RUNNING)
        await sim_workshop.faults()
        await all_labelled(sim_workshop, *TAGS[:8])

    before = [view.record for view in views if view.record]
    assert [record.labelled for record in before] == [False] * 8
    assert all(record.public_dns_name for record in before)


@pytest.mark.usefixtures("in_groups")
async def test_a_newborn_that_cannot_be_tagged_yet_is_tagged_later(sim_workshop: SimWorkshop) -> None:
    lag_s = 3_600.0
    await sim_workshop.sim.configure(create_tags_lag_s=(lag_s, lag_s))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS[:8], wait=WaitFor.LAUNCHED)

        async def refused() -> bool:
            return await sim_workshop.refused("InvalidInstanceID.NotFound") > 0

        await eventually("a tag was refused", refused)
        await sim_workshop.sim.advance(lag_s)
        await all_labelled(sim_workshop, *TAGS[:8])


@pytest.mark.usefixtures("in_groups")
async def test_a_policy_that_cannot_see_the_newborns_tags_yet_is_asked_again(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="CreateTags", code="UnauthorizedOperation", times=8))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS[:8], wait=WaitFor.LAUNCHED)
        await all_labelled(sim_workshop, *TAGS[:8])


@pytest.mark.usefixtures("in_groups")
async def test_a_label_that_meets_a_defect_holds_up_no_other(
    sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def some_own_tags(key: PuterKey, generation: int, member: int | None) -> dict[str, str]:
        if key.tag == TAGS[3]:
            raise RuntimeError("nobody has thought of this")
        return own_tags(key, generation, member)

    monkeypatch.setattr(label_stage, "own_tags", some_own_tags)
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS[:8], wait=WaitFor.LAUNCHED)
        await all_labelled(sim_workshop, *TAGS[:3], *TAGS[4:8])
        (odd,) = await sim_workshop.records(TAGS[3])

    assert not odd.labelled


@pytest.mark.usefixtures("in_groups")
async def test_labels_that_are_too_fast_for_ec2_slow_down_and_are_written(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="CreateTags", code="RequestLimitExceeded", times=5))
    async with sim_workshop.working():
        await sim_workshop.request(*TAGS[:12], wait=WaitFor.LAUNCHED)
        await all_labelled(sim_workshop, *TAGS[:12])

    with sim_workshop.server.client() as behind:
        assert behind.hexists(names.bucket(TARGET[:12], "us-east-1", "CreateTags"), "slow_until")


# -- addresses ---


async def test_an_address_that_comes_after_its_machine_runs_is_told_soon(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.sim.configure(address_s=[1.0, 1.0])
    async with sim_workshop.working(quiet_sweep_s=3_600.0) as worker:
        (view,) = await sim_workshop.request("one")

        async def told() -> bool:
            (record,) = await sim_workshop.records("one")
            return record.public_ip is not None

        async def started() -> bool:
            return not await worker.store.activity.any_starting()

        await eventually("its address is told", told)
        await eventually("it is no longer looked at so often", started)

    assert view.record
    assert view.record.public_ip is None


async def test_an_address_that_does_not_come_is_not_waited_for_long(sim_workshop: SimWorkshop) -> None:
    sim_workshop.hurry(address_s=1.0)
    await sim_workshop.sim.configure(address_s=[3_600.0, 3_600.0])
    async with sim_workshop.working(quiet_sweep_s=3_600.0) as worker:
        await sim_workshop.request("one")

        async def started() -> bool:
            return not await worker.store.activity.any_starting()

        await eventually("it is no longer looked at so often", started)
