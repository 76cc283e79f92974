"""Clocks that are set, hosts that sleep: what a worker takes for the time, and for the age of things."""

from __future__ import annotations

import time

import pytest

from puter_worker.absences import Absences
from puter_worker.clock import STEP_S, Clock

REDIS_AT = 1_800_000_000.0
HOURS_2 = 7_200.0
OVER_S = 30.0


class World(Clock):
    """A host and a Redis with clocks of their own.

    Attributes:
        uptime: what passes on this host, which nobody sets.
        redis_ahead_s: by how much Redis's clock was set.
    """

    def __init__(self) -> None:
        self.uptime = 500.0
        self.redis_ahead_s = 0.0
        super().__init__()

    def monotonic(self) -> float:
        return self.uptime

    def measure(self, *, takes_s: float = 0.001) -> float | None:
        """Ask Redis for its time."""
        sent_at = self.uptime
        self.uptime += takes_s
        answer = REDIS_AT + self.uptime - takes_s / 2 + self.redis_ahead_s
        return self.learn(answer, sent_at=sent_at, answered_at=self.uptime)


@pytest.fixture
def world() -> World:
    clock = World()
    assert clock.measure() is None
    return clock


def test_a_host_whose_clock_is_set_does_not_move_redis_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.now()
    monkeypatch.setattr(time, "time", lambda: 1.0)

    assert world.now() == before


def test_before_redis_was_asked_the_hosts_own_clock_counts() -> None:
    assert Clock().now() == pytest.approx(time.time(), abs=5)


def test_time_goes_on_while_a_laptop_sleeps(world: World) -> None:
    """CLOCK_BOOTTIME goes on in sleep, and so does Redis's clock: the next measurement shows no step."""
    before = world.now()
    world.uptime += HOURS_2

    assert world.now() == before + HOURS_2
    assert world.measure() is None
    assert world.age(before) == pytest.approx(HOURS_2, abs=0.1)


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="macOS: its CLOCK_MONOTONIC goes on in sleep")
def test_the_clock_is_the_one_that_goes_on_in_sleep() -> None:
    assert Clock().monotonic() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1)


@pytest.mark.parametrize("by_s", [HOURS_2, -HOURS_2, 86_400.0, -3.0])
def test_a_redis_whose_clock_was_set_is_followed_and_noticed(world: World, by_s: float) -> None:
    before = world.now()
    world.redis_ahead_s = by_s

    step_s = world.measure()

    assert step_s == pytest.approx(by_s, abs=0.01)
    assert world.now() == pytest.approx(before + by_s, abs=0.01)
    assert world.was_set_within(1.0)
    world.uptime += 2.0
    assert not world.was_set_within(1.0)


@pytest.mark.parametrize("drift_s", [0.5, -0.5, STEP_S * 0.9])
def test_a_clock_that_drifts_was_not_set(world: World, drift_s: float) -> None:
    world.redis_ahead_s = drift_s

    assert world.measure() is None
    assert not world.was_set_within(3_600.0)


def test_a_slow_answer_is_no_measurement(world: World) -> None:
    world.redis_ahead_s = HOURS_2
    before = world.now()

    assert world.measure(takes_s=1.5) is None
    assert world.now() == before + 1.5


def test_a_first_answer_that_was_slow_is_replaced_and_is_no_step() -> None:
    clock = World()
    assert (clock.measure(takes_s=40.0), clock.is_sure) == (None, False)

    clock.redis_ahead_s = 15.0  # what the slow one was wrong by

    assert (clock.measure(), clock.is_sure) == (None, True)
    assert clock.now() == pytest.approx(REDIS_AT + clock.uptime + 15.0, abs=0.01)
    assert not clock.was_set_within(3_600.0)
    assert (clock.measure(takes_s=40.0), clock.is_sure) == (None, True)


@pytest.mark.parametrize("by_s", [HOURS_2, -HOURS_2])
def test_nothing_gets_old_by_a_step(world: World, by_s: float) -> None:
    at = world.now()
    world.uptime += 5.0
    world.redis_ahead_s = by_s
    world.measure()
    world.uptime += 7.0

    assert world.age(at) <= 12.1
    assert world.age(at) == pytest.approx(7.0 if by_s > 0 else 0.0, abs=0.1)


def test_what_is_to_come_has_no_age(world: World) -> None:
    assert world.age(world.now() + 100.0) == 0.0


# -- absence ---


@pytest.fixture
def absences(world: World) -> Absences:
    return Absences(world, over_s=OVER_S)


def test_a_look_counts_from_when_it_was_asked_for(absences: Absences, world: World) -> None:
    """This process stands still between EC2's answer and what it makes of that."""
    assert looks(absences, world, 0.0, 1.0) == [False, False]
    asked_at = absences.asked()
    world.uptime += 10 * OVER_S

    assert not absences.missed("i-1", looks=3, asked_at=asked_at)
    assert looks(absences, world, 0.0) == [True]


def looks(absences: Absences, world: World, *gaps_s: float, most: int = 3) -> list[bool]:
    """Look again and again, after these pauses; what each look says."""
    told = []
    for gap_s in gaps_s:
        world.uptime += gap_s
        told.append(absences.missed("i-1", looks=most, asked_at=absences.asked()))
    return told


@pytest.mark.parametrize(
    ("gaps_s", "told"),
    [
        ((0.0, 25.0, 25.0), [False, False, True]),
        ((0.0, 1.0, 1.0, 1.0), [False] * 4),
        ((0.0, 3_000.0), [False, False]),
        ((0.0, OVER_S / 2, OVER_S / 2), [False, False, True]),
    ],
    ids=["several over a stretch", "many at once", "only two", "just long enough"],
)
def test_absence_needs_several_looks_over_a_stretch(
    absences: Absences, world: World, gaps_s: tuple[float, ...], told: list[bool]
) -> None:
    assert looks(absences, world, *gaps_s) == told


def test_what_is_shown_again_was_not_absent(absences: Absences, world: World) -> None:
    looks(absences, world, 0.0, 25.0)
    absences.shown("i-1")

    assert looks(absences, world, 25.0, 25.0) == [False, False]


def test_clocks_that_are_set_make_nothing_absent(
    absences: Absences, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks(absences, world, 0.0, 1.0)
    world.redis_ahead_s = HOURS_2
    world.measure()
    monkeypatch.setattr(time, "time", lambda: 1e10)

    assert looks(absences, world, 1.0, 1.0) == [False, False]


def test_each_thing_is_counted_by_itself(absences: Absences, world: World) -> None:
    looks(absences, world, 0.0, 25.0)

    assert not absences.missed("i-2", looks=1, asked_at=absences.asked())
    assert absences.knows("i-1")
    assert not absences.knows("i-3")


def test_what_was_missed_long_ago_is_forgotten(absences: Absences, world: World) -> None:
    looks(absences, world, 0.0)
    world.uptime += HOURS_2
    absences.missed("i-2", looks=3, asked_at=absences.asked())

    assert not absences.knows("i-1")
