"""The agent on machines that really boot: ends that come back, orders, deadlines, interruptions, kills."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.order import OrderKind
from puter_client.contract.phase import Phase
from puter_client.contract.result import Result
from puter_client.view import WaitFor
from puter_worker.ec2.frame import Frame, read_frame
from puter_worker.ec2.userdata import Boot, compose
from puter_worker.ec2.userdata import Machine as Member
from tests.integration.sim_workshop import SimWorkshop, eventually, in_groups
from tests.integration.test_launch_groups import by_launch
from tests.integration.workshop import spec
from tests.machine.image import UBUNTU
from tests.machine.machine import Machine
from tests.machine.world import MachineWorld

__all__ = ["in_groups"]

NONCE = "0123456789abcdef"
# It ends by SIGTERM only, with 7; what it leaves tells how often it began.
WAITS = 'trap "exit 7" TERM; echo begun >>"$HOME/ran"; echo begun; while :; do sleep 0.1; done'


def begun(machine: Machine) -> str:
    """What the workload has left in its home."""
    left = machine.disk / "home" / machine.image.user / "ran"
    return left.read_text() if left.exists() else ""


async def launched(world: MachineWorld, run: str, **boot: Any) -> Machine:
    """A machine that was launched without Puter's worker."""
    shared: dict[str, Any] = {"ttl_s": 7_200, "nonce": NONCE, "expires_at": "never", "user": "ec2-user"} | boot
    member = Member(key=PuterKey("alice", "job"), generation=1, run=run, env={}, user_data=None)
    options = {"HttpTokens": "required", "InstanceMetadataTags": "enabled"}
    [machine] = await world.launch(compose(Boot(**shared), [member]), MetadataOptions=options)
    return machine


def frame_of(world: MachineWorld, machine: Machine) -> Frame:
    """The end frame that EC2 shows after the end."""
    frame = read_frame(world.console(machine.name, latest=True), NONCE)
    assert frame is not None
    return frame


async def test_ends_come_back_into_records(sim_workshop: SimWorkshop, world: MachineWorld) -> None:
    runs = {"good": "echo fine", "bad": "echo oops >&2; exit 3", "killed": "kill -KILL $$"}
    async with sim_workshop.working(quiet_sweep_s=0.5):
        batch = await asyncio.gather(*(sim_workshop.submit(tag, run=run) for tag, run in runs.items()))
        views = [
            (await sim_workshop.client.wait(batch_id=one, tags=[tag], wait=WaitFor.FINISHED, timeout_s=240))[0]
            for one, tag in zip(batch, runs, strict=True)
        ]

    records = [view.record for view in views if view.record]
    assert [(record.result, record.exit_code) for record in records] == [
        (Result.SUCCEEDED, 0),
        (Result.FAILED, 3),
        (Result.FAILED, 137),
    ]
    assert [record.log_tail for record in records[:2]] == ["fine", "oops"]
    assert [record.phase for record in records] == [Phase.TERMINATED] * 3


@pytest.mark.usefixtures("in_groups")
async def test_each_machine_of_a_spot_launch_runs_its_own_workload(
    sim_workshop: SimWorkshop, world: MachineWorld
) -> None:
    codes = {"one": 0, "two": 3, "three": 75}
    asked = [
        MachineRequest(tag, spec(run=f'echo {tag} "$TAG"; exit {code}', env={"TAG": tag}, spot=True, docker=False))
        for tag, code in codes.items()
    ]
    async with sim_workshop.working(quiet_sweep_s=0.5):
        batch = await sim_workshop.client.submit(asked)
        views = await sim_workshop.client.wait(batch_id=batch, tags=list(codes), wait=WaitFor.FINISHED, timeout_s=240)

    records = {view.tag: view.record for view in views if view.record}
    assert {tag: (record.exit_code, record.log_tail) for tag, record in records.items()} == {
        tag: (code, f"{tag} {tag}") for tag, code in codes.items()
    }
    assert {record.member for record in records.values()} == {0, 1, 2}
    (launch,) = by_launch(await sim_workshop.seen())
    assert [one.spot for one in launch] == [True] * 3


async def test_orders_reach_a_machine_whose_agent_was_killed(sim_workshop: SimWorkshop, world: MachineWorld) -> None:
    sim_workshop.hurry(order_confirm_s=0.5)
    async with sim_workshop.working(quiet_sweep_s=0.5):
        [view] = await sim_workshop.request("job", run=WAITS)
        assert view.record
        assert view.record.expires_at
        machine = await world.machine(str(view.record.instance_id))
        await machine.until("the workload begins", partial(begun, machine))
        await machine.booted()
        await machine.kill("puter-agent.service")
        await sim_workshop.client.extend(["job"], add_s=7_200)

        async def confirmed() -> bool:
            record = await sim_workshop.record("job")
            return bool(record.order and record.order.kind is OrderKind.EXTEND and record.order.confirmed_at)

        await eventually("the extension is confirmed", confirmed, for_s=120)
        deadline = int(await machine.run("cat /var/lib/puter/deadline"))
        handles = await machine.run("atq | wc -l; systemctl is-active puter-deadline.timer || true")
        await sim_workshop.client.stop(["job"])
        [view] = await sim_workshop.client.wait(tags=["job"], wait=WaitFor.FINISHED, timeout_s=240)

    assert view.record
    assert abs(deadline - (view.record.expires_at or 0)) <= 1
    assert handles.split() == ["1", "inactive"]
    assert (view.record.result, view.record.exit_code) == (Result.STOPPED, 7)
    assert begun(machine) == "begun\n"


async def test_a_restart_interrupts_a_workload_and_does_not_run_it_again(world: MachineWorld) -> None:
    machine = await launched(world, WAITS)
    await machine.until("the workload begins", partial(begun, machine))
    await machine.booted()

    await machine.restart()  # which ends it as soon as its agent runs again
    await machine.ended()

    assert machine.boots == 2
    frame = frame_of(world, machine)
    assert (frame.result, frame.reason) == (Result.INTERRUPTED, "the machine was restarted")
    assert begun(machine) == "begun\n"


async def test_the_deadline_and_a_spot_notice_end_workloads_in_order(world: MachineWorld) -> None:
    late, taken = await asyncio.gather(launched(world, WAITS, ttl_s=90), launched(world, WAITS))
    await asyncio.gather(*(one.until("the workload begins", partial(begun, one)) for one in (late, taken)))
    world.spot_notice(taken.name)

    await asyncio.gather(late.ended(), taken.ended())

    frames = frame_of(world, late), frame_of(world, taken)
    assert [(frame.result, frame.exit_code) for frame in frames] == [(Result.TIMED_OUT, 7), (Result.INTERRUPTED, 7)]
    assert [begun(machine) for machine in (late, taken)] == ["begun\n"] * 2


async def test_without_any_network_a_workload_runs_and_its_end_comes_back(world: MachineWorld) -> None:
    world.network, world.packages = False, "unreachable"
    machine = await launched(world, "echo ran; exit 3", docker=False)

    await machine.ended()

    frame = frame_of(world, machine)
    assert (frame.result, frame.exit_code, frame.output) == (Result.FAILED, 3, "ran\n")


async def test_without_docker_and_with_another_user(world: MachineWorld) -> None:
    world.packages = "refused"
    refused = await launched(world, "echo ran")
    world.packages, world.image = "there", UBUNTU
    ubuntu = await launched(world, 'echo "$USER in $PWD"', docker=False, user="ubuntu")

    await asyncio.gather(refused.ended(), ubuntu.ended())

    frames = frame_of(world, refused), frame_of(world, ubuntu)
    assert [(frame.result, frame.exit_code) for frame in frames] == [(Result.FAILED, 69), (Result.SUCCEEDED, 0)]
    assert frames[0].reason == "did not run: Docker is not up"
    assert frames[1].output == "ubuntu in /home/ubuntu\n"
