"""Whether a target may launch, by what its leader remembers and what Redis shows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from puter_worker.clock import Clock
from puter_worker.ec2.answers import Instances
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.tags import GENERATION, MANAGED, NAMESPACE, TAG_TAG, encode_manifest
from puter_worker.memory import Epoch, Memory, Remembered
from puter_worker.policy import Rules
from puter_worker.stages.quarantine import Quarantine, launches_since
from puter_worker.timings import Timings

TARGET = "123456789012:us-east-1:"
QUARANTINE_S = 10.0
TIMINGS = Timings()
BEFORE, LATER, EMPTIED = Epoch("e1", 3), Epoch("e1", 4), Epoch("e2", 0)
STARTED_AT = 1_800_000_000.0


class HandClock(Clock):
    """Clocks that are set by hand: so many seconds have passed."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def host_now(self) -> float:
        return STARTED_AT + self.passed_s

    now = host_now

    def monotonic(self) -> float:
        return 5_000.0 + self.passed_s


class Epochs:
    """Of a store: how far a Redis shows to have got."""

    def __init__(self, shown: Epoch) -> None:
        self.shown = shown

    async def read(self) -> Epoch:
        return self.shown


class Unsure:
    """Of a store: which targets workers have noted because Redis has lost something of them."""

    def __init__(self) -> None:
        self.noted: set[str] = set()

    async def all(self) -> set[str]:
        return self.noted

    async def remove(self, target: str) -> None:
        self.noted.discard(target)


class World:
    """A store that shows an epoch, a target with a name, and how often its machines were looked through."""

    def __init__(self, shown: Epoch) -> None:
        self.epochs = Epochs(shown)
        self.unsure = Unsure()
        self.clock = HandClock()
        self.adopted = 0
        self.caller = self
        self.rules = Rules()

    async def pages(self, *_: object, **__: object) -> AsyncIterator[Instances]:
        """What EC2 has of Puter's: nothing. Called once for each look."""
        self.adopted += 1
        yield Instances()

    def now(self) -> float:
        """The time."""
        return self.clock.now()

    async def assigned(self, shown: object) -> object:
        """The same: there are no Spot machines."""
        return shown

    async def ssh_users(self, _: object) -> dict[str, str]:
        """Nobody's."""
        return {}

    def __str__(self) -> str:
        return TARGET


@pytest.fixture
def world() -> World:
    return World(BEFORE)


def gate_of(world: World, memory: Memory) -> Quarantine:
    of_world: Any = world
    return Quarantine(of_world, of_world, memory, clock=world.clock, timings=TIMINGS, quarantine_s=QUARANTINE_S)


def remembering(epoch: Epoch, launched_s_ago: float = STARTED_AT) -> Memory:
    memory = Memory(None, clock=HandClock())
    memory.keep(TARGET, Remembered(epoch, STARTED_AT - launched_s_ago))
    return memory


async def test_who_never_saw_the_target_waits_for_nothing(world: World) -> None:
    gate = gate_of(world, Memory(None, clock=HandClock()))

    assert await gate.open()
    assert (gate.epoch, world.adopted) == (BEFORE, 0)


async def test_a_redis_that_has_only_gone_on_keeps_nobody_waiting(world: World) -> None:
    gate = gate_of(world, remembering(BEFORE, 0.0))
    world.epochs.shown = LATER

    assert await gate.open()


async def test_an_emptied_redis_closes_the_gate(world: World) -> None:
    gate = gate_of(world, Memory(None, clock=HandClock()))
    await gate.open()
    world.epochs.shown = EMPTIED

    assert not await gate.open()
    assert gate.epoch is None


async def test_a_redis_that_was_put_back_closes_the_gate(world: World) -> None:
    gate = gate_of(world, remembering(LATER, 0.0))

    assert not await gate.open()


async def emptied(world: World, launched_s_ago: float = 100.0) -> Quarantine:
    """The gate of a target that launched something before Redis was emptied, which it has just seen."""
    gate = gate_of(world, remembering(BEFORE, launched_s_ago))
    world.epochs.shown = EMPTIED
    assert not await gate.open()
    return gate


async def test_the_gate_opens_after_the_quarantine_and_a_sweep(world: World) -> None:
    gate = await emptied(world)
    world.clock.passed_s += QUARANTINE_S

    assert await gate.open()
    assert (gate.epoch, world.adopted) == (EMPTIED, 1)


async def test_it_stays_closed_until_the_quarantine_is_over(world: World) -> None:
    gate = await emptied(world)
    world.clock.passed_s += QUARANTINE_S - 0.1

    assert not await gate.open()


@pytest.mark.parametrize("launched_s_ago", [0.0, 20.0])
async def test_it_stays_closed_while_a_launch_may_be_on_its_way_to_ec2(world: World, launched_s_ago: float) -> None:
    gate = await emptied(world, launched_s_ago)
    world.clock.passed_s += TIMINGS.in_flight_s - launched_s_ago + QUARANTINE_S - 1.0
    early = await gate.open()
    left_s = gate.left_s
    world.clock.passed_s += 1.1

    assert not early
    assert left_s == pytest.approx(1.0)
    assert await gate.open()
    assert gate.left_s is None


async def test_what_another_worker_remembers_keeps_a_leader_waiting_that_does_not(world: World) -> None:
    gate = gate_of(world, Memory(None, clock=world.clock))
    world.unsure.noted = {TARGET}
    early = await gate.open()
    world.clock.passed_s += TIMINGS.in_flight_s + QUARANTINE_S

    assert not early
    assert await gate.open()
    assert (world.adopted, world.unsure.noted) == (1, set())


async def test_once_open_it_does_not_wait_again(world: World) -> None:
    gate = await emptied(world)
    world.clock.passed_s += QUARANTINE_S
    await gate.open()

    assert await gate.open()
    assert world.adopted == 1


async def test_a_second_emptying_makes_it_wait_anew(world: World) -> None:
    gate = await emptied(world)
    world.clock.passed_s += QUARANTINE_S
    await gate.open()
    world.epochs.shown = Epoch("e3", 0)

    assert not await gate.open()


async def test_after_a_launch_of_long_ago_machines_are_looked_through_and_nothing_is_waited_for(world: World) -> None:
    gate = gate_of(world, remembering(LATER, TIMINGS.remembered_s + 1))

    assert await gate.open()
    assert world.adopted == 1


@pytest.mark.parametrize("set_by_s", [86_400.0, -86_400.0])
async def test_a_launch_of_just_now_is_not_old_because_the_hosts_clock_was_set(world: World, set_by_s: float) -> None:
    memory = Memory(None, clock=world.clock)
    just_now = Remembered(LATER, STARTED_AT - 60 - set_by_s, world.clock.monotonic() - 60, TARGET)
    memory.keep(TARGET, just_now)

    assert not await gate_of(world, memory).open()


async def test_a_launch_of_just_now_on_disk_is_waited_for(world: World) -> None:
    gate = gate_of(world, remembering(LATER, TIMINGS.remembered_s - 60))

    assert not await gate.open()


async def test_a_launch_is_remembered_before_it_is_sent(world: World) -> None:
    memory = Memory(None, clock=HandClock())
    gate = gate_of(world, memory)
    await gate.open()

    gate.remember_launch()

    known = memory.of(TARGET)
    assert known is not None
    assert known.launched_at == STARTED_AT


OURS = {MANAGED: "true", NAMESPACE: "betty"}
GROUP = OURS | encode_manifest([("job-0", 1), ("job-1", 7)])


@pytest.mark.parametrize(
    ("tags", "number", "name"),
    [
        (OURS | {TAG_TAG: "job-0", GENERATION: "2"}, 0, "job-0#2"),
        (GROUP, 1, "job-1#7"),
        (GROUP, None, "i-1"),
        (OURS | {TAG_TAG: "job-0"}, 0, "i-1"),
        (OURS, 0, "i-1"),
    ],
    ids=["by its own tags", "by its place in the group", "its place is not known", "tags lost", "more tags lost"],
)
def test_the_launch_of_an_ended_machine_is_counted_by_its_key_or_else_by_its_id(
    tags: dict[str, str], number: int | None, name: str
) -> None:
    one = Instance(instance_id="i-1", state="terminated", launch_time=100.0, number=number, tags=tags)

    assert launches_since([one, one], 50.0) == {"betty": {name: 100.0}}


@pytest.mark.parametrize(
    ("tags", "launch_time"),
    [
        (OURS, 50.0),
        (OURS, None),
        ({NAMESPACE: "betty"}, 100.0),
        ({MANAGED: "true"}, 100.0),
        ({MANAGED: "true", NAMESPACE: "a:b*"}, 100.0),
    ],
    ids=["too long ago", "nobody knows when", "not Puter's", "nobody knows whose", "no namespace's name"],
)
def test_what_is_no_launch_of_the_hour_is_not_counted(tags: dict[str, str], launch_time: float | None) -> None:
    one = Instance(instance_id="i-1", state="terminated", launch_time=launch_time, tags=tags)

    assert launches_since([one], 50.0) == {}
