"""What is refused costs a client nothing: it is kept for a day, and of each namespace no more than its share.

258 bytes of a request that the policy refused took 3.2 KB for 31 days: Redis was full in two minutes.
"""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.errors import RequestsGone, WaitTimedOut
from puter_client.contract.request import MAX_BATCH
from puter_client.store import names as public
from puter_client.timings import ClientTimings
from puter_client.view import WaitFor
from puter_client.watch import NOTHING_KEPT
from puter_worker.policy import Rules
from puter_worker.stages.intake import Intake
from puter_worker.stages.refused import EVERY_S
from puter_worker.store import names
from puter_worker.store.requests import TAKE_REQUESTS
from puter_worker.store.row_shares import BATCH, DAY_S, MOST_REFUSED
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.hostile.floods import INBOX, MB, Make, SetClock, clock, rows_kept, send, store, take_all
from tests.hostile.requests import up
from tests.hostile.sizes import SEED, size
from tests.hostile.world import SharedRedis, shared
from tests.integration.workshop import spec

__all__ = ["clock", "shared", "store"]

LONG_TAG = "t" * 100


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    """A policy with low limits and a long list, which allows `t3.micro` alone of what is requested here."""
    types = ", ".join(f'"m{n}.large"' for n in range(999))
    path = tmp_path / "policy.toml"
    path.write_text(
        '[namespaces."*"]\ndefault_credentials = true\nregions = ["us-east-1"]\nimages = ["al2023"]\n'
        f'instance_types = ["t3.micro", {types}]\nssh_from_ipv4_prefix = 32\nssh_from_count = 1\nlongest_ttl = "8h"\n'
        "most_records = 10\nmost_requests = 10\nmost_machines = 1\nmost_vcpus = 2\nmost_machines_an_hour = 1\n"
    )
    return Rules(path)


def _not_allowed(**around: object) -> bytes:
    return up(random.Random(SEED), {"region": "us-east-1", "instance_type": "c7i.large"}, **around)


def not_allowed_each_a_batch(n: int) -> bytes:
    return _not_allowed(tag=f"{LONG_TAG}-{n}", batch=f"b-{n}", size=1)


def not_allowed_of_one_batch(n: int) -> bytes:
    return _not_allowed(tag=f"{LONG_TAG}-{n}", batch="b-1", size=MAX_BATCH)


def no_request_each_a_batch(n: int) -> bytes:
    return b'{"type":"up","tag":"%s-%d","batch":"b-%d","size":1,"user":"m"}' % (LONG_TAG.encode(), n, n)


def no_request_of_one_batch(n: int) -> bytes:
    return b'{"type":"up","tag":"%s-%d","batch":"b-1","size":9,"user":"m"}' % (LONG_TAG.encode(), n)


FLOODS = pytest.mark.parametrize(
    "make",
    [not_allowed_each_a_batch, not_allowed_of_one_batch, no_request_each_a_batch, no_request_of_one_batch],
    ids=lambda make: make.__name__,
)


def set_used(shared: SharedRedis, used: int) -> None:
    """So much of mallory's share is used."""
    with shared.plain(shared.worker) as behind:
        behind.set(names.refused("mallory"), used, ex=DAY_S)


def used_of(shared: SharedRedis) -> int:
    with shared.plain(shared.worker) as behind:
        return int(behind.get(names.refused("mallory")) or 0)


@FLOODS
async def test_what_is_refused_takes_some_tens_of_megabytes_at_most(
    shared: SharedRedis, store: Store, rules: Rules, make: Make
) -> None:
    """What each kind takes of Redis, by what it counts: with the whole share in use, it is less than 80 MB."""
    intake, count = Intake(store, Timings(), rules=rules), size(3_000, 10_000)
    before = shared.memory()
    send(shared, make, count)
    await take_all(store, intake)

    assert rows_kept(shared) == count
    assert (shared.memory() - before) / used_of(shared) * MOST_REFUSED < 80 * MB


@FLOODS
async def test_of_a_namespace_no_more_is_kept_than_its_share(
    shared: SharedRedis, store: Store, clock: SetClock, rules: Rules, make: Make
) -> None:
    """The rest is in the log alone, where it is counted like all that is refused."""
    intake, count = Intake(store, Timings(), rules=rules), 2_000
    left = 1_000
    set_used(shared, MOST_REFUSED - left)
    send(shared, make, count)
    with capture_logs() as lines:
        await take_all(store, intake)
        clock.passed_s = EVERY_S
        await intake.run_once()

    assert 0 < rows_kept(shared) <= left
    assert used_of(shared) <= MOST_REFUSED
    with shared.plain(shared.worker) as behind:
        assert behind.llen(public.inbox(INBOX)) == 0
        assert behind.zcard(public.batches("mallory")) <= left
    refused = [line for line in lines if line["event"] == "requests.refused"]
    assert sum(line["count"] for line in refused) == count
    taken = [line["outcomes"].get("not kept", 0) for line in lines if line["event"] == "requests.taken"]
    assert sum(taken) == count - rows_kept(shared)


@FLOODS
async def test_the_share_is_a_namespaces_own_and_begins_anew_after_a_day(
    shared: SharedRedis, store: Store, rules: Rules, make: Make
) -> None:
    intake = Intake(store, Timings(), rules=rules)
    with shared.plain(shared.worker) as behind:
        behind.set(names.refused("betty"), MOST_REFUSED)
        send(shared, make, 1)
        await take_all(store, intake)
        behind.expire(names.refused("mallory"), 1_000)
        send(shared, lambda n: make(n + 1), 1)
        await take_all(store, intake)

        assert rows_kept(shared) == 2
        assert 900 < behind.ttl(names.refused("mallory")) <= 1_000  # what comes later does not put its end off


async def test_workers_that_take_at_the_same_time_go_over_it_by_what_they_have_in_hand(
    shared: SharedRedis, store: Store, rules: Rules
) -> None:
    """Each of several users of a namespace has an inbox of its own."""
    users = [f"mallory:{name}" for name in ("mallory", "mike", "max")]
    left = 100
    set_used(shared, MOST_REFUSED - left)
    with shared.plain(shared.worker) as behind:
        for number, inbox in enumerate(users):
            for n in range(1_000):
                behind.rpush(public.inbox(inbox), not_allowed_of_one_batch(10_000 * number + n))
            behind.sadd(public.READY, inbox)
    intakes = [Intake(store, Timings(), rules=rules) for _ in users]
    while (await store.requests.ready())[0]:
        await asyncio.gather(*(intake.run_once() for intake in intakes))

    assert 0 < rows_kept(shared) <= left + (len(users) - 1) * TAKE_REQUESTS


async def test_a_batch_of_which_all_is_refused_has_all_its_rows(
    shared: SharedRedis, store: Store, rules: Rules
) -> None:
    """Of the largest one too; and whoever looks at it gets them, though they are more than one answer may have."""
    intake, count = Intake(store, Timings(), rules=rules), size(5_000, MAX_BATCH)
    send(shared, not_allowed_of_one_batch, count)
    await take_all(store, intake)

    async with shared.puter("mallory") as mallory:
        info, views = await mallory.batch("b-1")
        events = await mallory.events(f"{LONG_TAG}-0")
    assert info is not None
    assert len(views) == count
    assert all((view.reason or "").startswith("not allowed by the workers' policy") for view in views)
    assert [event.event for event in events] == ["request.refused"]
    with shared.plain(shared.worker) as behind:
        assert behind.ttl(public.batch("mallory", "b-1")) <= DAY_S


@pytest.mark.parametrize("order", [("bad", "good"), ("good", "bad"), ("bad", "good", "bad")])
@pytest.mark.parametrize("together", [True, False])
async def test_a_batch_of_which_something_is_accepted_is_kept_as_long_as_its_records(
    shared: SharedRedis, store: Store, rules: Rules, order: tuple[str, ...], together: bool
) -> None:
    intake = Intake(store, Timings(), rules=rules)
    requests = [
        _not_allowed(tag=f"t-{n}", batch="b-1", size=3)
        if what == "bad"
        else up(random.Random(SEED), {"region": "us-east-1"}, tag=f"t-{n}", batch="b-1", size=3)
        for n, what in enumerate(order)
    ]
    for some in [requests] if together else [[one] for one in requests]:
        send(shared, some.__getitem__, len(some))
        await take_all(store, intake)

    assert rows_kept(shared) == len(order)
    with shared.plain(shared.worker) as behind:
        assert behind.ttl(public.batch("mallory", "b-1")) > 30 * DAY_S


async def test_who_waits_for_a_request_that_left_no_row_is_told(
    shared: SharedRedis, store: Store, rules: Rules
) -> None:
    set_used(shared, MOST_REFUSED)
    intake = Intake(store, Timings(), rules=rules)
    async with shared.puter("mallory") as mallory:
        tags = ["one", "two"]
        batch = await mallory.submit([MachineRequest(tag, spec(instance_type="c7i.large")) for tag in tags])
        waiting = asyncio.create_task(mallory.wait(batch_id=batch, tags=tags, wait=WaitFor.RUNNING, timeout_s=120))
        await take_all(store, intake)
        views = await waiting

    assert [(view.tag, view.state, view.reason) for view in views] == [(tag, "refused", NOTHING_KEPT) for tag in tags]


async def test_who_waits_for_a_batch_of_which_some_left_no_row_is_told_at_the_end(
    shared: SharedRedis, store: Store, rules: Rules
) -> None:
    """Another client of the same user does not know the tags."""
    set_used(shared, MOST_REFUSED - (2 + BATCH))
    send(shared, not_allowed_of_one_batch, 3)
    await take_all(store, Intake(store, Timings(), rules=rules))
    timings = msgspec.structs.replace(ClientTimings(), rows_within_s=0.05, read_again_s=0.05)
    async with PuterClient.connect(shared.mallory, namespace="mallory", timings=timings) as mallory:
        with pytest.raises(RequestsGone, match=f"^99,998 requests of batch b-1: {re.escape(NOTHING_KEPT)}$"):
            await mallory.wait(batch_id="b-1", timeout_s=120)


async def test_who_waits_for_a_request_that_no_worker_has_taken_goes_on_waiting(
    shared: SharedRedis, store: Store
) -> None:
    """Of what is still in the inbox, and of batches of others, a missing row says nothing."""
    async with shared.puter("betty") as betty, shared.puter("mallory") as mallory:
        batch = await betty.submit([MachineRequest("one", spec())])
        others = PuterClient.connect(shared.worker, namespace="betty")
        for client in (betty, mallory, others):
            with pytest.raises(WaitTimedOut):
                await client.wait(batch_id=batch, tags=["one"], timeout_s=0.1)
        await others.aclose()
