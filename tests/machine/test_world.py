"""The bed itself: instances of the simulator are machines, and what they do is what EC2 shows."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.machine.machine import Machine
from tests.machine.world import MachineWorld

SCRIPT = b"#!/bin/sh\nprintf 'boot data \\377\\n' >/dev/console\n"
SPOT: dict[str, Any] = {"InstanceMarketOptions": {"MarketType": "spot"}}
TAGS_IN_METADATA: dict[str, Any] = {"MetadataOptions": {"HttpTokens": "required", "InstanceMetadataTags": "enabled"}}


def curl(path: str) -> str:
    """A shell command that asks the metadata service as a machine does."""
    base = "http://169.254.169.254/latest"
    token = f"$(curl -sf -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' {base}/api/token)"
    return f'curl -s -w " %{{http_code}}" -H "X-aws-ec2-metadata-token: {token}" {base}/meta-data/{path}'


async def shown_latest(world: MachineWorld, machine: Machine, text: str) -> None:
    """Return once GetConsoleOutput has this with `Latest`."""
    await machine.until(f"shows {text} to EC2", lambda: text in world.console(machine.name, latest=True))


async def test_the_console_is_read_live_and_without_latest_as_posted_after_boot_reboot_and_end(
    world: MachineWorld,
) -> None:
    [machine] = await world.launch(SCRIPT)
    await machine.booted()
    await machine.until("is posted", lambda: "boot data" in world.console(machine.name, latest=False))

    await machine.run("echo live words >/dev/console")
    await shown_latest(world, machine, "live words")
    assert "live words" not in world.console(machine.name, latest=False)

    await machine.reboot()
    assert "live words" in world.console(machine.name, latest=False)

    await machine.run("echo last words >/dev/console")
    await machine.shut_down()
    assert "last words" in world.console(machine.name, latest=False)
    assert (await world.seen(machine.name)).state == "terminated"


async def test_a_machine_knows_from_its_metadata_what_ec2_is_told_while_it_runs(world: MachineWorld) -> None:
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "puter:managed", "Value": "true"}]}]
    [machine] = await world.launch(SCRIPT, TagSpecifications=tags, **SPOT, **TAGS_IN_METADATA)
    await machine.booted()
    assert await machine.run(curl("instance-id")) == f"{machine.name} 200"
    assert await machine.run(curl("tags/instance/puter:managed")) == "true 200"
    assert (await machine.run(curl("tags/instance/puter:member"))).endswith(" 404")
    assert (await machine.run(curl("spot/instance-action"))).endswith(" 404")

    world.set_tag(machine.name, "puter:member", "17")
    notice = world.spot_notice(machine.name)

    assert await machine.run(curl("tags/instance/puter:member")) == "17 200"
    assert await machine.run(curl("spot/instance-action")) == f'{{"action":"terminate","time":"{notice.time}"}} 200'

    await world.interrupt(machine.name)
    await machine.ended()
    assert (await world.seen(machine.name)).state_reason == "Server.SpotInstanceTermination"


async def test_machines_side_by_side_see_nothing_of_each_other(world: MachineWorld) -> None:
    machines = await world.launch(SCRIPT, count=2)
    await asyncio.gather(*(machine.booted() for machine in machines))

    assert [await machine.run(curl("ami-launch-index")) for machine in machines] == ["0 200", "1 200"]
    await machines[0].run("systemd-run --quiet --unit=only-here sleep infinity")
    groups = "find /sys/fs/cgroup -name only-here.service | wc -l"
    assert [await machine.run(groups) for machine in machines] == ["1\n", "0\n"]
    await machines[0].shut_down()
    assert await machines[1].run("systemctl is-active dbus") == "active\n"
