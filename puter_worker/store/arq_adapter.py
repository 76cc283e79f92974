"""All that Puter knows about arq: its keys, the form of its jobs, and the private methods that Puter replaces.

arq runs one kind of job, `ensure_puter`, one for each key. `JobQueue` puts jobs into arq's queue, many with one script;
`JobRunner` is arq's worker as Puter runs it. tests/integration/test_arq_adapter.py compares both with arq itself.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
import structlog
from arq import Retry
from arq.connections import ArqRedis
from arq.constants import default_queue_name, in_progress_key_prefix, job_key_prefix
from arq.worker import Worker as ArqWorker
from arq.worker import func

from puter_client.contract.key import PuterKey
from puter_worker.store import names, wakeups
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn
from puter_worker.tasks import cancel_all
from puter_worker.turns import take_turns

if TYPE_CHECKING:
    from arq.typing import WorkerCoroutine
    from redis.asyncio import ConnectionPool

QUEUE = default_queue_name  # sorted set: job id → when it is due, in ms
LOCK_PREFIX = in_progress_key_prefix  # + job id: a worker runs the job
JOB_PREFIX = job_key_prefix  # + job id: the job's body
FUNCTION = "ensure_puter"
JOB_KEPT_MS = 86_400_000
# No job is put off for longer: one that is due later was queued before Redis's clock was set back.
LATE_MS = 120_000
# A namespace's share of the queue: its 10,000 keys do not delay another namespace's single key.
ROOM_IN_QUEUE = 500
# The room of four namespaces: jobs beyond these are not read, so their namespaces do not take turns.
READ_AT_ONCE = 2_000
# arq counts every start, also one that a SIGTERM ended; the record counts the real attempts.
MAX_TRIES = 50


def arq_redis(pool: ConnectionPool) -> ArqRedis:
    """A client of Redis that arq can use, too.

    It sets JSON, because arq's default is pickle, with which anybody who can write to Redis could run code here.
    """
    return ArqRedis(pool_or_conn=pool, job_serializer=msgspec.json.encode, job_deserializer=msgspec.json.decode)


def run_again(after_s: float) -> Retry:
    """A job raises this to run again after about `after_s` (±50 %, so that jobs do not all run at once)."""
    return Retry(defer=random.uniform(0.5, 1.5) * after_s)  # noqa: S311 - only spreads the load


class JobQueue:
    """Backlogs of namespaces, and arq's queue."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @property
    def redis(self) -> ArqRedis:
        """The connection, typed as arq's."""
        redis: ArqRedis = self._db.redis
        return redis

    def enqueue(self, txn: Txn, key: PuterKey) -> None:
        """Have the key's job run: add its tag to the backlog, from which `feed` moves it into arq's queue."""
        txn.do("RPUSH", names.backlog(key.namespace), key.tag)
        txn.keep(names.backlog(key.namespace), self._db.timings.keep_s)
        txn.once("SADD", names.BACKLOGS, key.namespace)
        txn.keep(names.BACKLOGS, self._db.timings.keep_s)
        txn.wake(wakeups.JOBS)

    async def feed(self) -> bool:
        """Move tags from the backlogs to arq's queue, each namespace within its room; whether there were any."""
        namespaces = [raw.decode() for raw in await self._db.redis.smembers(names.BACKLOGS)]
        timings = self._db.timings
        for namespace in namespaces:
            await self._db.scripts.feed(
                [names.backlog(namespace), names.places(namespace), names.BACKLOGS, QUEUE, names.MOVING],
                namespace=namespace,
                now_ms=int(self._db.now() * 1000),
                room=ROOM_IN_QUEUE,
                restart_s=timings.restart_s,
                place_kept_s=timings.place_kept_s,
                job_kept_ms=JOB_KEPT_MS,
                backlog_kept_s=timings.keep_s,
                lock_prefix=LOCK_PREFIX,
                job_prefix=JOB_PREFIX,
            )
        return bool(namespaces)

    async def due(self, most: int) -> list[str]:
        """Ids of jobs that are due, the earliest first; jobs that are running are among them."""
        now_ms = int(self._db.now() * 1000)
        async with self._db.redis.pipeline(transaction=False) as pipe:
            pipe.zrangebyscore(QUEUE, f"({now_ms + LATE_MS}", "+inf", start=0, num=most)
            pipe.zrangebyscore(QUEUE, "-inf", now_ms, start=0, num=most)
            late, due = await pipe.execute()
        return [raw.decode() for raw in (*late, *due)][:most]

    async def next_due(self) -> float | None:
        """When the earliest job that is not due yet becomes due; seconds of Redis TIME."""
        now_ms = int(self._db.now() * 1000)
        first = await self._db.redis.zrangebyscore(QUEUE, f"({now_ms}", "+inf", start=0, num=1, withscores=True)
        if not first:
            return None
        at_ms = float(first[0][1])
        return at_ms / 1000 if at_ms <= now_ms + LATE_MS else now_ms / 1000

    async def lock(self, ids: Sequence[str]) -> dict[str, int]:
        """Lock the jobs among these that are due and that no worker runs; returns their scores in the queue."""
        if not ids:
            return {}
        # If the answer is lost, redis-py sends the command again: the holder's name shows which locks are its own.
        return await self._db.scripts.start(
            QUEUE,
            ids,
            now_ms=int(self._db.now() * 1000),
            late_ms=LATE_MS,
            lock_ms=int(self._db.timings.job_lock_s * 1000),
            lock_prefix=LOCK_PREFIX,
            places_prefix=names.places(""),
            holder=secrets.token_hex(8),
        )


class JobRunner(ArqWorker):
    """Runs `ensure_puter` jobs of arq's queue. It uses JSON instead of pickle, and keeps no results.

    arq's own loop polls, and starts one job after the other with four round trips each. Here a stage calls `start_due`
    when there are jobs to start, and one script locks them all; `run_job` is arq's own.
    """

    def __init__(
        self,
        queue: JobQueue,
        run: Callable[[str, str], Awaitable[None]],
        *,
        max_jobs: int,
        timeout_s: float,
        on_end: Callable[[], None],
    ) -> None:
        """`run` is called with a job's namespace and tag; `on_end` is called after each job."""

        async def ensure_puter(_ctx: dict[str, Any], namespace: str, tag: str) -> None:
            await run(namespace, tag)

        self._queue = queue
        self._on_end = on_end
        super().__init__(
            functions=[func(cast("WorkerCoroutine", ensure_puter), name=FUNCTION, keep_result=0)],
            redis_pool=queue.redis,
            handle_signals=False,
            max_jobs=max_jobs,
            job_timeout=timeout_s,
            max_tries=MAX_TRIES,
            keep_result=0,
            job_serializer=msgspec.json.encode,
            job_deserializer=msgspec.json.decode,
            on_job_start=_bind,
            log_results=False,
        )
        self.ctx["redis"] = queue.redis

    @property
    def room(self) -> int:
        """How many more jobs may run."""
        return max(0, self.max_jobs - self.job_counter)

    async def start_due(self) -> bool:
        """Start jobs that are due and that no worker runs; returns whether any are left.

        The order is random: workers that tried the same jobs first would only get in each other's way. If the worker
        is killed after it has locked jobs, they wait until the locks run out, as with arq's own worker.
        """
        if not self.room:
            return False  # the next job that ends makes room, and calls `on_end`
        ids = [job_id for job_id in await self._queue.due(READ_AT_ONCE) if job_id not in self.tasks]
        random.shuffle(ids)
        # A namespace with few jobs does not wait for one with many.
        chosen = take_turns(ids, lambda job_id: job_id.partition("/")[0])[: self.room]
        locked = await self._queue.lock(chosen)
        for job_id, score in locked.items():
            self.job_counter += 1
            self.tasks[job_id] = task = asyncio.create_task(self.run_job(job_id, score))
            task.add_done_callback(self._ended)
        return len(locked) < len(ids) and self.room > 0

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.job_counter -= 1
        if not task.cancelled():
            task.exception()  # asyncio logs the traceback of an error that nobody looks at, as after a drain cut short
        self._on_end()

    def take_ended(self) -> list[BaseException]:
        """Forget jobs that have ended; returns the errors that arq itself raised, such as a lost connection."""
        ended = {job_id: task for job_id, task in self.tasks.items() if task.done()}
        for job_id in ended:
            del self.tasks[job_id]
        errors = (task.exception() for task in ended.values() if not task.cancelled())
        return [error for error in errors if error is not None]

    async def drain(self) -> None:
        """Wait for the running jobs to end; if this is interrupted, they are cancelled, and other workers run them."""
        try:
            while self.tasks:
                await asyncio.wait(list(self.tasks.values()))
                self.take_ended()
        finally:
            await cancel_all(self.tasks.values())


async def _bind(ctx: dict[Any, Any]) -> None:
    """Make every log line of a job name its key."""
    structlog.contextvars.clear_contextvars()
    namespace, _, tag = str(ctx.get("job_id", "")).partition("/")
    structlog.contextvars.bind_contextvars(namespace=namespace, tag=tag, job_id=ctx.get("job_id"))
