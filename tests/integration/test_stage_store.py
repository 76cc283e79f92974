"""The scripts of the workers' store, on a real server: transactions, durability, leases, buckets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from puter_client.contract.key import PuterKey
from puter_worker.pacer import INSTANCES, SLOW_FOR_S, Granted, Pacer, Reservation
from puter_worker.store import names
from puter_worker.store.base import encode
from puter_worker.store.machines import Admission
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from tests.integration.redis_servers import RedisServer


@pytest.fixture
async def store(any_redis: RedisServer) -> AsyncIterator[WorkerStore]:
    """A worker's view of each kind of server."""
    redis = Redis.from_url(any_redis.url)
    opened = WorkerStore(redis)
    await opened.set_clock()
    yield opened
    await redis.aclose()


# -- transactions ----------------------------------------------------------------------------------------------------


async def test_all_is_written_if_all_holds(store: WorkerStore) -> None:
    await store.redis.hset("h", "f", "1")
    await store.redis.zadd("z", {"m": 1})
    await store.redis.rpush("l", "first", "second")
    await store.redis.sadd("s", "x")
    txn = Txn()
    txn.expect("h", "f", b"1")
    txn.expect("h", "g", None)
    txn.expect_member("z", "m")
    txn.expect_length("l", 2)
    txn.expect_size("s", 1)
    txn.do("SET", "written", "yes")
    txn.do("RPUSH", "list", "a", "b", "c")

    assert await store.commit(txn) == []

    assert await store.redis.get("written") == b"yes"
    assert await store.redis.lrange("list", 0, -1) == [b"a", b"b", b"c"]


async def test_nothing_is_written_if_anything_does_not_hold_and_each_is_named(store: WorkerStore) -> None:
    txn = Txn()
    txn.expect("h", "f", b"1")
    txn.expect("h", "f", None)
    txn.expect_member("z", "m")
    txn.expect_length("l", 2)
    txn.do("SET", "written", "yes")

    assert await store.commit(txn) == [0, 2, 3]

    assert await store.redis.get("written") is None


async def test_of_many_that_rest_on_the_same_one_writes(store: WorkerStore) -> None:
    await store.redis.hset("h", "rev", 1)

    def txn(writer: int) -> Txn:
        made = Txn()
        made.expect("h", "rev", b"1")
        made.do("HSET", "h", "rev", 2)
        made.do("RPUSH", "writers", writer)
        return made

    answers = await asyncio.gather(*(store.commit(txn(n)) for n in range(20)))

    assert sorted(answers) == [[], *[[0]] * 19]
    assert await store.redis.llen("writers") == 1


async def test_any_bytes_can_be_written(store: WorkerStore) -> None:
    value, txn = bytes(range(256)), Txn()
    txn.do("SET", "b", value)

    await store.commit(txn)

    assert await store.redis.get("b") == value


async def test_a_transaction_of_five_hundred_records_fits(store: WorkerStore) -> None:
    txn = Txn()
    for n in range(500):
        txn.expect(f"h{n}", "rev", None)
        for m in range(10):
            txn.do("HSET", f"h{n}", f"f{m}", "x" * 200)

    assert await store.commit(txn) == []

    assert await store.redis.hlen("h499") == 10


# -- durability ------------------------------------------------------------------------------------------------------


async def test_a_durable_write_is_confirmed(store: WorkerStore) -> None:
    txn = Txn()
    txn.do("SET", "a", "1")

    assert await store.commit_durably(txn) == ([], None)


async def test_a_durable_write_that_does_not_hold_is_not_done(store: WorkerStore) -> None:
    txn = Txn()
    txn.expect("h", "f", b"1")
    txn.do("SET", "a", "1")

    broken, _ = await store.commit_durably(txn)

    assert broken == [0]
    assert await store.redis.get("a") is None


async def test_a_durable_write_survives_a_kill(valkey: RedisServer) -> None:
    store = WorkerStore(Redis.from_url(valkey.url))
    txn = Txn()
    txn.do("SET", "a", "1")
    await store.commit_durably(txn)
    await store.redis.aclose()
    valkey.kill()
    valkey.start()

    with valkey.client() as behind:
        assert behind.get("a") == b"1"


async def test_a_redis_that_keeps_nothing_on_disk_is_told_what_to_set(store: WorkerStore) -> None:
    await store.redis.config_set("appendonly", "no")
    txn = Txn()
    txn.do("SET", "a", "1")
    try:
        broken, why = await store.commit_durably(txn)
    finally:
        await store.redis.config_set("appendonly", "yes")

    assert broken == []
    assert why
    assert "appendonly yes" in why


async def test_scripts_come_back_when_redis_has_forgotten_them(store: WorkerStore) -> None:
    await store.commit(Txn())
    await store.redis.script_flush()
    txn = Txn()
    txn.do("SET", "a", "1")

    assert await store.commit_durably(txn) == ([], None)
    assert await store.redis.get("a") == b"1"


# -- leases ----------------------------------------------------------------------------------------------------------


async def test_a_lease_is_one_holders_until_it_gives_it_up(store: WorkerStore) -> None:
    taken = [await store.lease("puter:_lease:x", holder, 30.0) for holder in ("a", "b", "a")]
    await store.release("puter:_lease:x", "b")
    still = await store.lease("puter:_lease:x", "b", 30.0)
    await store.release("puter:_lease:x", "a")

    assert taken == [True, False, True]
    assert not still
    assert await store.lease("puter:_lease:x", "b", 30.0)


async def test_what_is_claimed_is_not_claimed_again_before_its_time(store: WorkerStore) -> None:
    for tag in ("one", "two"):
        await store.redis.zadd(names.ADMISSIONS, {encode(Admission("betty", tag, ())): 0})
    await store.redis.zadd(names.ADMISSIONS, {encode(Admission("betty", "later", ())): store.now() + 60})

    first = await store.claim_admissions(1, store.now() + 60)
    second = await store.claim_admissions(10, store.now() + 60)
    third = await store.claim_admissions(10, store.now() + 60)

    assert [[one.tag for one in some] for some in (first, second, third)] == [["one"], ["two"], []]


async def test_a_look_up_that_is_claimed_is_nobody_elses_before_its_time(store: WorkerStore) -> None:
    one, two, over = (PuterKey("betty", tag) for tag in ("one", "two", "over"))
    look_ups = names.look_ups("f", "betty")
    await store.redis.zadd(look_ups, {one.tag: 1, two.tag: 2, "later": store.now() + 60})

    before = await store.look_ups("f", "betty", store.now(), 10)
    await store.claim_look_ups("f", [one, over], store.now() + 60)

    assert before == {"one": 1.0, "two": 2.0}
    assert await store.look_ups("f", "betty", store.now(), 10) == {"two": 2.0}
    assert await store.redis.zscore(look_ups, over.tag) is None


async def test_of_many_writes_those_that_rest_on_what_has_moved_on_are_left_out(store: WorkerStore) -> None:
    await store.redis.hset("moved", "rev", 2)

    def put(txn: Txn, name: str) -> None:
        if name != "free":
            txn.expect(name, "rev", None)
            txn.expect("moved" if name == "late" else name, "rev", None)
        txn.do("HSET", name, "rev", 1)

    written = await store.commit_each(["free", "one", "moved", "two", "late", "three"], put)

    assert written == ["free", "one", "two", "three"]
    assert [await store.redis.hget(name, "rev") for name in ("one", "moved", "late", "three")] == [
        b"1",
        b"2",
        None,
        b"1",
    ]


# -- buckets ---------------------------------------------------------------------------------------------------------


def pacer(store: WorkerStore) -> Pacer:
    return Pacer(store, "123456789012", "us-east-1")


async def test_a_bucket_gives_what_it_holds_and_then_says_how_long_to_wait(store: WorkerStore) -> None:
    granted = [await pacer(store).take([("RunInstances", 1)]) for _ in range(5)]

    assert [one.wait_s for one in granted[:4]] == [0, 0, 0, 0]
    assert [one.before for one in granted[:4]] == [4, 3, 2, 1]
    assert 0 < granted[4].wait_s <= 0.5


async def test_tokens_come_back_at_the_published_rate(store: WorkerStore) -> None:
    bucket = names.bucket("123456789012", "us-east-1", "RunInstances")
    await store.redis.hset(bucket, mapping={"tokens": "0", "at": str(store.now() - 1.1)})

    granted = await pacer(store).take([("RunInstances", 0)])

    assert granted.before == 2


async def test_of_several_buckets_all_give_or_none(store: WorkerStore) -> None:
    instances = names.bucket("123456789012", "us-east-1", INSTANCES)
    await store.redis.hset(instances, mapping={"tokens": "10", "at": str(store.now())})

    refused = await pacer(store).take([("RunInstances", 1), (INSTANCES, 100)])
    after = await pacer(store).take([("RunInstances", 0)])

    assert 45 < refused.wait_s <= 46.5  # three are left in it once it is not full
    assert after.before == 4


async def test_more_than_a_bucket_holds_is_given_when_it_is_full_and_owed(store: WorkerStore) -> None:
    assert (await pacer(store).take([("RunInstances", 6)])).wait_s == 0

    assert (await pacer(store).take([("RunInstances", 1)])).wait_s > 1


async def test_a_full_bucket_is_given_whole_and_of_another_the_reserve_is_left(store: WorkerStore) -> None:
    full = await pacer(store).take([(INSTANCES, 1_000)])
    with_reserve = names.bucket("123456789012", "us-east-1", INSTANCES)
    await store.redis.hset(with_reserve, mapping={"tokens": "100", "at": str(store.now())})
    rest = await pacer(store).take([(INSTANCES, 0)])

    assert (full.wait_s, full.before) == (0.0, 1_000)
    assert rest.before == 97


async def waits(store: WorkerStore, seconds: float) -> int:
    """What the bucket of RunInstances has to give after so long."""
    bucket = names.bucket("123456789012", "us-east-1", "RunInstances")
    await store.redis.hset(bucket, mapping={"at": store.now() - seconds})
    return (await pacer(store).take([("RunInstances", 0)])).before


async def test_tokens_reserved_come_back_only_when_their_call_has_arrived(store: WorkerStore) -> None:
    first, second = [await pacer(store).reserve({"RunInstances": 2}) for _ in range(2)]
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


async def test_tokens_reserved_are_given_back_at_once(store: WorkerStore) -> None:
    reservation = await pacer(store).reserve({"RunInstances": 1, INSTANCES: 100})
    assert isinstance(reservation, Reservation)
    async with reservation:
        await reservation.refund({INSTANCES: 40})
        some = (await pacer(store).take([(INSTANCES, 0)])).before
        await reservation.refund()
        all_of_them = (await pacer(store).take([(INSTANCES, 0)])).before
        assert await waits(store, 0) == 4

    assert (some, all_of_them) == (937, 1_000)


async def test_tokens_reserved_that_are_not_there_are_not_owed(store: WorkerStore) -> None:
    taken = [await pacer(store).reserve({"RunInstances": 1}) for _ in range(5)]

    assert [isinstance(one, Reservation) for one in taken] == [True] * 4 + [False]
    assert isinstance(taken[-1], float)
    assert await waits(store, 0) == 0


async def test_a_call_of_a_worker_that_died_is_not_waited_for(
    store: WorkerStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("puter_worker.pacer.ARRIVES_WITHIN_S", -1.0)
    await pacer(store).reserve({"RunInstances": 4})

    assert await waits(store, 60) == 4


async def test_all_workers_spend_from_one_bucket(store: WorkerStore) -> None:
    granted = await asyncio.gather(*(pacer(store).take([("RunInstances", 1)]) for _ in range(20)))

    assert len([one for one in granted if one.wait_s == 0]) == 4


async def test_accounts_and_regions_have_buckets_of_their_own(store: WorkerStore) -> None:
    for _ in range(4):
        await pacer(store).take([("RunInstances", 1)])

    elsewhere = [Pacer(store, "123456789012", "eu-west-1"), Pacer(store, "210987654321", "us-east-1")]

    assert [(await one.take([("RunInstances", 1)])).wait_s for one in elsewhere] == [0, 0]


async def test_a_refusal_empties_the_bucket_and_halves_its_rate_for_a_while(store: WorkerStore) -> None:
    await pacer(store).slow_down("CreateTags")

    slowed = await pacer(store).take([("CreateTags", 1)])
    bucket = names.bucket("123456789012", "us-east-1", "CreateTags")
    await store.redis.hset(bucket, mapping={"at": store.now() - SLOW_FOR_S, "slow_until": store.now() - 1})
    recovered = await pacer(store).take([("CreateTags", 0)])

    assert slowed.wait_s == pytest.approx(1 / (10 * 0.5), abs=0.05)
    assert recovered.before == 95


async def test_without_limits_nothing_is_asked_of_redis(store: WorkerStore) -> None:
    free = Pacer(store, "123456789012", "us-east-1", unlimited=True)

    assert await free.take([("RunInstances", 10_000), (INSTANCES, 10_000)]) == Granted(0.0, 4)
    assert await free.take_one("CreateTags", until=0.0)
    assert await store.redis.dbsize() == 0


# -- arq's jobs ------------------------------------------------------------------------------------------------------

NOW_MS = 1_000_000


async def queued(store: WorkerStore, **scores: int) -> None:
    await store.redis.zadd(names.QUEUE, {job_id.replace("__", "/"): score for job_id, score in scores.items()})


async def test_jobs_that_are_due_are_locked_for_one_who_asks(store: WorkerStore) -> None:
    await queued(store, betty__one=NOW_MS, betty__two=NOW_MS - 5, betty__later=NOW_MS + 1)
    asked = ["betty/one", "betty/two", "betty/later", "betty/gone"]

    first = await store.lock_jobs(asked, now_ms=NOW_MS, for_s=12)
    second = await store.lock_jobs(asked, now_ms=NOW_MS, for_s=12)

    assert (first, second) == ({"betty/one": NOW_MS, "betty/two": NOW_MS - 5}, {})
    assert 11_000 < await store.redis.pttl("arq:in-progress:betty/one") <= 12_000


async def test_a_lock_whose_answer_was_lost_is_given_to_who_asks_again(store: WorkerStore) -> None:
    await queued(store, betty__one=NOW_MS)
    args = [NOW_MS, 12_000, names.fed(""), "whoever asks", "betty/one"]

    answers = [await store.scripts.start(keys=[names.QUEUE], args=args) for _ in range(2)]

    assert answers[0] == answers[1] == [b"betty/one", str(NOW_MS).encode()]


async def test_a_job_that_starts_gives_its_place_to_another(store: WorkerStore) -> None:
    await queued(store, betty__one=NOW_MS)
    await store.redis.zadd(names.fed("betty"), {"one": 1, "two": 1})

    await store.lock_jobs(["betty/one"], now_ms=NOW_MS, for_s=12)

    assert await store.redis.zrange(names.fed("betty"), 0, -1) == [b"two"]


async def test_a_job_of_somebody_elses_in_the_queue_stops_nobody(store: WorkerStore) -> None:
    await store.redis.zadd(names.QUEUE, {"foreign": 1, "betty/one": 1})

    locked = await store.lock_jobs(["foreign", "betty/one"], now_ms=NOW_MS, for_s=12)

    assert locked == {"foreign": 1, "betty/one": 1}  # arq itself fails what it does not know
