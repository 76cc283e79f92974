"""A client whose connection breaks sends again what may have arrived: each request is decided once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.request import Origin
from puter_client.contract.result import Result
from puter_client.store import names as public
from tests.integration.stage_world import Hands, hands, redis_keeps_its_rules, rewrite
from tests.integration.workshop import Workshop, spec

__all__ = ["hands", "redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")

ONE = PuterKey("betty", "one")
HOUR_S = 3_600
Between = Callable[[Workshop], None]


def nothing(_: Workshop) -> None:
    """The repetition comes right after."""


def its_machine_has_ended(shop: Workshop) -> None:
    ended: dict[str, Any] = {"ended_at": 1.0, "instance_id": "i-0123456789abcdef0", "has_workload": True}
    rewrite(shop, ONE, phase=Phase.TERMINATED, result=Result.FAILED, **ended)


def in_the_inbox(shop: Workshop) -> list[bytes]:
    with shop.server.client() as behind:
        raws: list[bytes] = behind.lrange(public.inbox("betty"), 0, -1)
        return raws


def again(shop: Workshop, raws: list[bytes]) -> None:
    """What the client appends once more."""
    with shop.server.client() as behind:
        behind.rpush(public.inbox("betty"), *raws)
        behind.sadd(public.READY, "betty")


@pytest.mark.parametrize("between", [nothing, its_machine_has_ended])
@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize("flags", [{}, {"again": True}, {"retry_failed": True}])
async def test_a_request_that_comes_again_changes_nothing(
    workshop: Workshop, hands: Hands, between: Between, origin: Origin, flags: dict[str, Any]
) -> None:
    batch = await workshop.client.submit([MachineRequest("one", spec())], origin=origin, **flags)
    sent = in_the_inbox(workshop)
    await hands.take_requests()
    between(workshop)
    before = (await workshop.record("one"), (await workshop.client.batch(batch))[1][0].row)

    again(workshop, sent)
    await hands.take_requests()

    assert (await workshop.record("one"), (await workshop.client.batch(batch))[1][0].row) == before
    assert in_the_inbox(workshop) == []


async def test_of_two_that_come_together_one_is_decided(workshop: Workshop, hands: Hands) -> None:
    batch = await workshop.client.submit([MachineRequest("one", spec())])
    again(workshop, in_the_inbox(workshop))

    await hands.take_requests()

    (view,) = (await workshop.client.batch(batch))[1]
    assert (view.outcome, (await workshop.record("one")).request_number) == ("created", 1)


async def test_the_same_tag_of_another_batch_is_another_request(workshop: Workshop, hands: Hands) -> None:
    await workshop.client.submit([MachineRequest("one", spec())], origin=Origin.UP)
    await hands.take_requests()
    its_machine_has_ended(workshop)
    await workshop.client.submit([MachineRequest("one", spec())], origin=Origin.UP)
    await hands.take_requests()

    record = await workshop.record("one")
    assert (record.phase, record.generation) == (Phase.QUEUED, 2)


@pytest.mark.parametrize("changes", [{"add_s": 2 * HOUR_S}, {}])
async def test_an_end_that_is_put_off_is_put_off_once(
    workshop: Workshop, hands: Hands, changes: dict[str, Any]
) -> None:
    await workshop.client.submit([MachineRequest("one", spec())])
    await hands.take_requests()
    now = hands.store.now()
    rewrite(workshop, ONE, phase=Phase.RUNNING, expires_at=now + HOUR_S, instance_id="i-0123456789abcdef0")
    await workshop.client.extend(["one"], **changes)
    sent = in_the_inbox(workshop)
    await hands.take_requests()
    given = (await workshop.record("one")).order
    assert given

    # The machine's agent has taken it, so its record ends later already.
    rewrite(workshop, ONE, expires_at=given.expires_at)
    again(workshop, sent)
    await hands.take_requests()

    assert (await workshop.record("one")).order == given
    await workshop.client.extend(["one"], add_s=HOUR_S)  # another one adds to it
    await hands.take_requests()
    later = (await workshop.record("one")).order
    assert later
    assert (later != given) == (given.expires_at is not None)
