"""intake: who sent a request is said by the name of its inbox; users of one namespace take turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.request import CancelRequest, ExtendRequest, Origin, Request, StopRequest, UpRequest
from puter_client.store import names as public
from puter_client.view import WaitFor
from puter_worker.clock import Clock
from puter_worker.stages.intake import Intake
from puter_worker.store import names
from puter_worker.store.store import Store
from tests.integration.stage_world import Hands, hands, redis_keeps_its_rules
from tests.integration.workshop import PATIENCE_S, Workshop, spec

__all__ = ["hands", "redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")

# `mallory` is who the inbox belongs to; `betty` is who the request says to be, where it says a name at all.
CLAIMS = pytest.mark.parametrize("claim", ["betty", "mallory", "root\nX: y", "x" * 65, ""])


def up(tag: str, user: str, batch: str = "b-1", size: int = 1) -> UpRequest:
    return UpRequest(tag=tag, spec=spec(), batch=batch, size=size, user=user, origin=Origin.UP)


def append(shop: Workshop, inbox: str, *requests: Request | bytes) -> None:
    """Appends to an inbox, as its user can."""
    raws = [one if isinstance(one, bytes) else msgspec.json.encode(one) for one in requests]
    with shop.server.client() as behind:
        behind.rpush(public.inbox(inbox), *raws)
        behind.sadd(public.READY, inbox)


def left(shop: Workshop, inbox: str) -> int:
    with shop.server.client() as behind:
        return int(behind.llen(public.inbox(inbox)))


@CLAIMS
async def test_the_owner_is_the_user_of_the_inbox(workshop: Workshop, hands: Hands, claim: str) -> None:
    append(workshop, "betty:mallory", up("one", claim))

    await hands.take_requests()

    info, (view,) = await workshop.client.batch("b-1")
    assert info
    assert (info.owner, view.record and view.record.owner) == ("mallory", "mallory")
    (event,) = await workshop.client.events("one")
    assert event.detail["owner"] == "mallory"


@pytest.mark.parametrize("raw", [b'{"type":"up","tag":"one","batch":"b-1","user":"betty"}'])
async def test_so_is_that_of_a_request_that_is_refused(workshop: Workshop, hands: Hands, raw: bytes) -> None:
    append(workshop, "betty:mallory", raw)

    await hands.take_requests()

    info, _ = await workshop.client.batch("b-1")
    assert info
    assert info.owner == "mallory"


@CLAIMS
async def test_who_cancels_is_the_user_of_the_inbox(workshop: Workshop, hands: Hands, claim: str) -> None:
    append(workshop, "betty:anna", up("one", "anna"))
    await hands.take_requests()
    append(workshop, "betty:mallory", CancelRequest(tag="one", user=claim))

    await hands.take_requests()

    assert (await workshop.record("one")).reason == "cancelled by mallory"


@pytest.mark.parametrize(
    "order", [StopRequest(tag="one", user="betty"), ExtendRequest(tag="one", user="betty", add_s=60)]
)
async def test_who_orders_is_the_user_of_the_inbox(workshop: Workshop, hands: Hands, order: Request) -> None:
    async with workshop.working():
        await workshop.request("one")
    append(workshop, "betty:mallory", order)

    await hands.take_requests()

    record = await workshop.record("one")
    assert record.order
    assert record.order.user == "mallory"


async def test_a_request_that_waits_for_ec2_keeps_its_user(workshop: Workshop, hands: Hands) -> None:
    async with workshop.working():
        await workshop.request("one")
    append(workshop, "betty:mallory", up("one", "betty"))

    await hands.take_requests()

    with workshop.server.client() as behind:
        (parked,) = behind.lrange(names.parked(PuterKey("betty", "one")), 0, -1)
    user, request = msgspec.json.decode(parked)
    assert (user, request["user"]) == ("mallory", "mallory")


async def test_without_a_user_it_is_who_the_request_says(workshop: Workshop, hands: Hands) -> None:
    append(workshop, "betty", up("one", "anna"))

    await hands.take_requests()

    assert (await workshop.record("one")).owner == "anna"


@pytest.mark.parametrize("name", ["betty:", ":betty", "betty:a b", "betty:a:b", "betty:" + "x" * 65, "Betty:x", "a/b"])
async def test_a_name_that_is_no_inbox_is_dropped(workshop: Workshop, hands: Hands, name: str) -> None:
    append(workshop, name, up("one", "betty"))
    append(workshop, "betty:anna", up("two", "anna"))

    await hands.take_requests()

    with workshop.server.client() as behind:
        assert name.encode() not in behind.smembers(public.READY)
        behind.delete(public.inbox(name))
    assert [view.tag for view in await workshop.client.recent()] == ["two"]


async def test_the_users_of_a_namespace_share_its_turn(workshop: Workshop, hands: Hands) -> None:
    append(workshop, "betty:mallory", *(up(f"t-{n}", "mallory", "flood", 1_200) for n in range(1_200)))
    append(workshop, "betty:anna", up("one", "anna"))

    await hands.take_requests()

    assert (await workshop.record("one")).owner == "anna"
    assert left(workshop, "betty:mallory") == 1_200 - 250


async def test_a_namespace_of_many_users_has_no_larger_turn_than_another(workshop: Workshop, hands: Hands) -> None:
    for user in range(10):
        append(workshop, f"betty:u{user}", *(up(f"t-{user}-{n}", "x", f"b-{user}", 100) for n in range(100)))
    append(workshop, "anna", up("one", "anna"))

    await hands.take_requests()

    assert sum(left(workshop, f"betty:u{user}") for user in range(10)) == 10 * 100 - 250
    assert left(workshop, "anna") == 0


async def test_users_of_one_namespace_take_turns(workshop: Workshop, hands: Hands) -> None:
    """Where a run has fewer requests than there are users, those who were served longest ago come first."""
    with workshop.server.client() as behind, behind.pipeline() as pipe:
        for user in range(600):
            pipe.rpush(public.inbox(f"betty:u{user}"), b"{", b"{")
            pipe.sadd(public.READY, f"betty:u{user}")
        pipe.execute()
    intake = Intake(hands.store, workshop.timings)

    def lefts() -> set[int]:
        return {left(workshop, f"betty:u{user}") for user in range(600)}

    await intake.run_once()
    assert lefts() == {1, 2}
    await intake.run_once()
    assert lefts() == {0, 1}


async def test_each_inbox_has_a_count_of_its_takings(workshop: Workshop, hands: Hands) -> None:
    """The guard of one user's transaction is broken by no other's."""
    append(workshop, "betty:anna", up("one", "anna"))
    append(workshop, "betty:mallory", up("two", "mallory"))

    await hands.take_requests()

    with workshop.server.client() as behind:
        counts: dict[bytes, Any] = behind.hgetall(names.TAKEN)
    assert counts == {b"betty:anna": b"1", b"betty:mallory": b"1"}
    assert [view.record and view.record.phase for view in await workshop.client.views(["one", "two"])] == [
        Phase.QUEUED,
        Phase.QUEUED,
    ]


# -- users who were removed (with deploy's users: tests/hostile/test_impersonation.py) ---------------------------------


async def test_where_redis_has_no_users_nobody_counts_as_removed(workshop: Workshop, hands: Hands) -> None:
    with capture_logs() as lines:
        intake = Intake(hands.store, workshop.timings)
        for tag in ("one", "two"):
            append(workshop, "betty:anna", up(tag, "anna"))
            await intake.run_once()

    assert [(await workshop.record(tag)).owner for tag in ("one", "two")] == ["anna", "anna"]
    (warning,) = [line for line in lines if line["event"] == "users.not_known"]
    assert "no users but default" in warning["why"]


async def test_where_redis_does_not_say_who_there_is_nobody_counts_as_removed(workshop: Workshop) -> None:
    with workshop.server.client() as behind:
        behind.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "~*", "&*", "+@all", "-acl|users")
        append(workshop, "betty:anna", up("one", "anna"), up("two", "anna"))
        try:
            async with Redis.from_url(workshop.server.url.replace("//", "//worker:pw@")) as connected:
                store = Store(connected, clock=Clock(), timings=workshop.timings)
                await store.db.sync_clock()
                with capture_logs() as lines:
                    await Intake(store, workshop.timings).run_once()
        finally:
            behind.execute_command("ACL", "DELUSER", "worker")

    assert (await workshop.record("one")).owner == "anna"
    (warning,) = [line for line in lines if line["event"] == "users.not_known"]
    assert "does not say which users" in warning["why"]


# -- whose user is removed while they wait ---


@contextmanager
def users(shop: Workshop, *known: str) -> Iterator[Callable[[str], None]]:
    """Redis has these users while inside; gives what removes one."""
    with shop.server.client() as behind:
        for name in known:
            behind.execute_command("ACL", "SETUSER", name, "on", ">pw")
        try:
            yield lambda name: behind.execute_command("ACL", "DELUSER", name)
        finally:
            behind.execute_command("ACL", "DELUSER", *known)


async def test_nothing_is_launched_any_more_for_a_user_who_was_removed(workshop: Workshop, hands: Hands) -> None:
    with users(workshop, "anna", "mallory") as remove:
        append(workshop, "betty:anna", up("one", "anna", "b-1"))
        append(workshop, "betty:mallory", up("two", "anna", "b-2"), up("three", "mallory", "b-2"))
        append(workshop, "betty", up("four", "mallory", "b-3"))  # nobody vouches for that name
        await hands.take_requests()
        remove("mallory")
        with capture_logs() as lines:
            async with workshop.working():
                await workshop.client.wait(tags=["one", "four"], wait=WaitFor.RUNNING, timeout_s=PATIENCE_S)
                views = await workshop.client.wait(batch_id="b-2", tags=["two", "three"], timeout_s=PATIENCE_S)

    found = [(view.outcome, view.phase, view.reason) for view in views]
    assert found == [(Outcome.CANCELLED, Phase.CANCELLED, "user mallory was removed")] * 2
    dropped = [line for line in lines if line["event"] == "requests.dropped"]
    assert {user for line in dropped for user in line["users"]} == {"mallory"}
    assert sum(line["count"] for line in dropped) == 2
    assert len(workshop.instances("pending", "running")) == 2


async def test_a_machine_goes_on_whose_user_was_removed(workshop: Workshop, hands: Hands) -> None:
    with users(workshop, "anna", "mallory") as remove:
        append(workshop, "betty:mallory", up("one", "mallory"))
        async with workshop.working():
            await workshop.client.wait(tags=["one"], wait=WaitFor.RUNNING, timeout_s=PATIENCE_S)
            remove("mallory")
            append(workshop, "betty:anna", up("one", "anna", "b-2"))
            (view,) = await workshop.client.wait(batch_id="b-2", tags=["one"], timeout_s=PATIENCE_S)

    assert (view.outcome, view.phase) == (Outcome.EXISTING, Phase.RUNNING)
