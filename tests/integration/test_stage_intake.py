"""intake: what clients may write into Redis, good and bad; nothing of it stops the requests of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.batch import BatchRow
from puter_client.contract.inbox import Inbox
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.request import MAX_REQUEST_BYTES, Origin, UpRequest
from puter_client.store import names as public
from puter_worker.stages.intake import Intake
from puter_worker.store import names
from puter_worker.store.requests import TAKE_REQUESTS
from tests.integration.stage_world import Hands, hands, redis_keeps_its_rules, until
from tests.integration.workshop import Workshop, spec

__all__ = ["hands", "redis_keeps_its_rules"]
pytestmark = pytest.mark.usefixtures("redis_keeps_its_rules")

GOOD = UpRequest(tag="bad", spec=spec(), batch="b-1", size=1, user="mallory", origin=Origin.UP)


def request(**changes: Any) -> bytes:
    """A request as a client would append it, with some of its words changed."""
    return msgspec.json.encode({**msgspec.to_builtins(GOOD), **changes})


NOT_REQUESTS = {
    "nothing": b"",
    "garbage": b"{",
    "a text": b'"up"',
    "bad UTF-8": b'{"type":"up","tag":"\xff\xfe"}',
    "a NUL": b"\0",
    "deep nesting": b"[" * 100_000,
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07mallory\x94.",
    "a number too large": b'{"type":"up","tag":"x","batch":"b-1","size":1e400}',
    "too many bytes": b" " * (MAX_REQUEST_BYTES + 1),
}

MULTIPART = "Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n--b\n"
NESTED = "".join(f"Content-Type: multipart/mixed; boundary={n}\n\n--{n}\n" for n in range(300))
ALIASES = "#cloud-config\nx0: &x0 {a: b}\n" + "".join(
    f"x{n}: &x{n}\n  <<: [{', '.join([f'*x{n - 1}'] * 20)}]\n" for n in range(1, 60)
)

REFUSED = {
    "an unknown kind": request(type="launch"),
    "an unknown field": request(sudo=True),
    "another version": request(v=2),
    "an unknown field of the spec": request(spec={"shell": "rm"}),
    "an unknown type of machine": request(spec={"instance_type": "../../etc"}),
    "a bad CIDR": request(spec={"ssh_from": ["everywhere"]}),
    "a time to live of nothing": request(spec={"ttl_s": 0}),
    "a name of a user with a line break": request(user="root\nX: y"),
    "user data of no known kind": request(spec={"user_data": "echo no shebang"}),
    "user data that is fetched": request(spec={"user_data": "#include file:///etc/passwd"}),
    "user data that is unpacked": request(
        spec={"user_data": f"{MULTIPART}Content-Type: application/gzip\n\n#!\n--b--\n"}
    ),
    "user data of a type beyond ASCII": request(spec={"user_data": f"{MULTIPART}Content-Type: téxt/x\n\n#!\n--b--\n"}),
    "user data that nests": request(spec={"user_data": NESTED}),
    "user data whose aliases never end": request(spec={"user_data": ALIASES}),
    "a text for a flag": request(again="yes"),
}


@pytest.mark.parametrize("raw", NOT_REQUESTS.values(), ids=NOT_REQUESTS)
async def test_what_is_no_request_is_dropped_and_the_next_one_taken(
    workshop: Workshop, hands: Hands, raw: bytes
) -> None:
    append(workshop, "betty", raw)
    await workshop.client.submit([MachineRequest("good", spec())])

    assert await taken(hands) == 2

    assert (await workshop.record("good")).phase is Phase.QUEUED
    assert left(workshop, "betty") == 0


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
async def test_a_request_that_cannot_be_used_is_refused_in_its_batch(
    workshop: Workshop, hands: Hands, raw: bytes
) -> None:
    append(workshop, "betty", raw)

    await hands.take_requests()

    (view,) = (await workshop.client.batch("b-1"))[1]
    assert view.tag == "bad"
    assert view.outcome is Outcome.REFUSED
    assert view.reason
    assert view.record is None
    assert "\n" not in view.reason


@pytest.mark.parametrize("tag", ["", "../x", "a/b", "a b", "_info", "x" * 129, "ü", "a\n"])
async def test_a_bad_tag_is_nobodys(workshop: Workshop, hands: Hands, tag: str) -> None:
    append(workshop, "betty", request(tag=tag))

    assert await taken(hands) == 1

    assert left(workshop, "betty") == 0
    assert await workshop.client.recent() == []


async def test_a_refusal_quotes_no_secret(workshop: Workshop, hands: Hands) -> None:
    append(workshop, "betty", request(spec={"run": "make", "env": {"PASSWORD": "hunter2", "a b": "hunter2"}}))

    await hands.take_requests()

    (view,) = (await workshop.client.batch("b-1"))[1]
    assert view.outcome is Outcome.REFUSED
    assert "hunter2" not in str(view.to_json())


async def test_the_namespace_of_a_request_is_its_inboxs(workshop: Workshop, hands: Hands) -> None:
    append(workshop, "betty", request(namespace="anna"))

    await hands.take_requests()

    anna = workshop.client_of("anna")
    assert await anna.recent() == []
    await anna.aclose()


async def test_nobodys_bad_requests_stop_anybody_elses(workshop: Workshop, anna: PuterClient) -> None:
    append(workshop, "mallory", *([b"{"] * 2_000))
    append(workshop, "no/namespace", b"{")
    async with workshop.working():
        (view,) = await workshop.request("one", client=anna)
        await until("the ready set is silent", lambda: not ready_namespaces(workshop))

    assert view.phase is Phase.RUNNING
    assert left(workshop, "mallory") == 0


@pytest.mark.parametrize("others", [1, 3, 60])
async def test_many_requests_of_others_do_not_hold_up_one(
    workshop: Workshop, hands: Hands, anna: PuterClient, others: int
) -> None:
    """Counted is how many requests of others are taken between the one's coming and its taking."""
    flood = [request(tag=f"t-{n}", batch="b-1") for n in range(1_200 // others)]
    for number in range(others):
        append(workshop, f"other-{number}", *flood)
    intake = Intake(hands.store, workshop.timings)
    await intake.run_once()

    def untaken() -> int:
        return sum(left(workshop, f"other-{number}") for number in range(others))

    before, turns = untaken(), 0
    assert 0 < before < len(flood) * others
    await anna.submit([MachineRequest("one", spec())])
    while not (await anna.views(["one"]))[0].record:
        await intake.run_once()
        turns += 1
    assert turns <= 2  # of many that were never served, some come before
    assert before - untaken() <= turns * 2 * TAKE_REQUESTS


async def test_what_was_parked_before_is_decided_before_what_comes_now(workshop: Workshop, hands: Hands) -> None:
    """A key whose workload is run again needs no word from EC2 any more, though requests wait for it still."""
    key = PuterKey("betty", "one")
    await workshop.client.submit([MachineRequest("one", spec())], batch_id="b-1")
    await hands.take_requests()
    with workshop.server.client() as behind:
        behind.rpush(names.parked(key), request(tag="one", batch="b-2"))
    await workshop.client.cancel(["one"], batch_id="b-1")

    for _ in range(2):
        await hands.take_requests()

    (view,) = await workshop.client.views(["one"])
    _, (parked,) = await workshop.client.batch("b-2")
    assert view.record
    assert (view.record.phase, parked.outcome) == (Phase.CANCELLED, Outcome.JOINED)
    assert left(workshop, "betty") == 0
    with workshop.server.client() as behind:
        assert not behind.exists(names.parked(key))


async def test_of_two_intakes_one_takes_a_request(workshop: Workshop, hands: Hands) -> None:
    await workshop.client.submit([MachineRequest(f"t-{n}", spec()) for n in range(300)])
    read = await _read_the_same(hands, intakes=4)

    assert read == [300] * 4
    assert left(workshop, "betty") == 0
    records = [view.record for view in await workshop.client.views([f"t-{n}" for n in range(300)])]
    assert {record and record.request_number for record in records} == {1}


async def _read_the_same(hands: Hands, *, intakes: int) -> list[int]:
    """Run intakes that all read before one of them writes, past the short lock; how many requests each read."""
    requests, in_turn, all_have_read = hands.store.requests, asyncio.Lock(), asyncio.Barrier(intakes)
    take, read = requests.take, []

    async def unlocked(inbox: Inbox, *, most: int = TAKE_REQUESTS) -> tuple[list[bytes], bytes | None]:
        async with in_turn:
            await requests.give_back(inbox)
            raws, count = await take(inbox, most=most)
        read.append(len(raws))
        await all_have_read.wait()
        return raws, count

    requests.take = unlocked  # type: ignore[method-assign]
    await asyncio.gather(*(hands.take_requests() for _ in range(intakes)))
    requests.take = take  # type: ignore[method-assign]
    return read


async def _take_unlocked(behind: Any, hands: Hands) -> None:
    behind.delete(names.taking("betty"))
    await hands.take_requests()


async def test_an_intake_that_was_overtaken_trims_nothing(workshop: Workshop, hands: Hands) -> None:
    append(workshop, "betty", b"{")  # writes no record: only the count of takings tells that it is gone
    commit = hands.store.db.commit

    async def overtaken(txn: Any) -> list[int]:
        hands.store.db.commit = commit  # type: ignore[method-assign]
        with workshop.server.client() as behind:
            await _take_unlocked(behind, hands)
        await workshop.client.submit([MachineRequest("one", spec())])
        return await commit(txn)

    hands.store.db.commit = overtaken  # type: ignore[method-assign]

    assert await taken(hands) == 1  # by the one that came between
    assert left(workshop, "betty") == 1


async def test_a_request_that_comes_while_another_is_settled_is_kept(workshop: Workshop, hands: Hands) -> None:
    await workshop.client.submit([MachineRequest("one", spec())])
    commit = hands.store.db.commit

    async def late(txn: Any) -> list[int]:
        hands.store.db.commit = commit  # type: ignore[method-assign]
        await workshop.client.submit([MachineRequest("two", spec())])
        return await commit(txn)

    hands.store.db.commit = late  # type: ignore[method-assign]

    await hands.take_requests()
    assert ready_namespaces(workshop) == {b"betty"}
    await hands.take_requests()

    assert (await workshop.record("two")).phase is Phase.QUEUED


async def test_rows_of_a_batch_are_there_as_soon_as_its_head_is(workshop: Workshop, hands: Hands) -> None:
    batch = await workshop.client.submit([MachineRequest("one", spec()), MachineRequest("two", spec())])

    await hands.take_requests()

    info, views = await workshop.client.batch(batch)
    assert info
    assert (info.size, info.owner) == (2, "betty")
    assert [view.row for view in views] == [BatchRow(outcome=Outcome.CREATED, generation=1, request_number=1)] * 2


# -- withdrawing -----------------------------------------------------------------------------------------------------


async def test_a_cancel_before_the_launch_wins(workshop: Workshop) -> None:
    batch = await workshop.client.submit([MachineRequest("one", spec()), MachineRequest("two", spec())])
    await workshop.client.cancel(["one"])
    async with workshop.working():
        one, two = await workshop.client.wait(batch_id=batch, tags=["one", "two"], timeout_s=120)

    assert (one.phase, one.outcome, one.reason) == (Phase.CANCELLED, Outcome.CANCELLED, "cancelled by betty")
    assert two.phase is Phase.RUNNING
    assert len(workshop.instances()) == 1


async def test_a_cancel_after_the_launch_loses(workshop: Workshop) -> None:
    async with workshop.working():
        await workshop.request("one")
        await workshop.client.cancel(["one"])
        await until("the cancel is taken", lambda: not ready_namespaces(workshop))

    assert (await workshop.record("one")).phase is Phase.RUNNING
    assert len(workshop.instances("running")) == 1


async def test_a_batchs_cancel_withdraws_its_own_requests_only(workshop: Workshop, hands: Hands) -> None:
    first = await workshop.client.submit([MachineRequest("one", spec())])
    second = await workshop.client.submit([MachineRequest("one", spec()), MachineRequest("two", spec())])
    await workshop.client.cancel(["one", "two"], batch_id=second)

    await hands.take_requests()

    one, two = await workshop.client.views(["one", "two"])
    assert (one.phase, two.phase) == (Phase.QUEUED, Phase.CANCELLED)
    assert one.record
    assert one.record.batch_id == first


async def test_requests_and_cancels_of_one_key_that_come_together_follow_one_another(
    workshop: Workshop, hands: Hands
) -> None:
    first = await workshop.client.submit([MachineRequest("one", spec())])
    await workshop.client.cancel(["one"])
    second = await workshop.client.submit([MachineRequest("one", spec())])
    await workshop.client.cancel(["one"], batch_id=second)
    third = await workshop.client.submit([MachineRequest("one", spec())])

    assert await taken(hands) == 5

    record = await workshop.record("one")
    assert (record.phase, record.request_number, record.batch_id) == (Phase.QUEUED, 3, third)
    rows = [(await workshop.client.batch(batch))[1][0].row for batch in (first, second, third)]
    assert [row and (row.outcome, row.request_number) for row in rows] == [
        (Outcome.CANCELLED, 1),
        (Outcome.CANCELLED, 2),
        (Outcome.CREATED, 3),
    ]


async def test_a_defect_that_one_namespace_meets_stops_no_other(
    hands: Hands, workshop: Workshop, anna: PuterClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = hands.store.requests.take

    async def take_but_of_betty(inbox: Inbox, *, most: int) -> Any:
        if inbox.namespace == "betty":
            raise KeyError("a defect")
        return await take(inbox, most=most)

    monkeypatch.setattr(hands.store.requests, "take", take_but_of_betty)
    for client in (workshop.client, anna):
        await client.submit([MachineRequest("one", spec())])

    with pytest.raises(KeyError, match="a defect"):
        await hands.take_requests()

    assert (left(workshop, "betty"), left(workshop, "anna")) == (1, 0)


# -- behind the scenes -----------------------------------------------------------------------------------------------


async def taken(hands: Hands) -> int:
    """How many requests the intake takes, as it tells."""
    with capture_logs() as logs:
        await hands.take_requests()
    return sum(line["count"] for line in logs if line["event"] == "requests.taken")


@pytest.fixture
async def anna(workshop: Workshop) -> AsyncIterator[PuterClient]:
    """A client in another namespace."""
    client = workshop.client_of("anna")
    yield client
    await client.aclose()


def append(shop: Workshop, namespace: str, *raws: bytes) -> None:
    """Appends to an inbox what no client of Puter's would."""
    with shop.server.client() as behind:
        behind.rpush(public.inbox(namespace), *raws)
        behind.sadd(public.READY, namespace)


def left(shop: Workshop, namespace: str) -> int:
    with shop.server.client() as behind:
        return int(behind.llen(public.inbox(namespace)))


def ready_namespaces(shop: Workshop) -> set[bytes]:
    with shop.server.client() as behind:
        return set(behind.smembers(public.READY))
