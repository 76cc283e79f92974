"""What is taken, and launches nothing new, costs a client nothing either: of a day's requests so many are taken.

Each left a row for 31 days: a client that asked for the same machine again and again filled Redis in some minutes.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.request import MAX_BATCH
from puter_client.store import names as public
from puter_client.view import WaitFor
from puter_worker.policy import Rules
from puter_worker.stages.draft import decide_parked
from puter_worker.stages.intake import Intake
from puter_worker.stages.rows import TOO_MANY
from puter_worker.store import names
from puter_worker.store.row_shares import BATCH, DAY_S, MOST_REFUSED, MOST_TAKEN
from puter_worker.store.store import Store
from puter_worker.timings import Timings
from tests.hostile.floods import MB, Make, clock, one_lives, rows_kept, send, store, take_all
from tests.hostile.requests import up
from tests.hostile.sizes import SEED, size
from tests.hostile.world import SharedRedis, shared
from tests.integration.workshop import spec

__all__ = ["clock", "shared", "store"]
KEY = PuterKey("mallory", "t")


def the_same_again(n: int) -> bytes:
    return up(random.Random(SEED), tag="t", batch=f"b-{n}", size=1)


def with_another_ttl(n: int) -> bytes:
    return up(random.Random(SEED), {"ttl_s": 3_600 + n % 2}, tag="t", batch=f"b-{n}", size=1, given=["ttl_s"])


def otherwise(n: int) -> bytes:
    return up(random.Random(SEED), {"instance_type": f"m{n}.large"} if n else None, tag="t", batch=f"b-{n}", size=1)


def cancelled_before(n: int) -> bytes:
    if n % 2:
        return b'{"type":"cancel","tag":"t","user":"m"}'
    return up(random.Random(SEED), tag="t", batch=f"b-{n}", size=1)


FLOODS = pytest.mark.parametrize(
    "make", [the_same_again, with_another_ttl, otherwise, cancelled_before], ids=lambda make: make.__name__
)


def set_taken(shared: SharedRedis, used: int) -> None:
    """So many of mallory's requests were taken within the day."""
    with shared.plain(shared.worker) as behind:
        behind.set(names.requested("mallory", "mallory"), used, ex=DAY_S)


def taken_of(shared: SharedRedis) -> int:
    with shared.plain(shared.worker) as behind:
        return int(behind.get(names.requested("mallory", "mallory")) or 0)


def refused_of(shared: SharedRedis) -> int:
    with shared.plain(shared.worker) as behind:
        return int(behind.get(names.refused("mallory")) or 0)


@FLOODS
async def test_what_a_days_requests_take_of_redis_is_bounded(shared: SharedRedis, store: Store, make: Make) -> None:
    """What each kind takes, by what it counts: with the whole share in use, it is less than 350 MB."""
    intake, count = Intake(store, Timings()), size(3_000, 10_000)
    before = shared.memory()
    send(shared, make, count)
    await take_all(store, intake)

    assert rows_kept(shared) == taken_of(shared) // (1 + BATCH)
    assert rows_kept(shared) in (count, count // 2)
    assert (shared.memory() - before) / taken_of(shared) * MOST_TAKEN < 350 * MB


async def test_rows_of_one_batch_take_no_more(shared: SharedRedis, store: Store) -> None:
    """A batch that is submitted again: each row says with which fields its machine was requested otherwise."""
    intake, count = Intake(store, Timings()), size(1_000, 10_000)

    def whole(batch: str, **fields: object) -> Make:
        return lambda n: up(random.Random(SEED), fields, tag=f"{'t' * 100}-{n}", batch=batch, size=count)

    send(shared, whole("b-1"), count)
    await take_all(store, intake)
    before, counted = shared.memory(), taken_of(shared)
    otherwise = {
        "instance_type": "m5.large", "os": "debian12", "disk": 50, "spot": True, "alone": True, "run": "work",
        "retries": 3, "retry_on": ["failed"], "docker": False, "env": {"A": "b"}, "on_exit": "keep", "ttl_s": 7_200,
        "subnet": "subnet-0123456789abcdef0", "subnets": ["subnet-0123456789abcdef1"],
        "instance_profile": "puter-machine", "aws_tags": {"a": "b"},
        "instance_types": ["m6i.large"], "give_up_after_s": 60, "ssh_user": "me", "key_name": "mine",
    }  # fmt: skip
    send(shared, whole("b-2", **otherwise), count)
    await take_all(store, intake)

    assert taken_of(shared) - counted == count + BATCH
    assert (shared.memory() - before) / count * MOST_TAKEN < 350 * MB


@FLOODS
async def test_beyond_its_share_a_namespace_is_refused(shared: SharedRedis, store: Store, make: Make) -> None:
    intake, rows = Intake(store, Timings()), 10
    set_taken(shared, MOST_TAKEN - rows * (1 + BATCH))
    send(shared, make, 1_000)
    await take_all(store, intake)

    refused = refused_of(shared) // (1 + BATCH)
    assert refused in (1_000 - rows, 500 - rows)
    assert rows_kept(shared) == rows + refused
    assert taken_of(shared) == MOST_TAKEN


async def test_what_waits_for_ec2s_word_counts_once(shared: SharedRedis, store: Store) -> None:
    """Requests for a machine that lives are parked, and decided later."""
    await one_lives(store, KEY)
    set_taken(shared, MOST_TAKEN - 2 * (1 + BATCH))
    send(shared, the_same_again, 3)
    await take_all(store, Intake(store, Timings()))
    with shared.plain(shared.worker) as behind:
        parked = behind.llen(names.parked(KEY))
    await decide_parked(store, KEY, Rules())

    assert parked == 2
    assert (rows_kept(shared), taken_of(shared)) == (3, MOST_TAKEN)


async def test_the_largest_batch_is_taken_five_times_a_day_and_the_next_day_again(
    shared: SharedRedis, store: Store
) -> None:
    assert MOST_TAKEN >= 5 * MAX_BATCH
    intake = Intake(store, Timings())
    with shared.plain(shared.worker) as behind:
        behind.set(names.requested("mallory", "mike"), MOST_TAKEN)
        send(shared, the_same_again, 1)
        await take_all(store, intake)
        behind.expire(names.requested("mallory", "mallory"), 1_000)
        send(shared, lambda n: the_same_again(n + 1), 1)
        await take_all(store, intake)

        assert rows_kept(shared) == 2
        assert (
            900 < behind.ttl(names.requested("mallory", "mallory")) <= 1_000
        )  # what comes later does not put its end off


async def test_who_has_made_too_many_requests_is_told(shared: SharedRedis, store: Store) -> None:
    set_taken(shared, MOST_TAKEN)
    async with shared.puter("mallory") as mallory:
        batch = await mallory.submit([MachineRequest("one", spec())])
        await take_all(store, Intake(store, Timings()))
        (view,) = await mallory.wait(batch_id=batch, tags=["one"], wait=WaitFor.RUNNING, timeout_s=120)

    assert (view.state, view.reason) == ("refused", TOO_MANY)


async def test_what_the_policy_refuses_does_not_count_as_taken(
    shared: SharedRedis, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "policy.toml"
    path.write_text('[namespaces."*"]\nregions = ["eu-west-1"]\n')
    send(shared, the_same_again, 10)
    await take_all(store, Intake(store, Timings(), rules=Rules(path)))

    assert (taken_of(shared), rows_kept(shared)) == (0, 10)


async def test_a_request_that_was_parked_is_answered_though_no_refusal_is_kept_any_more(
    shared: SharedRedis, store: Store
) -> None:
    """It has its row: whoever waits for it looks at that."""
    await one_lives(store, KEY)
    send(shared, the_same_again, 1)
    await take_all(store, Intake(store, Timings()))
    with shared.plain(shared.worker) as behind:
        behind.set(names.refused("mallory"), MOST_REFUSED)
        await shared.host.remove("mallory")
        await decide_parked(store, KEY, Rules())
        row = behind.hget(public.batch("mallory", "b-0"), "t")

    assert b"user mallory was removed" in row
