"""Workers that freeze at the worst moments of a launch, beyond their leases, and then go on."""

from __future__ import annotations

import pytest

from tests.model.cloud import Machine
from tests.model.steps import Fate
from tests.model.world import HOSTS, KEYS, World

ONE, OTHER = HOSTS
KEY, NEIGHBOUR = KEYS[:2]
AT_ONCE, TOGETHER = 9, 1


def on_the_launch_queue(world: World, *keys: object, calls_now: int = AT_ONCE) -> None:
    world.request(*(key for key in KEYS if key in keys))
    world.only = frozenset({"intake", "ensure", "resolve"})
    world.work(ONE, 1_000)
    world.only = frozenset({"launch", "replay"})
    world.calls_now = calls_now


def goes_on(world: World, host: str) -> None:
    assert world.work(host, 1_000) is None


def live(world: World) -> list[Machine]:
    return [machine for machine in world.cloud.machines if machine.live]


def in_the_end_each_has_one(world: World, *keys: object) -> None:
    assert world.heal(lambda: all(world.is_granted(key) for key in KEYS if key in keys))
    assert len(live(world)) == len(keys)


def test_a_launch_that_nobody_disturbs_is_a_launch(world: World) -> None:
    on_the_launch_queue(world, KEY)
    goes_on(world, ONE)

    assert [machine.key for machine in live(world)] == [KEY]


def test_who_stood_still_before_sending_leaves_it_to_whoever_took_it_up(world: World) -> None:
    on_the_launch_queue(world, KEY)
    assert world.stand_still(ONE, "opened")
    world.cloud.weather.room = 0
    for seconds in (11.0, 2.5, 31.0, 2.5):  # taken up and refused; looked for; looked for once more; given back
        world.let_pass(seconds)
        goes_on(world, OTHER)
    world.cloud.weather.room = None
    for _ in range(2):  # the zones are read; it is launched in one of them
        goes_on(world, OTHER)
    assert len(live(world)) == 1

    goes_on(world, ONE)

    in_the_end_each_has_one(world, KEY)


def test_a_refusal_learnt_late_undoes_nothing_that_another_worker_is_sending(world: World) -> None:
    on_the_launch_queue(world, KEY)
    world.cloud.weather.room = 0
    assert world.stand_still(ONE, "sent")
    world.let_pass(11.0)
    world.cloud.weather.room = None
    sending = world.stand_still(OTHER, "sending")
    assert sending

    goes_on(world, ONE)
    world.steps.let(sending, Fate.WHOLE)

    in_the_end_each_has_one(world, KEY)


@pytest.mark.parametrize("at", ["opened", "sending", "sent", "told"])
@pytest.mark.parametrize("calls_now", [AT_ONCE, TOGETHER], ids=["singly", "together"])
def test_who_stands_still_anywhere_and_goes_on_after_all_was_granted_changes_nothing(
    world: World, at: str, calls_now: int
) -> None:
    on_the_launch_queue(world, KEY, NEIGHBOUR, calls_now=calls_now)
    assert world.stand_still(ONE, at)
    for seconds in (11.0, 2.5, 31.0):
        world.let_pass(seconds)
        goes_on(world, OTHER)

    goes_on(world, ONE)

    in_the_end_each_has_one(world, KEY, NEIGHBOUR)


def test_the_part_of_a_launch_that_is_not_shown_yet_is_not_launched_again(world: World) -> None:
    on_the_launch_queue(world, KEY, NEIGHBOUR, calls_now=TOGETHER)
    world.cloud.weather.lag_s = 20.0
    call = world.stand_still(ONE, "sending")
    assert call
    world.steps.let(call, Fate.LOST)
    world.let_pass(11.0)  # one of the two is to be seen

    goes_on(world, OTHER)

    in_the_end_each_has_one(world, KEY, NEIGHBOUR)


@pytest.mark.parametrize("survivor", [ONE, OTHER], ids=["by-who-launched-it", "by-who-saw-it"])
def test_what_a_redis_that_comes_back_empty_has_forgotten_is_not_launched_again(world: World, survivor: str) -> None:
    on_the_launch_queue(world, KEY, NEIGHBOUR, calls_now=TOGETHER)
    world.cloud.weather.lag_s = 2.0
    goes_on(world, ONE)
    world.lose_redis()
    world.only = frozenset()
    for host in HOSTS:
        world.crash(host, delivered=False)
    world.request(KEY, NEIGHBOUR)
    goes_on(world, survivor)

    in_the_end_each_has_one(world, KEY, NEIGHBOUR)


def test_a_launch_whose_answer_is_lost_and_that_is_not_shown_yet_is_repeated_as_it_was(world: World) -> None:
    on_the_launch_queue(world, KEY)
    world.cloud.weather.lag_s = 20.0
    call = world.stand_still(ONE, "sending")
    assert call
    world.steps.let(call, Fate.LOST)
    world.let_pass(11.0)

    goes_on(world, OTHER)

    assert world.cloud.calls.count("RunInstances") == 2
    in_the_end_each_has_one(world, KEY)


def test_a_launch_whose_worker_died_before_ec2_answered_is_found_again(world: World) -> None:
    on_the_launch_queue(world, KEY, NEIGHBOUR, calls_now=TOGETHER)
    assert world.stand_still(ONE, "sending")
    world.crash(ONE, delivered=True)

    in_the_end_each_has_one(world, KEY, NEIGHBOUR)
