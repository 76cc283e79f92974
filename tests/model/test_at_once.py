"""Requests and cancellations of one key that lie in the inbox together, and are taken in one transaction."""

from __future__ import annotations

import pytest

from puter_client.contract.phase import Phase
from tests.model.world import HOSTS, KEYS, World

ONE = HOSTS[0]
KEY = KEYS[0]


def works(world: World, *stages: str) -> None:
    world.only = frozenset(stages)
    while world.work(ONE, 1_000) is not None:
        pass


def phase(world: World) -> Phase | None:
    record = world.record(KEY)
    return record.phase if record else None


def test_a_request_that_is_cancelled_before_anybody_took_it_is_cancelled(world: World) -> None:
    world.request(KEY)
    world.cancel(KEY)

    works(world, "intake")

    assert phase(world) is Phase.CANCELLED


@pytest.mark.parametrize("permitted", [True, False], ids=["terminated", "failed"])
def test_a_further_request_for_what_has_ended_may_be_cancelled_as_early(world: World, *, permitted: bool) -> None:
    world.cloud.weather.permitted = permitted
    world.request(KEY)
    works(world)
    world.let_pass(1.0)
    works(world)
    for machine in world.cloud.live(KEY):
        machine.live = False
    world.let_pass(31.0)
    works(world)
    assert phase(world) is (Phase.TERMINATED if permitted else Phase.FAILED)
    world.request(KEY)
    world.cancel(KEY)

    works(world, "intake")

    assert phase(world) is Phase.CANCELLED


@pytest.mark.parametrize(
    ("stages", "before"),
    [
        (["intake"], Phase.QUEUED),
        (["intake", "ensure"], Phase.RESOLVING),
        (["intake", "ensure", "resolve"], Phase.LAUNCHING),
    ],
)
def test_what_is_cancelled_and_requested_anew_is_launched_once(world: World, stages: list[str], before: Phase) -> None:
    world.request(KEY)
    works(world, *stages)
    assert phase(world) is before
    world.cancel(KEY)
    world.request(KEY)

    works(world, "intake")

    assert phase(world) is Phase.QUEUED
    assert world.heal(lambda: world.is_granted(KEY))
    assert len(world.cloud.machines) == 1
