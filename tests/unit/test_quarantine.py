"""Whether a target may launch, by what its leader remembers and what Redis shows."""

from __future__ import annotations

import time
from typing import Any

import pytest

from puter_worker.memory import Epoch, Memory, Remembered
from puter_worker.stages import quarantine
from puter_worker.stages.quarantine import IN_FLIGHT_S, REMEMBERED_S, Quarantine

TARGET = "123456789012:us-east-1:"
QUARANTINE_S = 10.0
BEFORE, LATER, EMPTIED = Epoch("e1", 3), Epoch("e1", 4), Epoch("e2", 0)


class World:
    """A store that shows an epoch, a target with a name, and how often its machines were adopted."""

    def __init__(self, shown: Epoch) -> None:
        self.shown = shown
        self.adopted = 0
        self.now = 5_000.0

    async def epoch(self) -> Epoch:
        return self.shown

    def __str__(self) -> str:
        return TARGET


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(BEFORE)

    async def adopt_living(_store: object, _target: object) -> None:
        made.adopted += 1

    monkeypatch.setattr(quarantine, "adopt_living", adopt_living)
    monkeypatch.setattr("puter_worker.stages.quarantine.time.monotonic", lambda: made.now)
    return made


def gate_of(world: World, memory: Memory) -> Quarantine:
    of_world: Any = world
    return Quarantine(of_world, of_world, memory, quarantine_s=QUARANTINE_S)


def remembering(epoch: Epoch, launched_at: float = 0.0) -> Memory:
    memory = Memory(None)
    memory.keep(TARGET, Remembered(epoch, launched_at))
    return memory


async def test_who_never_saw_the_target_waits_for_nothing(world: World) -> None:
    gate = gate_of(world, Memory(None))

    assert await gate.open()
    assert (gate.epoch, world.adopted) == (BEFORE, 0)


async def test_a_redis_that_has_only_gone_on_keeps_nobody_waiting(world: World) -> None:
    gate = gate_of(world, remembering(BEFORE, time.time()))
    world.shown = LATER

    assert await gate.open()


async def test_an_emptied_redis_closes_the_gate(world: World) -> None:
    gate = gate_of(world, Memory(None))
    await gate.open()
    world.shown = EMPTIED

    assert not await gate.open()
    assert gate.epoch is None


async def test_a_redis_that_was_put_back_closes_the_gate(world: World) -> None:
    gate = gate_of(world, remembering(LATER, time.time()))

    assert not await gate.open()


async def emptied(world: World, launched_s_ago: float = 100.0) -> Quarantine:
    """The gate of a target that launched something before Redis was emptied, which it has just seen."""
    gate = gate_of(world, remembering(BEFORE, time.time() - launched_s_ago))
    world.shown = EMPTIED
    assert not await gate.open()
    return gate


async def test_the_gate_opens_after_the_quarantine_and_a_sweep(world: World) -> None:
    gate = await emptied(world)
    world.now += QUARANTINE_S

    assert await gate.open()
    assert (gate.epoch, world.adopted) == (EMPTIED, 1)


async def test_it_stays_closed_until_the_quarantine_is_over(world: World) -> None:
    gate = await emptied(world)
    world.now += QUARANTINE_S - 0.1

    assert not await gate.open()


@pytest.mark.parametrize("launched_s_ago", [0.0, 20.0])
async def test_it_stays_closed_while_a_launch_may_be_on_its_way_to_ec2(world: World, launched_s_ago: float) -> None:
    gate = await emptied(world, launched_s_ago)
    world.now += IN_FLIGHT_S - launched_s_ago + QUARANTINE_S - 1.0
    early = await gate.open()
    left_s = gate.left_s
    world.now += 1.1

    assert not early
    assert left_s == pytest.approx(1.0, abs=0.5)
    assert await gate.open()
    assert gate.left_s is None


async def test_once_open_it_does_not_wait_again(world: World) -> None:
    gate = await emptied(world)
    world.now += QUARANTINE_S
    await gate.open()

    assert await gate.open()
    assert world.adopted == 1


async def test_a_second_emptying_makes_it_wait_anew(world: World) -> None:
    gate = await emptied(world)
    world.now += QUARANTINE_S
    await gate.open()
    world.shown = Epoch("e3", 0)

    assert not await gate.open()


async def test_a_launch_of_long_ago_on_disk_is_found_by_look_ups_and_not_waited_for(world: World) -> None:
    gate = gate_of(world, remembering(LATER, time.time() - REMEMBERED_S - 1))

    assert await gate.open()


async def test_a_launch_of_just_now_on_disk_is_waited_for(world: World) -> None:
    gate = gate_of(world, remembering(LATER, time.time() - REMEMBERED_S + 60))

    assert not await gate.open()


async def test_a_launch_is_remembered_before_it_is_sent(world: World) -> None:
    memory = Memory(None)
    gate = gate_of(world, memory)
    await gate.open()

    gate.launched()

    known = memory.of(TARGET)
    assert known is not None
    assert time.time() - known.launched_at < 60
