"""arq's worker as Puter runs it: one kind of job, `ensure_puter`, one job a key."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from arq.worker import Worker as ArqWorker
from arq.worker import func

from puter_worker.store.names import QUEUE
from puter_worker.turns import take_turns

if TYPE_CHECKING:
    from arq.connections import ArqRedis
    from arq.typing import WorkerCoroutine

    from puter_worker.store.workerstore import WorkerStore

POLL_EVERY_S = 0.05
# An ensure job ends well within this.
JOB_TIMEOUT_S = 10
# What several namespaces have room for in the queue: of what is not read, none is begun in its turn.
READ_AT_ONCE = 2_000
# For so long a dead worker's job stays locked; arq's own figure, ten seconds more, serves jobs that must not meet.
JOB_LOCK_S = JOB_TIMEOUT_S + 2
# arq counts every start, SIGTERM included; real attempts are counted in the record.
MAX_TRIES = 50


class JobWorker(ArqWorker):
    """Runs `ensure_puter` jobs of arq's queue, with JSON where arq would use pickle, and without kept results."""

    def __init__(self, store: WorkerStore, redis: ArqRedis, ensure_puter: WorkerCoroutine, *, max_jobs: int) -> None:
        """`redis` must read and write JSON; `ensure_puter` is called with a context, a namespace and a tag."""
        self._store = store
        self._starting = asyncio.Lock()
        super().__init__(
            functions=[func(ensure_puter, name="ensure_puter", keep_result=0)],
            redis_pool=redis,
            handle_signals=False,
            max_jobs=max_jobs,
            job_timeout=JOB_TIMEOUT_S,
            poll_delay=POLL_EVERY_S,
            max_tries=MAX_TRIES,
            keep_result=0,
            health_check_interval=3_600,
            job_serializer=msgspec.json.encode,
            job_deserializer=msgspec.json.decode,
            on_job_start=_bind,
            log_results=False,
        )
        self.in_progress_timeout_s = JOB_LOCK_S

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start these jobs, unless they run already or somebody else starts them.

        arq does this with four round trips for each job, one job after the other; here one is for all of them.
        Workers that took them in the same order would only meet each other. Killed after the locks are taken, the
        jobs wait until these run out, as arq's own do.
        """
        random.shuffle(job_ids)
        async with self._starting:
            # Of a namespace with many and one with few, the few do not wait for the many.
            job_ids = take_turns(job_ids, lambda job_id: job_id.partition(b"/")[0])
            room = max(0, self.max_jobs - self.job_counter) if self.allow_pick_jobs else 0
            ids = [job_id.decode() for job_id in job_ids[:room]]
            locked = await self._store.lock_jobs(ids, now_ms=self._now_ms(), for_s=self.in_progress_timeout_s)
            for job_id, score in locked.items():
                await self.sem.acquire()
                self.job_counter += 1
                self.tasks[job_id] = task = self.loop.create_task(self.run_job(job_id, score))
                task.add_done_callback(lambda _: self._release_sem_dec_counter_on_complete())

    async def _poll_iteration(self) -> None:
        """Start jobs that are due, and let go of those that have ended.

        arq does the same by this host's clock, which may be behind that of whoever queued the jobs.
        """
        if self.allow_pick_jobs and self.job_counter < self.max_jobs:
            due = await self.pool.zrangebyscore(QUEUE, "-inf", self._now_ms(), start=0, num=READ_AT_ONCE)
            await self.start_jobs(due)
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                task.result()
        await self.heart_beat()

    def _now_ms(self) -> int:
        return int(self._store.now() * 1000)

    async def drain(self) -> None:
        """Take no more jobs, and wait for those that run."""
        self.allow_pick_jobs = False
        async with self._starting:
            pass
        while self.tasks:
            await asyncio.wait(list(self.tasks.values()))
            await asyncio.sleep(POLL_EVERY_S)  # arq drops ended jobs at its next poll


async def _bind(ctx: dict[Any, Any]) -> None:
    """Every log line of a job names its key."""
    structlog.contextvars.clear_contextvars()
    namespace, _, tag = str(ctx.get("job_id", "")).partition("/")
    structlog.contextvars.bind_contextvars(namespace=namespace, tag=tag, job_id=ctx.get("job_id"))
