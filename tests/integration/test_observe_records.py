"""observe: records that others have changed meanwhile, and looks at EC2 that fail."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.clock import Clock
from puter_worker.ec2.instances import Instance
from puter_worker.errors import Ec2Error, Handling
from puter_worker.stages.observe import Observe
from puter_worker.store import names
from puter_worker.target import Target
from tests.integration.stage_world import Hands, hands, redis_keeps_its_rules, rewrite
from tests.integration.workshop import Workshop

__all__ = ["hands", "redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")
KEY = PuterKey("betty", "one")
QUIET_S = 25.0
NOWHERE = "us-east-1z"


class HandClock(Clock):
    """A clock that the test sets, and nothing else moves.

    Attributes:
        ahead_s: how many seconds have passed.
    """

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self._began = super().monotonic()
        super().__init__()

    def monotonic(self) -> float:
        """Seconds since the host was started, as the test says."""
        return self._began + self.ahead_s


@pytest.fixture
async def clock(hands: Hands) -> HandClock:
    """The worker's clock, in the test's hand."""
    hands.store.db.clock = clock = HandClock()
    await hands.store.db.sync_clock()
    return clock


def observer(hands: Hands, target: Target) -> Observe:
    """observe, as a leader has it, with the distance between its looks that it has when nobody waits."""
    return Observe(hands.store, target, hands.shop.timings, quiet_s=QUIET_S, is_end_awaited=lambda: False)


async def one_runs(shop: Workshop) -> Record:
    """A machine runs, and no worker does; its record."""
    async with shop.working(quiet_sweep_s=600.0):
        (view,) = await shop.request("one")
    assert view.record
    assert view.record.phase is Phase.RUNNING
    assert view.record.availability_zone not in (None, NOWHERE)
    return view.record


async def test_a_record_is_read_again_after_its_time_however_often_its_machine_is_looked_at(
    workshop: Workshop, hands: Hands, clock: HandClock
) -> None:
    before = await one_runs(workshop)
    stage = observer(hands, await hands.target())
    await stage.run_once()
    rewrite(workshop, KEY, availability_zone=NOWHERE)

    for _ in range(int(workshop.timings.reread_s / QUIET_S) + 2):
        clock.ahead_s += QUIET_S + 0.1
        await stage.run_once()

    assert (await workshop.record("one")).availability_zone == before.availability_zone


async def test_a_record_is_read_again_after_its_time_each_time(
    workshop: Workshop, hands: Hands, clock: HandClock
) -> None:
    workshop.hurry(reread_s=60.0)
    before = await one_runs(workshop)
    stage = observer(hands, await hands.target())
    await stage.run_once()

    for _ in range(3):
        rewrite(workshop, KEY, availability_zone=NOWHERE)
        for _ in range(4):
            clock.ahead_s += QUIET_S + 0.1
            await stage.run_once()

        assert (await workshop.record("one")).availability_zone == before.availability_zone


async def test_a_record_is_not_read_at_every_look(
    workshop: Workshop, hands: Hands, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one_runs(workshop)
    stage = observer(hands, await hands.target())
    await stage.run_once()
    real, reads = hands.store.records.read, list[PuterKey]()

    async def read(keys: Any) -> Any:
        reads.extend(keys)
        return await real(keys)

    monkeypatch.setattr(hands.store.records, "read", read)
    for _ in range(5):
        clock.ahead_s += QUIET_S + 0.1
        await stage.run_once()

    assert reads == []


@pytest.mark.parametrize(("many", "every_s"), [(1, 2.0), (4, 8.0)])
async def test_machines_that_were_told_to_stop_are_looked_at_often_for_a_while_and_many_less_often(
    workshop: Workshop, hands: Hands, clock: HandClock, monkeypatch: pytest.MonkeyPatch, many: int, every_s: float
) -> None:
    await one_runs(workshop)
    stage, looks = observer(hands, await hands.target()), list[float]()
    monkeypatch.setattr("puter_worker.stages.observe.AWAITED", 1 / many)
    await stage.run_once()  # all were read just now
    look_at = stage.look_at

    async def looked_at(keys: Sequence[PuterKey]) -> None:
        looks.append(round(clock.ahead_s, 1))
        await look_at(keys)

    monkeypatch.setattr(stage, "look_at", looked_at)
    stage.expect_ends([KEY])
    pauses = []
    while clock.ahead_s < QUIET_S - 1:
        pauses.append(await stage.run_once())
        clock.ahead_s += 0.5

    assert looks == pytest.approx([2.0 + every_s * n for n in range(len(looks))], abs=1.0)
    assert len(looks) == 1 + (QUIET_S - 3.5) // every_s
    assert min(pauses) > 0.0  # it is not asked again and again meanwhile
    looks.clear()
    clock.ahead_s += workshop.timings.ending_s
    await stage.run_once()  # the next look at all
    clock.ahead_s += QUIET_S / 2
    assert await stage.run_once() == pytest.approx(workshop.timings.sweep_s)
    assert len(looks) == 1


class Failing:
    """A target's looks at its machines, of which the first ones fail.

    Attributes:
        looks: how many there were.
    """

    def __init__(self, target: Target, monkeypatch: pytest.MonkeyPatch, *, times: int) -> None:
        self.looks = 0
        self._left = times
        self._real = target.describe
        monkeypatch.setattr(target, "describe", self._describe)

    async def _describe(self, ids: Sequence[str]) -> dict[str, Instance]:
        self.looks += 1
        if self.looks <= self._left:
            raise Ec2Error("ServiceUnavailable", "not now", handling=Handling.AGAIN)
        return await self._real(ids)


@pytest.mark.parametrize("times", [1, 3])
async def test_after_a_look_that_failed_the_next_one_comes_at_once(
    workshop: Workshop, hands: Hands, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    before = await one_runs(workshop)
    workshop.ec2.terminate_instances(InstanceIds=[before.instance_id])
    target = await hands.target()
    stage, failing = observer(hands, target), Failing(target, monkeypatch, times=times)

    for _ in range(times):
        with pytest.raises(Ec2Error):
            await stage.run_once()
    await stage.run_once()

    assert failing.looks == times + 1
    assert (await workshop.record("one")).phase is Phase.TERMINATED


async def test_after_a_look_that_failed_later_the_next_one_comes_at_once(
    workshop: Workshop, hands: Hands, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await one_runs(workshop)
    target = await hands.target()
    stage = observer(hands, target)
    await stage.run_once()
    workshop.ec2.terminate_instances(InstanceIds=[before.instance_id])
    failing = Failing(target, monkeypatch, times=1)
    clock.ahead_s += QUIET_S + 0.1

    with pytest.raises(Ec2Error):
        await stage.run_once()
    await stage.run_once()

    assert failing.looks == 2
    assert (await workshop.record("one")).phase is Phase.TERMINATED


async def test_after_a_look_that_succeeded_the_next_one_waits(
    workshop: Workshop, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    await one_runs(workshop)
    target = await hands.target()
    stage, told = observer(hands, target), Failing(target, monkeypatch, times=0)

    for _ in range(3):
        await stage.run_once()

    assert told.looks == 1


@pytest.mark.parametrize("name", [public.record(KEY), public.events(KEY), names.spec(KEY)])
async def test_what_is_kept_of_a_machine_does_not_expire_while_it_lives(
    workshop: Workshop, hands: Hands, name: str
) -> None:
    """A machine may live for a year, and nothing about it changes."""
    await one_runs(workshop)
    soon_s = 3_600
    with workshop.server.client() as behind:
        assert behind.expire(name, soon_s)
    await observer(hands, await hands.target()).run_once()

    with workshop.server.client() as behind:
        assert behind.ttl(name) > soon_s
