"""The scripts of the workers' store, on a real server: transactions, durability, leases, buckets."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from math import inf
from typing import Any

import pytest
from redis.asyncio import Redis

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_worker.clock import Clock
from puter_worker.pacer import Budget, Pacer, Reservation
from puter_worker.rates import CREATE_TAGS, INSTANCES, RUN_INSTANCES, Rates
from puter_worker.store import names
from puter_worker.store.arq_adapter import LOCK_PREFIX, QUEUE
from puter_worker.store.ingress import IngressRule
from puter_worker.store.store import Store
from puter_worker.store.token_buckets import TokenBuckets
from puter_worker.store.txn import Txn
from puter_worker.timings import Timings
from tests.integration.redis_servers import RedisServer


def store_of(redis: Redis, timings: Timings | None = None) -> Store:
    """A worker's view of Redis."""
    return Store(redis, clock=Clock(), timings=timings or Timings())


@pytest.fixture
async def store(any_redis: RedisServer) -> AsyncIterator[Store]:
    """A worker's view of each kind of server."""
    redis = Redis.from_url(any_redis.url)
    # What is in flight counts as that, and a lease holds, for as long as any test takes.
    opened = store_of(redis, Timings(arrives_s=50.0, lease_s=120.0))
    await opened.db.sync_clock()
    yield opened
    await redis.aclose()


# -- transactions ----------------------------------------------------------------------------------------------------


async def test_all_is_written_if_all_holds(store: Store) -> None:
    await store.db.redis.hset("h", "f", "1")
    await store.db.redis.zadd("z", {"m": 1})
    await store.db.redis.rpush("l", "first", "second")
    await store.db.redis.sadd("s", "x")
    txn = Txn()
    txn.expect("h", "f", b"1")
    txn.expect("h", "g", None)
    txn.expect_member("z", "m")
    txn.expect_length("l", 2)
    txn.expect_size("s", 1)
    txn.do("SET", "written", "yes")
    txn.do("RPUSH", "list", "a", "b", "c")

    assert await store.commit(txn) == []

    assert await store.db.redis.get("written") == b"yes"
    assert await store.db.redis.lrange("list", 0, -1) == [b"a", b"b", b"c"]


async def test_nothing_is_written_if_anything_does_not_hold_and_each_is_named(store: Store) -> None:
    txn = Txn()
    txn.expect("h", "f", b"1")
    txn.expect("h", "f", None)
    txn.expect_member("z", "m")
    txn.expect_length("l", 2)
    txn.do("SET", "written", "yes")

    assert await store.commit(txn) == [0, 2, 3]

    assert await store.db.redis.get("written") is None


async def test_of_many_that_rest_on_the_same_one_writes(store: Store) -> None:
    await store.db.redis.hset("h", "rev", 1)

    def txn(writer: int) -> Txn:
        made = Txn()
        made.expect("h", "rev", b"1")
        made.do("HSET", "h", "rev", 2)
        made.do("RPUSH", "writers", writer)
        return made

    answers = await asyncio.gather(*(store.commit(txn(n)) for n in range(20)))

    assert sorted(answers) == [[], *[[0]] * 19]
    assert await store.db.redis.llen("writers") == 1


async def test_any_bytes_can_be_written(store: Store) -> None:
    value, txn = bytes(range(256)), Txn()
    txn.do("SET", "b", value)

    await store.commit(txn)

    assert await store.db.redis.get("b") == value


async def test_a_transaction_of_five_hundred_records_fits(store: Store) -> None:
    txn = Txn()
    for n in range(500):
        txn.expect(f"h{n}", "rev", None)
        for m in range(10):
            txn.do("HSET", f"h{n}", f"f{m}", "x" * 200)

    assert await store.commit(txn) == []

    assert await store.db.redis.hlen("h499") == 10


async def test_joined_commands_leave_what_they_would_leave_one_by_one(store: Store) -> None:
    redis, dice = store.db.redis, random.Random(4)

    def any_command() -> tuple[Any, ...]:
        key, m, other = dice.randrange(2), dice.randrange(4), dice.randrange(4)
        return dice.choice(
            [
                ("HSET", f"h{key}", f"f{m}", bytes([other])),
                ("HSET", f"h{key}", f"f{m}", "a", f"f{other}", "b"),
                ("HDEL", f"h{key}", f"f{m}"),
                ("RPUSH", f"l{key}", str(m)),
                ("LTRIM", f"l{key}", 1, -1),
                ("SADD", f"s{key}", str(m)),
                ("SREM", f"s{key}", str(m)),
                ("ZADD", f"z{key}", other, str(m)),
                ("ZADD", f"z{key}", "NX", other, str(m)),
                ("ZADD", f"z{key}", "XX", other, str(m)),
                ("ZREM", f"z{key}", str(m)),
                ("UNLINK", f"{dice.choice('hlsz')}{key}"),
            ]
        )

    async def left() -> dict[bytes, Any]:
        found: dict[bytes, Any] = {}
        for key in sorted(await redis.keys()):
            kind = key[:1]
            if kind == b"h":
                found[key] = await redis.hgetall(key)
            elif kind == b"l":
                found[key] = await redis.lrange(key, 0, -1)
            elif kind == b"s":
                found[key] = await redis.smembers(key)
            else:
                found[key] = await redis.zrange(key, 0, -1, withscores=True)
        return found

    for _ in range(100):
        commands = [any_command() for _ in range(40)]
        await redis.flushall()
        for command in commands:
            await redis.execute_command(*command)
        one_by_one = await left()
        await redis.flushall()
        txn = Txn()
        for command in commands:
            txn.do(*command)
        assert await store.commit(txn) == []
        assert await left() == one_by_one, commands


# -- durability ------------------------------------------------------------------------------------------------------


async def test_a_durable_write_is_confirmed(store: Store) -> None:
    txn = Txn()
    txn.do("SET", "a", "1")

    assert await store.commit_durably(txn) == ([], None)


async def test_a_durable_write_that_does_not_hold_is_not_done(store: Store) -> None:
    txn = Txn()
    txn.expect("h", "f", b"1")
    txn.do("SET", "a", "1")

    broken, _ = await store.commit_durably(txn)

    assert broken == [0]
    assert await store.db.redis.get("a") is None


async def test_a_durable_write_survives_a_kill(valkey: RedisServer) -> None:
    store = store_of(Redis.from_url(valkey.url))
    txn = Txn()
    txn.do("SET", "a", "1")
    await store.commit_durably(txn)
    await store.db.redis.aclose()
    valkey.kill()
    valkey.start()

    with valkey.client() as behind:
        assert behind.get("a") == b"1"


async def test_a_redis_that_keeps_nothing_on_disk_is_told_what_to_set(store: Store) -> None:
    await store.db.redis.config_set("appendonly", "no")
    txn = Txn()
    txn.do("SET", "a", "1")
    try:
        broken, why = await store.commit_durably(txn)
    finally:
        await store.db.redis.config_set("appendonly", "yes")

    assert broken == []
    assert why
    assert "appendonly yes" in why


async def test_scripts_come_back_when_redis_has_forgotten_them(store: Store) -> None:
    await store.commit(Txn())
    await store.db.redis.script_flush()
    txn = Txn()
    txn.do("SET", "a", "1")

    assert await store.commit_durably(txn) == ([], None)
    assert await store.db.redis.get("a") == b"1"


# -- leases ----------------------------------------------------------------------------------------------------------


async def test_a_lease_is_one_holders_until_it_gives_it_up(store: Store) -> None:
    taken = [await store.leases.acquire("x", holder) for holder in ("a", "b", "a")]
    await store.leases.release("x", "b")
    still = await store.leases.acquire("x", "b")
    await store.leases.release("x", "a")

    assert (taken[0], taken[2]) == (0, 0)
    assert 0 < taken[1] <= store.timings.lease_s
    assert still > 0
    assert await store.leases.acquire("x", "b") == 0


async def test_what_is_claimed_is_not_claimed_again_before_its_time(store: Store) -> None:
    txn, now = Txn(), store.now()
    for tag, at in (("one", 0), ("two", 0), ("later", now + 60)):
        store.ingress.add(txn, IngressRule("betty", tag, ()), at)
    await store.commit(txn)

    first = await store.ingress.claim(1, now + 60)
    second = await store.ingress.claim(10, now + 60)
    third = await store.ingress.claim(10, now + 60)

    assert [[one.tag for one in some] for some in (first, second, third)] == [["one"], ["two"], []]


async def test_few_ingress_rules_of_one_namespace_do_not_wait_for_many_of_another(store: Store) -> None:
    txn, now = Txn(), store.now()
    for number in range(50):
        store.ingress.add(txn, IngressRule("mallory", "one", (f"192.0.2.{number}/32",)), now - 60)
    store.ingress.add(txn, IngressRule("betty", "one", ("192.0.2.7/32",)), now - 1)
    await store.commit(txn)

    claimed = await store.ingress.claim(10, now + 60)

    assert 6 <= len(claimed) <= 10
    assert "betty" in [rule.namespace for rule in claimed[:2]]
    assert len(claimed) + len(await store.ingress.claim(100, now + 60)) == 51
    assert await store.ingress.next_due() == pytest.approx(now + 60)


async def test_a_look_up_that_is_claimed_is_nobody_elses_before_its_time(store: Store) -> None:
    look_ups, now, txn = store.look_ups.of("f", "betty"), store.now(), Txn()
    for tag, at in (("one", 1), ("two", 2), ("later", now + 60)):
        store.look_ups.add(txn, "f", PuterKey("betty", tag), at)
    await store.commit(txn)

    before = await store.look_ups.due("f", "betty", now, 10)
    await look_ups.claim_these(["one", "over"], now + 60)

    assert before == {"one": 1.0, "two": 2.0}
    assert await store.look_ups.due("f", "betty", now, 10) == {"two": 2.0}
    assert await store.db.redis.zscore(look_ups.name, "over") is None


async def test_of_many_writes_those_that_rest_on_what_has_moved_on_are_left_out(store: Store) -> None:
    await store.db.redis.hset("moved", "rev", 2)

    def put(txn: Txn, name: str) -> None:
        if name != "free":
            txn.expect(name, "rev", None)
            txn.expect("moved" if name == "late" else name, "rev", None)
        txn.do("HSET", name, "rev", 1)

    written = await store.commit_each(["free", "one", "moved", "two", "late", "three"], put)

    assert written == ["free", "one", "two", "three"]
    assert [await store.db.redis.hget(name, "rev") for name in ("one", "moved", "late", "three")] == [
        b"1",
        b"2",
        None,
        b"1",
    ]


# -- buckets ---------------------------------------------------------------------------------------------------------


# What a bucket gets in a second, it gets in SLOW seconds here: in the time that a test takes nothing comes back.
SLOW = 1_000.0
RATES = Rates().faster(1 / SLOW)


def buckets(
    store: Store, *, account: str = "123456789012", region: str = "us-east-1", rates: Rates = RATES
) -> TokenBuckets:
    return store.token_buckets(account, region, rates)


def pacer(store: Store) -> Pacer:
    return Pacer(buckets(store), rates=RATES, clock=store.db.clock, timings=store.timings)


async def holds(store: Store, action: str, tokens: int, *, since_s: float = 0.0) -> None:
    """Let an action's bucket have held so many tokens for so long."""
    bucket = names.bucket("123456789012", "us-east-1", action)
    await store.db.redis.hset(bucket, mapping={"tokens": str(tokens), "at": str(store.now() - since_s)})


async def test_a_bucket_gives_what_it_holds_and_then_says_how_long_to_wait(store: Store) -> None:
    waits, before = [], []
    for _ in range(5):
        before.append(await pacer(store).available(RUN_INSTANCES))
        waits.append(await pacer(store).take_now(RUN_INSTANCES))

    assert waits[:4] == [0, 0, 0, 0]
    assert before[:4] == [4, 3, 2, 1]
    assert 0 < waits[4] <= 0.5 * SLOW


async def test_tokens_come_back_at_the_published_rate(store: Store) -> None:
    await holds(store, RUN_INSTANCES, 0, since_s=1.1 * SLOW)

    assert await pacer(store).available(RUN_INSTANCES) == 2


async def test_looking_at_a_bucket_takes_nothing_and_says_how_long_to_wait(store: Store) -> None:
    await holds(store, RUN_INSTANCES, 1)

    looks = [await buckets(store).available(RUN_INSTANCES, 2) for _ in range(2)]

    assert [tokens for tokens, _ in looks] == [1, 1]
    assert all(0 < wait_s <= 0.5 * SLOW for _, wait_s in looks)
    assert await buckets(store).available(RUN_INSTANCES) == (1, 0.0)


async def test_of_several_buckets_all_give_or_none(store: Store) -> None:
    await holds(store, INSTANCES, 10)

    refused = await buckets(store).reserve({RUN_INSTANCES: 1, INSTANCES: 100})
    after = await pacer(store).available(RUN_INSTANCES)

    assert 45 * SLOW < refused <= 46.5 * SLOW  # three are left in it once it is not full
    assert after == 4


async def test_more_than_a_bucket_holds_is_given_when_it_is_full_and_owed(store: Store) -> None:
    assert await buckets(store).reserve({RUN_INSTANCES: 6}) == 0

    assert await buckets(store).reserve({RUN_INSTANCES: 1}) > 0.5 * SLOW


async def test_a_full_bucket_is_given_whole_and_of_another_the_reserve_is_left(store: Store) -> None:
    full = await pacer(store).available(INSTANCES)
    wait_s = await buckets(store).reserve({INSTANCES: 1_000})
    await holds(store, INSTANCES, 100)

    assert (wait_s, full) == (0.0, 1_000)
    assert await pacer(store).available(INSTANCES) == 97


async def waits(store: Store, seconds: float) -> int:
    """What the bucket of RunInstances has to give after so long, at the published rate."""
    bucket = names.bucket("123456789012", "us-east-1", RUN_INSTANCES)
    await store.db.redis.hset(bucket, mapping={"at": store.now() - seconds * SLOW})
    await buckets(store).refund({RUN_INSTANCES: 0})  # counts what has come back until now
    return await pacer(store).available(RUN_INSTANCES)


async def test_tokens_reserved_come_back_only_when_their_call_has_arrived(store: Store) -> None:
    first, second = [await pacer(store).reserve({RUN_INSTANCES: 2}) for _ in range(2)]
    assert isinstance(first, Reservation)
    assert isinstance(second, Reservation)
    left = []
    async with first:
        async with second:
            left.append(await waits(store, 60))
        left.append(await waits(store, 0))
        left.append(await waits(store, 60))
    left.append(await waits(store, 60))

    assert left == [0, 0, 2, 4]


async def test_tokens_reserved_are_given_back_at_once(store: Store) -> None:
    reservation = await pacer(store).reserve({RUN_INSTANCES: 1, INSTANCES: 100})
    assert isinstance(reservation, Reservation)
    async with reservation:
        await reservation.refund({INSTANCES: 40})
        some = await pacer(store).available(INSTANCES)
        await reservation.refund()
        all_of_them = await pacer(store).available(INSTANCES)
        assert await waits(store, 0) == 4

    assert (some, all_of_them) == (937, 1_000)


async def test_tokens_reserved_that_are_not_there_are_not_owed(store: Store) -> None:
    taken = [await pacer(store).reserve({RUN_INSTANCES: 1}) for _ in range(5)]

    assert [isinstance(one, Reservation) for one in taken] == [True] * 4 + [False]
    assert isinstance(taken[-1], float)
    assert await waits(store, 0) == 0


async def test_the_time_that_calls_are_in_flight_refills_nothing(store: Store) -> None:
    """EC2's bucket is full until they arrive: what it regains begins then."""
    bucket, ours = Rates().of(CREATE_TAGS), buckets(store, rates=Rates())
    await ours.reserve({CREATE_TAGS: 60}, call="slow")
    sent_at = await seconds(store)
    while await seconds(store) < sent_at + 1.5:  # in which 15 tokens would come back
        await asyncio.sleep(0.05)
    arrived_at = await seconds(store)
    await ours.arrived([CREATE_TAGS], call="slow")
    available, _ = await ours.available(CREATE_TAGS)
    since_s = await seconds(store) - arrived_at

    assert available <= bucket.size - 60 + bucket.rate * since_s + 1


async def seconds(store: Store) -> float:
    """Redis TIME."""
    whole, micros = await store.db.redis.time()
    return float(whole + micros / 1e6)


async def test_a_call_of_a_worker_that_died_is_not_waited_for(store: Store) -> None:
    hasty = store_of(store.db.redis, Timings(arrives_s=-1.0))
    await pacer(hasty).reserve({RUN_INSTANCES: 4})

    assert await waits(hasty, 60) == 4


async def test_all_workers_spend_from_one_bucket(store: Store) -> None:
    waits = await asyncio.gather(*(pacer(store).take_now(RUN_INSTANCES) for _ in range(20)))

    assert len([wait_s for wait_s in waits if wait_s == 0]) == 4


async def test_accounts_and_regions_have_buckets_of_their_own(store: Store) -> None:
    for _ in range(4):
        await pacer(store).take_now(RUN_INSTANCES)

    elsewhere = [buckets(store, region="eu-west-1"), buckets(store, account="210987654321")]

    assert [await one.reserve({RUN_INSTANCES: 1}) for one in elsewhere] == [0, 0]


async def test_a_refusal_empties_the_bucket_and_halves_its_rate_for_a_while(store: Store) -> None:
    full_rate = await buckets(store).rate(CREATE_TAGS)
    await pacer(store).slow_down(CREATE_TAGS)
    bucket = names.bucket("123456789012", "us-east-1", CREATE_TAGS)
    await store.db.redis.hset(bucket, "at", store.now() + 60)  # however long the next line takes, nothing refills

    slowed, rate = await pacer(store).take_now(CREATE_TAGS), await buckets(store).rate(CREATE_TAGS)
    over = {"at": store.now() - store.timings.slow_s * SLOW, "slow_until": store.now() - 1}
    await store.db.redis.hset(bucket, mapping=over)
    recovered = await pacer(store).available(CREATE_TAGS)

    assert slowed == pytest.approx(SLOW / (10 * 0.5))
    assert recovered == 95
    assert (full_rate, rate, await buckets(store).rate(CREATE_TAGS)) == (10 / SLOW, 5 / SLOW, 10 / SLOW)


async def test_without_limits_nothing_is_asked_of_redis(store: Store) -> None:
    free = Pacer(None, rates=Rates(), clock=store.db.clock, timings=store.timings)

    assert isinstance(await free.reserve({RUN_INSTANCES: 10_000, INSTANCES: 10_000}), Reservation)
    assert await free.available(RUN_INSTANCES) == 4
    assert await free.budget() == Budget(4, inf, 1_000, inf)
    assert await free.take_now(RUN_INSTANCES) == 0
    assert await free.reserve_one(CREATE_TAGS, until=0.0)
    assert await store.db.redis.dbsize() == 0


# -- arq's jobs ------------------------------------------------------------------------------------------------------

NOW_MS = 1_000_000


JOB_LOCK_S = 600.0


class At(Clock):
    """A clock that stands still."""

    def now(self) -> float:
        return NOW_MS / 1000


@pytest.fixture
def then(store: Store) -> Store:
    """The same view, at a given time."""
    return Store(store.db.redis, clock=At(), timings=Timings(job_lock_s=JOB_LOCK_S))


async def queued(store: Store, **scores: int) -> None:
    await store.db.redis.zadd(QUEUE, {job_id.replace("__", "/"): score for job_id, score in scores.items()})


async def test_jobs_that_are_due_are_locked_for_one_who_asks(then: Store) -> None:
    await queued(then, betty__one=NOW_MS, betty__two=NOW_MS - 5, betty__later=NOW_MS + 1)
    asked = ["betty/one", "betty/two", "betty/later", "betty/gone"]

    first = await then.jobs.lock(asked)
    second = await then.jobs.lock(asked)

    assert (first, second) == ({"betty/one": NOW_MS, "betty/two": NOW_MS - 5}, {})
    assert 0 < await then.db.redis.pttl(f"{LOCK_PREFIX}betty/one") <= JOB_LOCK_S * 1_000


async def test_a_lock_whose_answer_was_lost_is_given_to_who_asks_again(then: Store) -> None:
    await queued(then, betty__one=NOW_MS)

    answers = [
        await then.db.scripts.start(
            QUEUE,
            ["betty/one"],
            now_ms=NOW_MS,
            late_ms=60_000,
            lock_ms=12_000,
            lock_prefix=LOCK_PREFIX,
            places_prefix=names.places(""),
            holder="whoever asks",
        )
        for _ in range(2)
    ]

    assert answers[0] == answers[1] == {"betty/one": NOW_MS}


async def test_a_job_that_starts_gives_its_place_to_another(then: Store) -> None:
    await queued(then, betty__one=NOW_MS)
    await then.db.redis.zadd(names.places("betty"), {"one": 1, "two": 1})

    await then.jobs.lock(["betty/one"])

    assert await then.db.redis.zrange(names.places("betty"), 0, -1) == [b"two"]


async def test_a_job_of_somebody_elses_in_the_queue_stops_nobody(then: Store) -> None:
    await then.db.redis.zadd(QUEUE, {"foreign": 1, "betty/one": 1})

    locked = await then.jobs.lock(["foreign", "betty/one"])

    assert locked == {"foreign": 1, "betty/one": 1}  # arq itself fails what it does not know


async def test_machines_that_learn_their_workloads_from_tags_are_labelled_first(store: Store) -> None:
    target, now = "123456789012:us-east-1:", store.now()
    known = Record(
        namespace="betty", tag="one", phase=Phase.PENDING, created_at=now, changed_at=now - 10, target=target
    )
    txn = Txn()
    store.labels.add(txn, known)
    store.labels.add(txn, known.replace(tag="spot", member=3, changed_at=now))
    await store.commit(txn)

    first = await store.labels.claim(target, 1, now + 60)

    assert [label.key.tag for label in first] == ["spot"]
