"""What user data does on a machine that really boots: own workload, own end."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_worker.ec2.userdata import Boot, compose
from puter_worker.ec2.userdata import Machine as Member
from tests.integration.sim_workshop import SimWorkshop, eventually
from tests.machine.image import UBUNTU
from tests.machine.machine import Machine
from tests.machine.world import MachineWorld

# Longer than any test takes, and shorter.
LONG_S, SHORT_S = 7_200, 30


def member(tag: str, **fields: Any) -> Member:
    own: dict[str, Any] = {"run": None, "env": {}, "user_data": None, "ends_with_workload": False} | fields
    return Member(key=PuterKey("alice", tag), generation=1, **own)


def boot(ttl_s: int) -> Boot:
    return Boot(ttl_s=ttl_s, nonce="0123456789abcdef", expires_at="never", user="ec2-user")


def user_data(ttl_s: int) -> bytes:
    return compose(boot(ttl_s), [member("job")])


def ran(machine: Machine) -> str:
    """What its workload has left in its home; empty until then."""
    left = machine.disk / "home" / machine.image.user / "ran"
    return left.read_text() if left.exists() else ""


def state(machine: Machine, name: str) -> str:
    return (machine.disk / "var/lib/puter" / name).read_text().strip()


async def test_each_of_a_group_runs_its_own_workload_and_no_others(world: MachineWorld) -> None:
    group = [member(tag, run=f'echo {tag} "$OWN" >>"$HOME/ran"', env={"OWN": tag * 2}) for tag in ("a", "b", "c")]
    machines = await world.launch(compose(boot(LONG_S), group), count=3)

    await asyncio.gather(*(each.until("runs its workload", partial(ran, each)) for each in machines))
    await asyncio.gather(*(each.booted() for each in machines))

    assert [ran(each) for each in machines] == ["a aa\n", "b bb\n", "c cc\n"]


async def test_a_machine_that_a_worker_launched_runs_its_workload_and_its_end_is_seen(
    sim_workshop: SimWorkshop, world: MachineWorld
) -> None:
    async with sim_workshop.working():
        [view] = await sim_workshop.request("job", run='echo done >>"$HOME/ran"', on_exit="keep")
        assert view.record is not None
        machine = await world.machine(str(view.record.instance_id))
        await machine.until("runs its workload", partial(ran, machine))
        await machine.booted()

        await machine.shut_down()

        async def seen_to_end() -> bool:
            return (await sim_workshop.record("job")).phase is Phase.TERMINATED

        await eventually("the record says that it ended", seen_to_end)
    assert ran(machine) == "done\n"


async def test_at_holds_the_deadline_and_a_reboot_changes_neither(world: MachineWorld) -> None:
    [machine] = await world.launch(user_data(LONG_S))
    await machine.booted()
    held = "cat /var/lib/puter/deadline; atq; systemctl is-active atd; systemctl is-active puter-deadline.timer || true"
    before = await machine.run(held)

    await machine.reboot()

    assert await machine.run(held) == before
    deadline, job, *services = before.splitlines()
    assert services == ["active", "inactive"]
    assert (deadline, job.split()[0]) == (state(machine, "deadline"), state(machine, "at-job"))
    assert "\nshutdown -h now\n" in await machine.run(f"at -c {job.split()[0]}")
    # `at` drops seconds: its job is at the next whole minute.
    minute = -(-int(deadline) // 60) * 60
    assert await machine.run("date -d \"$(atq | cut -f 2 | sed 's/ a root$//')\" +%s") == f"{minute}\n"


async def test_with_no_package_to_be_had_the_timer_alone_ends_the_machine(world: MachineWorld) -> None:
    world.packages = "unreachable"
    [machine] = await world.launch(user_data(SHORT_S))

    await machine.ended()

    seen = await world.seen(machine.name)
    assert (seen.state, seen.state_reason) == ("terminated", "Client.InstanceInitiatedShutdown")
    assert not (machine.disk / "var/lib/puter/at-job").exists()
    assert seen.ended_at is not None
    assert seen.ended_at >= int(state(machine, "deadline"))


async def test_an_image_whose_user_is_ubuntu_boots_with_that_user_and_its_package_manager(world: MachineWorld) -> None:
    world.image = UBUNTU
    [machine] = await world.launch(b"#!/bin/sh\napt-get install -y docker.io at\necho user: $(id -un ubuntu)\n")

    await machine.console_shows("user: ubuntu\r\n")
    await machine.booted()

    await machine.run("systemctl start docker atd && docker version")
    assert await machine.run(". /etc/os-release && echo $ID") == "ubuntu\n"
    assert await machine.run("command -v dnf yum || true") == ""
