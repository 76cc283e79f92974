"""Random groups of hostile workloads on machines that really boot: each runs its own, to the byte.

`make machine-test` boots one group, with PUTER_HOSTILE=long it boots ten.
"""

from __future__ import annotations

import asyncio
import random
from functools import partial

import pytest

from puter_client.contract.key import PuterKey
from puter_worker.ec2.userdata import Boot, Machine, compose
from tests.hostile.sizes import SEED, size
from tests.hostile.words import text
from tests.machine.machine import Machine as Booted
from tests.machine.world import MachineWorld

BOOT = Boot(ttl_s=7_200, nonce="0" * 16, expires_at="never", user="ec2-user")
END = "\n-- the end --\n"


def member(dice: random.Random, number: int, shared: str | None) -> tuple[Machine, str]:
    """A machine, and what its workload writes: variables and lines of hostile words."""
    value, lines = text(dice, 4), text(dice, 4)
    run = f"{{ printf %s \"$OWN\"; cat <<'ALL-OF-IT'\n{lines}\nALL-OF-IT\necho '-- the end --'; }} >>\"$HOME/ran\""
    machine = Machine(
        key=PuterKey("mallory", f"sweep-{number}"),
        generation=1,
        run=run,
        env={"OWN": value},
        user_data=shared,
        ends_with_workload=False,
    )
    return machine, f"{value}{lines}{END}"


def ran(machine: Booted) -> str:
    left = machine.disk / "home" / machine.image.user / "ran"
    written = left.read_bytes().decode() if left.exists() else ""
    return written if written.endswith(END) else ""


@pytest.mark.parametrize("number", range(size(1, 10)))
async def test_each_of_a_hostile_group_runs_its_own_workload(world: MachineWorld, number: int) -> None:
    print(f"hostile: PUTER_HOSTILE_SEED={SEED}")
    dice = random.Random(SEED + number)
    shared = dice.choice([None, "#!/bin/sh\ntrue\n", "#cloud-config\n{}\n"])
    group = [member(dice, place, shared) for place in range(2)]
    machines = await world.launch(compose(BOOT, [machine for machine, _ in group]), count=len(group))

    await asyncio.gather(*(each.until("has run its workload", partial(ran, each)) for each in machines))

    assert [ran(each) for each in machines] == [due for _, due in group]
