"""store/arq_adapter.py, held against arq itself: what it writes and reads, and what of arq's worker it uses."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import arq.constants
import msgspec
import pytest
import structlog
from arq.connections import ArqRedis
from arq.typing import WorkerCoroutine
from arq.worker import Worker as ArqWorker
from arq.worker import func
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from puter_client.contract.key import PuterKey
from puter_worker.clock import Clock
from puter_worker.store import arq_adapter
from puter_worker.store.arq_adapter import JOB_PREFIX, LOCK_PREFIX, QUEUE, JobRunner, arq_redis, run_again
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.tasks import cancel_all
from puter_worker.timings import Timings
from tests.integration.redis_servers import RedisServer, running_server, server_binaries
from tests.integration.stage_world import is_pickle
from tests.integration.workshop import PATIENCE_S

KEY = PuterKey("betty", "one")
ID = "betty/one"
RETRIES = f"{arq.constants.retry_key_prefix}{ID}"
DAY_MS = 86_400_000
# All that the alphabets of namespaces and tags have.
NAMES = ["betty/one", "0-a/A.b_c:d@e+f=g-0", f"{'n' * 39}/{'t' * 128}"]


class At(Clock):
    """A clock that a test can stop at a time.

    Else it is this host's, as arq's is and that of Redis here: on a busy machine, what an answer tells of Redis's clock
    is less exact, and a job that one of them has queued would not be due yet for the other.
    """

    stopped_at: float | None = None

    def now(self) -> float:
        return self.host_now() if self.stopped_at is None else self.stopped_at


async def _waits(goes_on: asyncio.Event) -> None:
    await goes_on.wait()


async def nothing() -> None:
    """What a job does unless a test says more."""


class World:
    """arq and Puter at one Redis.

    Attributes:
        redis: arq's client, as Puter has it.
        clock: of the store.
        store: Puter's view.
        ran: namespace and tag of each job that ran.
        does: what a job does.
        ends: how many jobs have ended, as the runner tells.
    """

    def __init__(self, redis: ArqRedis, server: RedisServer) -> None:
        self.redis = redis
        self.clock = At()
        self.store = Store(redis, clock=self.clock, timings=Timings())
        self.ran: list[tuple[str, str]] = []
        self.does: Callable[[], Awaitable[None]] = nothing
        self.ends = 0
        self._server = server

    async def _job(self, _ctx: dict[str, Any], namespace: str, tag: str) -> None:
        await self._run(namespace, tag)

    async def _run(self, namespace: str, tag: str) -> None:
        self.ran.append((namespace, tag))
        await self.does()

    def _ended(self) -> None:
        self.ends += 1

    def puter(self, *, max_jobs: int = 8) -> JobRunner:
        """arq's worker as Puter runs it."""
        return JobRunner(self.store.jobs, self._run, max_jobs=max_jobs, timeout_s=10.0, on_end=self._ended)

    def stock(self) -> ArqWorker:
        """arq's worker as it is, with JSON; it ends when the queue is empty."""
        return ArqWorker(
            functions=[func(cast("WorkerCoroutine", self._job), name="ensure_puter", keep_result=0)],
            redis_pool=self.redis,
            burst=True,
            handle_signals=False,
            poll_delay=0.01,
            keep_result=0,
            job_serializer=msgspec.json.encode,
            job_deserializer=msgspec.json.decode,
        )

    async def queue_by_puter(self, *keys: PuterKey) -> None:
        """Put jobs into the queue as stages do."""
        txn = Txn()
        for key in keys or (KEY,):
            self.store.jobs.enqueue(txn, key)
        await self.store.commit(txn)
        await self.store.jobs.feed()

    async def queue_by_arq(self, key: PuterKey = KEY) -> None:
        """Put a job into the queue as arq's users do."""
        assert await self.redis.enqueue_job("ensure_puter", key.namespace, key.tag, _job_id=str(key))

    async def queue_raw(self, body: bytes) -> None:
        """Put a job into the queue that neither of them would write."""
        await self.redis.set(f"{JOB_PREFIX}{ID}", body)
        await self.redis.zadd(QUEUE, {ID: 1})

    async def run(self, runner: JobRunner) -> None:
        """Run what is due to its end."""
        await runner.start_due()
        await runner.drain()

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[JobRunner]:
        """Puter runs a job while inside."""
        goes_on, began = asyncio.Event(), asyncio.Event()

        async def waits() -> None:
            began.set()
            await goes_on.wait()

        self.does = waits
        await self.queue_by_puter()
        runner = self.puter()
        await runner.start_due()
        await asyncio.wait_for(began.wait(), PATIENCE_S)
        yield runner
        goes_on.set()
        await runner.drain()

    def arqs_keys(self) -> dict[str, bytes | dict[bytes, float]]:
        """All that is in arq's keys, by name: of a text its bytes, of a sorted set its members' scores."""
        with self._server.client() as server:
            behind: Any = server  # its types tell of a pipeline, too
            queue = {QUEUE: dict(behind.zrange(QUEUE, 0, -1, withscores=True))} if behind.exists(QUEUE) else {}
            others = [key.decode() for key in behind.scan_iter("arq:*") if key != QUEUE.encode()]
            return queue | {key: behind.get(key) for key in others}

    def expires_in_ms(self, key: str) -> int:
        with self._server.client() as behind:
            return int(behind.pttl(key))


@pytest.fixture
async def world(valkey: RedisServer) -> AsyncIterator[World]:
    redis = arq_redis(ConnectionPool.from_url(valkey.url))
    opened = World(redis, valkey)
    await opened.store.db.sync_clock()
    yield opened
    await redis.aclose()
    await redis.connection_pool.disconnect()


# -- jobs as they are written ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
async def test_what_puter_queues_is_what_arq_queues(world: World, name: str) -> None:
    key = PuterKey.parse(name)
    await world.queue_by_arq(key)
    by_arq, expires_in_ms = world.arqs_keys(), world.expires_in_ms(f"{JOB_PREFIX}{name}")
    queue = by_arq[QUEUE]
    assert isinstance(queue, dict)
    at_ms = queue[name.encode()]
    await world.redis.flushdb()

    world.clock.stopped_at = (at_ms + 0.5) / 1000
    await world.queue_by_puter(key)

    assert world.arqs_keys() == by_arq
    assert by_arq.keys() == {QUEUE, f"{JOB_PREFIX}{name}"}
    for kept_ms in (expires_in_ms, world.expires_in_ms(f"{JOB_PREFIX}{name}")):
        assert DAY_MS - 10_000 < kept_ms <= DAY_MS


async def test_a_job_that_is_queued_already_keeps_its_body_and_its_time(world: World) -> None:
    await world.queue_by_arq()
    before = world.arqs_keys()

    await world.queue_by_puter()

    assert world.arqs_keys() == before


async def test_arq_queues_no_job_that_puter_has_queued(world: World) -> None:
    await world.queue_by_puter()
    before = world.arqs_keys()

    assert await world.redis.enqueue_job("ensure_puter", "betty", "one", _job_id=ID) is None

    assert world.arqs_keys() == before


def test_names_are_those_of_arq() -> None:
    ours = (arq_adapter.QUEUE, arq_adapter.JOB_PREFIX, arq_adapter.LOCK_PREFIX, arq_adapter.JOB_KEPT_MS)
    arqs = (
        arq.constants.default_queue_name,
        arq.constants.job_key_prefix,
        arq.constants.in_progress_key_prefix,
        arq.constants.expires_extra_ms,
    )

    assert ours == arqs == ("arq:queue", "arq:job:", "arq:in-progress:", DAY_MS)


# -- either runs the other's ----------------------------------------------------------------------------------------


async def test_a_stock_worker_runs_what_puter_has_queued(world: World) -> None:
    await world.queue_by_puter(KEY, PuterKey("anna", "two"))

    await world.stock().async_run()

    assert sorted(world.ran) == [("anna", "two"), ("betty", "one")]
    assert world.arqs_keys().keys() <= {f"{QUEUE}{arq.constants.health_check_key_suffix}"}


async def test_puter_runs_what_arq_has_queued(world: World) -> None:
    await world.queue_by_arq()

    await world.run(world.puter())

    assert world.ran == [("betty", "one")]
    assert world.arqs_keys() == {}


async def test_what_puter_runs_a_stock_worker_does_not_start(world: World) -> None:
    async with world.at_work() as runner:
        stock = world.stock()
        await stock.start_jobs([ID.encode()])
        assert stock.tasks == {}
        assert runner.tasks.keys() == {ID}

    assert world.ran == [("betty", "one")]


async def test_what_a_stock_worker_runs_puter_does_not_start(world: World) -> None:
    await world.queue_by_puter()
    goes_on, stock, runner = asyncio.Event(), world.stock(), world.puter()
    world.does = lambda: _waits(goes_on)
    await stock.start_jobs([ID.encode()])

    held = await runner.start_due()
    started = list(runner.tasks)
    goes_on.set()
    await asyncio.gather(*stock.tasks.values())

    assert (held, started) == (True, [])
    assert world.ran == [("betty", "one")]


# -- how a job ends -------------------------------------------------------------------------------------------------


async def test_a_job_that_has_run_leaves_nothing(world: World) -> None:
    await world.queue_by_puter()

    await world.run(world.puter())

    assert world.ran == [("betty", "one")]
    assert world.arqs_keys() == {}


async def test_a_job_is_locked_while_it_runs_for_no_longer_than_a_dead_workers(world: World) -> None:
    async with world.at_work():
        kept_ms = world.expires_in_ms(f"{LOCK_PREFIX}{ID}")

    assert 0 < kept_ms <= Timings().job_lock_s * 1000


async def test_a_job_with_a_defect_leaves_nothing_either(world: World) -> None:
    async def fails() -> None:
        raise RuntimeError("a defect")

    world.does = fails
    await world.queue_by_puter()
    runner = world.puter()

    await world.run(runner)

    assert runner.jobs_failed == 1
    assert runner.take_ended() == []
    assert world.arqs_keys() == {}


async def test_a_job_that_is_to_run_again_is_due_after_its_pause(world: World) -> None:
    async def again() -> None:
        raise run_again(60.0)

    world.does = again
    await world.queue_by_puter()
    body = world.arqs_keys()[f"{JOB_PREFIX}{ID}"]
    runner, ended_at = world.puter(), world.store.now()

    await world.run(runner)
    await world.run(runner)  # nothing is due

    due = await world.store.jobs.next_due()
    assert world.ran == [("betty", "one")]
    assert due is not None
    assert 30 <= due - ended_at <= 90 + 10  # give or take a half; and what the test takes
    left = world.arqs_keys()
    assert left.keys() == {QUEUE, f"{JOB_PREFIX}{ID}", RETRIES}
    assert left[f"{JOB_PREFIX}{ID}"] == body


async def test_a_job_that_is_due_again_is_run_again(world: World) -> None:
    async def again() -> None:
        if len(world.ran) == 1:
            raise run_again(0.0)

    world.does = again
    await world.queue_by_puter()
    runner = world.puter()

    await world.run(runner)
    await world.run(runner)

    assert world.ran == [("betty", "one")] * 2
    assert world.arqs_keys() == {}


async def test_a_job_that_is_cancelled_waits_for_the_next_worker(world: World) -> None:
    async with world.at_work() as runner:
        for task in runner.tasks.values():
            task.cancel()
        await runner.drain()
        left = world.arqs_keys()
        world.does = nothing
        await world.run(world.puter())

    assert f"{LOCK_PREFIX}{ID}" not in left
    assert {QUEUE, f"{JOB_PREFIX}{ID}"} <= left.keys()
    assert world.ran == [("betty", "one")] * 2
    assert world.arqs_keys() == {}


async def test_a_job_that_was_started_too_often_is_given_up(world: World) -> None:
    await world.queue_by_puter()
    await world.redis.set(RETRIES, arq_adapter.MAX_TRIES)

    await world.run(world.puter())

    assert world.ran == []
    assert world.arqs_keys() == {}


async def test_a_job_without_a_body_is_dropped(world: World) -> None:
    await world.redis.zadd(QUEUE, {ID: 1})

    await world.run(world.puter())

    assert world.ran == []
    assert world.arqs_keys() == {}


# -- what is nobody's job -------------------------------------------------------------------------------------------


class Harmful:
    """What runs a command when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self._folder,)


async def test_no_pickle_is_read(world: World, tmp_path: Path) -> None:
    body: dict[str, Any] = {
        "t": None,
        "f": "ensure_puter",
        "a": ("betty", Harmful(tmp_path / "made")),
        "k": {},
        "et": 1,
    }
    await world.queue_raw(pickle.dumps(body))
    runner = world.puter()

    await world.run(runner)

    assert not (tmp_path / "made").exists()
    assert (world.ran, runner.jobs_failed, runner.take_ended()) == ([], 1, [])
    assert world.arqs_keys() == {}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"t":null,"f":"os.system","a":["id"],"k":{},"et":1}',
        b'{"t":null,"f":"ensure_puter","a":["betty","one","more"],"k":{},"et":1}',
        b'{"t":null,"f":"ensure_puter","a":["betty","one"],"k":{"sudo":true},"et":1}',
    ],
)
async def test_what_is_no_job_of_puters_ends(world: World, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    def unpickled(*_: Any, **__: Any) -> None:
        pytest.fail("pickle was called")

    monkeypatch.setattr(pickle, "loads", unpickled)
    monkeypatch.setattr(pickle, "dumps", unpickled)
    await world.queue_raw(body)
    runner = world.puter()

    await world.run(runner)

    assert (world.ran, runner.jobs_failed, runner.take_ended()) == ([], 1, [])
    assert world.arqs_keys() == {}


async def test_arqs_client_writes_no_pickle(world: World) -> None:
    await world.redis.enqueue_job("ensure_puter", "betty", "one", _job_id=ID)

    body = world.arqs_keys()[f"{JOB_PREFIX}{ID}"]
    assert isinstance(body, bytes)
    assert not is_pickle(body)
    assert msgspec.json.decode(body)["a"] == ["betty", "one"]


# -- what of arq's worker is used -----------------------------------------------------------------------------------


def test_arqs_worker_runs_one_job_by_its_id_and_its_time() -> None:
    signature = inspect.signature(ArqWorker.run_job)

    assert inspect.iscoroutinefunction(ArqWorker.run_job)
    assert list(signature.parameters) == ["self", "job_id", "score"]


async def test_arqs_worker_has_what_the_runner_counts_with(world: World) -> None:
    stock = world.stock()

    assert (stock.job_counter, stock.tasks, stock.max_jobs) == (0, {}, 10)
    assert stock.ctx == {}
    assert stock.pool is world.redis


async def test_arqs_worker_is_made_with_what_the_runner_gives(world: World) -> None:
    runner = world.puter(max_jobs=3)

    assert list(runner.functions) == ["ensure_puter"]
    assert (runner.max_jobs, runner.job_timeout_s, runner.max_tries) == (3, 10.0, arq_adapter.MAX_TRIES)
    assert (runner.keep_result_s, runner.functions["ensure_puter"].keep_result_s) == (0, 0)
    assert (runner.job_serializer, runner.job_deserializer) == (msgspec.json.encode, msgspec.json.decode)
    assert (runner.queue_name, runner.pool, runner.ctx) == (QUEUE, world.redis, {"redis": world.redis})


async def test_every_log_line_of_a_job_names_its_key(world: World) -> None:
    told: list[dict[str, Any]] = []

    async def tells() -> None:
        told.append(structlog.contextvars.get_contextvars())

    world.does = tells
    await world.queue_by_puter()
    before = structlog.contextvars.get_contextvars()

    await world.run(world.puter())

    assert told == [{"job_id": ID, "namespace": "betty", "tag": "one"}]
    assert structlog.contextvars.get_contextvars() == before


async def test_a_runner_starts_as_many_jobs_as_it_has_room_for(world: World) -> None:
    await world.queue_by_puter(*(PuterKey("betty", f"t-{n}") for n in range(5)))
    goes_on, runner = asyncio.Event(), world.puter(max_jobs=3)
    world.does = lambda: _waits(goes_on)

    await runner.start_due()
    running, room = len(runner.tasks), runner.room
    again = await runner.start_due()
    goes_on.set()
    await runner.drain()

    assert (running, room, again) == (3, 0, False)
    assert (runner.room, world.ends, len(world.ran)) == (3, 3, 3)


async def test_a_runner_tells_what_redis_did_to_a_job(world: World) -> None:
    """arq's own worker ends by it."""
    await world.queue_by_puter()
    await world.redis.set(RETRIES, "no number")
    runner = world.puter()

    await runner.start_due()
    await asyncio.wait(list(runner.tasks.values()))

    (error,) = runner.take_ended()
    assert type(error).__name__ == "ResponseError"
    assert (runner.tasks, runner.room) == ({}, 8)


# -- jobs that end badly --------------------------------------------------------------------------------------------


@pytest.fixture
async def untold() -> AsyncIterator[list[str]]:
    """What asyncio would have written into the log of errors that nobody has looked at."""
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    yield told
    loop.set_exception_handler(None)


@pytest.mark.parametrize("drains", [True, False], ids=["drained", "dropped"])
async def test_jobs_that_lose_their_redis_end_without_an_error_that_nobody_looks_at(
    untold: list[str], drains: bool
) -> None:
    with running_server(server_binaries()["valkey"]) as server:
        redis = arq_redis(ConnectionPool.from_url(server.url, retry=Retry(NoBackoff(), 0)))
        world, goes_on = World(redis, server), asyncio.Event()
        world.does = lambda: _waits(goes_on)
        await world.store.db.sync_clock()
        await world.queue_by_puter(*(PuterKey("betty", f"t-{n}") for n in range(8)))
        runner = world.puter()
        await runner.start_due()
        while len(world.ran) < 8:
            await asyncio.sleep(0)
        server.kill()
        goes_on.set()
        await (runner.drain() if drains else asyncio.wait(list(runner.tasks.values())))
        del runner
        gc.collect()
        await redis.aclose()
        await redis.connection_pool.disconnect()

    assert (world.ends, untold) == (8, [])


async def test_jobs_whose_drain_is_interrupted_are_left_to_the_next_worker(world: World, untold: list[str]) -> None:
    async with world.at_work() as runner:
        tasks = list(runner.tasks.values())
        draining = asyncio.create_task(runner.drain())
        await asyncio.sleep(0)
        await cancel_all([draining])
        left = world.arqs_keys()

    assert [task.done() for task in tasks] == [True]
    assert f"{LOCK_PREFIX}{ID}" not in left
    assert {QUEUE, f"{JOB_PREFIX}{ID}"} <= left.keys()
    assert untold == []
