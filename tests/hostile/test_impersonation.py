"""Nobody speaks as somebody else, on a server with the files of `deploy/`, and a removed user does not speak at all."""

from __future__ import annotations

import msgspec
import pytest
from redis.exceptions import NoPermissionError
from structlog.testing import capture_logs

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.record import Record
from puter_client.contract.request import CancelRequest, ExtendRequest, Origin, Request, StopRequest, UpRequest
from puter_client.store import names as public
from puter_client.view import WaitFor
from puter_worker.policy import Rules, Sums
from puter_worker.stages.draft import decide_parked
from puter_worker.stages.intake import Intake
from puter_worker.store import names
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.hostile.floods import one_lives
from tests.hostile.world import SharedRedis, shared, store
from tests.integration.workshop import spec

__all__ = ["shared", "store"]

# In whose name mallory asks, and what else a client could ask for.
CLAIM = "betty"
REQUESTS: list[Request] = [
    UpRequest(tag="one", spec=spec(), batch="b-1", size=1, user=CLAIM, origin=Origin.UP),
    CancelRequest(tag="one", user=CLAIM),
    StopRequest(tag="one", user=CLAIM),
    ExtendRequest(tag="one", user=CLAIM, add_s=60),
]


def stored(shared: SharedRedis, namespace: str, tag: str) -> Record | None:
    with shared.plain(shared.worker) as worker:
        doc = worker.hget(public.record(PuterKey(namespace, tag)), "doc")
    return msgspec.json.decode(doc, type=Record) if doc else None


@pytest.mark.parametrize("inbox", ["betty", "betty:betty", "betty:mallory", "mallory", "mallory:betty", "mallory:"])
@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
def test_no_inbox_but_ones_own_takes_a_request(shared: SharedRedis, inbox: str, request_: Request) -> None:
    with shared.plain(shared.mallory) as mallory, pytest.raises(NoPermissionError):
        mallory.rpush(public.inbox(inbox), msgspec.json.encode(request_))


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda one: type(one).__name__)
async def test_what_a_request_says_of_its_sender_is_ignored(
    shared: SharedRedis, store: Store, request_: Request
) -> None:
    async with shared.puter("mallory") as client:
        await client.submit([MachineRequest("one", spec())])
    with shared.plain(shared.mallory) as mallory:
        mallory.rpush(public.inbox("mallory:mallory"), msgspec.json.encode(request_))

    await Intake(store, Timings()).run_once()

    with shared.plain(shared.worker) as worker:
        keys = [key for key in worker.scan_iter("puter:mallory:*") if worker.type(key) in (b"list", b"hash")]
        texts = [b" ".join(worker.lrange(key, 0, -1) or []) for key in keys if worker.type(key) == b"list"]
        texts += [b" ".join(worker.hvals(key)) for key in keys if worker.type(key) == b"hash"]
    assert any(b"mallory" in text for text in texts)
    assert [text for text in texts if b'"betty"' in text or b"by betty" in text] == []


async def test_other_inboxes_in_the_ready_set_bring_nobody_anything(shared: SharedRedis, store: Store) -> None:
    async with shared.puter("betty") as betty:
        await betty.submit([MachineRequest("one", spec())])
    with shared.plain(shared.mallory) as mallory:
        mallory.sadd(public.READY, "betty:betty", "betty:mallory", "betty", "mallory:betty", "betty:betty:x", ":")

    await Intake(store, Timings()).run_once()

    record = stored(shared, "betty", "one")
    assert record
    assert record.owner == "betty"
    assert stored(shared, "mallory", "one") is None


# -- a removed user ---------------------------------------------------------------------------------------------------


async def test_requests_of_a_removed_user_are_refused_and_the_batch_ends(shared: SharedRedis, store: Store) -> None:
    tags = ["one", "two"]
    async with shared.puter("betty") as betty:
        batch = await betty.submit([MachineRequest(tag, spec()) for tag in tags])
        await betty.cancel(["one"], batch_id=batch)
        await shared.host.remove("betty")
        with capture_logs() as lines:
            await Intake(store, Timings()).run_once()

    async with shared.as_worker("betty") as behind:
        views = await behind.wait(batch_id=batch, tags=tags, wait=WaitFor.RUNNING, timeout_s=120)
    assert [(view.outcome, view.reason) for view in views] == [(Outcome.REFUSED, "user betty was removed")] * 2
    assert [view.record for view in views] == [None, None]
    (refused,) = [line for line in lines if line["event"] == "requests.refused"]
    assert (refused["namespace"], refused["why"]) == ("betty", {"user betty was removed": 3})
    with shared.plain(shared.worker) as worker:
        assert worker.llen(public.inbox("betty:betty")) == 0


async def test_what_a_removed_user_wanted_cancelled_goes_on(shared: SharedRedis, store: Store) -> None:
    async with shared.puter("betty") as betty:
        batch = await betty.submit([MachineRequest("one", spec())])
        await Intake(store, Timings()).run_once()
        await betty.cancel(["one"], batch_id=batch)
        await shared.host.remove("betty")
        await Intake(store, Timings()).run_once()

    async with shared.as_worker("betty") as behind:
        (view,) = (await behind.batch(batch))[1]
    assert (view.outcome, view.record and view.record.ended_at) == (Outcome.CREATED, None)


async def test_the_others_are_served(shared: SharedRedis, store: Store) -> None:
    for user in ("betty", "mallory"):
        async with shared.puter(user) as client:
            await client.submit([MachineRequest("one", spec())])
    await shared.host.remove("mallory")

    await Intake(store, Timings()).run_once()

    assert stored(shared, "betty", "one")
    assert stored(shared, "mallory", "one") is None


async def test_a_user_who_was_added_again_is_served(shared: SharedRedis, store: Store) -> None:
    """Nothing is kept of who exists."""
    intake = Intake(store, Timings())
    for tag, change in (("one", shared.host.remove), ("two", shared.host.add)):
        await change("betty")
        with shared.plain(shared.worker) as worker:
            worker.rpush(
                public.inbox("betty:betty"), msgspec.json.encode(msgspec.structs.replace(REQUESTS[0], tag=tag))
            )
            worker.sadd(public.READY, "betty:betty")
        await intake.run_once()

    assert stored(shared, "betty", "one") is None
    assert stored(shared, "betty", "two")


async def test_requests_that_wait_for_ec2_are_refused_if_their_user_is_removed_meanwhile(
    shared: SharedRedis, store: Store
) -> None:
    key = PuterKey("betty", "one")
    anna = await shared.host.add("anna", namespace="betty")
    await one_lives(store, key)
    by_betty, by_anna = shared.puter("betty"), PuterClient.connect(anna.url, namespace="betty", user="anna")
    async with by_betty, by_anna:
        of_betty = await by_betty.submit([MachineRequest("one", spec())])
        of_anna = await by_anna.submit([MachineRequest("one", spec())])
        await Intake(store, Timings()).run_once()
        await shared.host.remove("betty")

    with shared.plain(shared.worker) as worker:
        assert worker.llen(names.parked(key)) == 2
        rules = Rules()
        await decide_parked(store, key, rules)

        assert worker.llen(names.parked(key)) == 0
    assert rules.take_counted() == {"betty": Sums({"user betty was removed": 1})}
    async with shared.as_worker("betty") as behind:
        rows = [(await behind.batch(batch))[1][0] for batch in (of_betty, of_anna)]
    assert [(row.outcome, row.reason) for row in rows] == [
        (Outcome.REFUSED, "user betty was removed"),
        (Outcome.EXISTING, rows[1].reason),
    ]


async def test_a_request_that_another_version_has_parked_is_decided(shared: SharedRedis, store: Store) -> None:
    key = PuterKey("betty", "one")
    with shared.plain(shared.worker) as worker:
        worker.rpush(names.parked(key), msgspec.json.encode(REQUESTS[0]), b"[]", b"[1,2]", b'["betty",{}]', b"\xff")

        await decide_parked(store, key, Rules())

        assert worker.llen(names.parked(key)) == 0
    record = stored(shared, "betty", "one")
    assert record
    assert record.owner == CLAIM
