"""The queue: requests into the inbox, through intake, their status, and the memory of a full queue."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import suppress
from statistics import median
from typing import Any

import msgspec
import redis.asyncio
from arq.connections import ArqRedis

from benchmarks.machine import resident_mb
from benchmarks.result import BenchmarkFailed, Row, rate, seconds, times
from benchmarks.rig import Rig, asked, until
from benchmarks.sizes import Run
from puter_client.contract.key import PuterKey
from puter_client.store import names
from puter_client.store.redis_connection import connection_pool
from puter_client.view import WaitFor
from puter_worker.clock import Clock
from puter_worker.stages.intake import Intake
from puter_worker.store.arq_adapter import arq_redis
from puter_worker.store.store import Store
from puter_worker.timings import Timings

PATIENCE_S = 120.0
RESOLVED_S = 90.0
# Concurrent calls of arq's enqueue_job; more of them do not make it faster.
ENQUEUE_AT_ONCE = 50
# The modules that such a worker has loaded before it does anything.
BARE = "import aioboto3, arq, redis.asyncio, structlog, sys; print(open('/proc/self/status').read())"
MOST_MB = 150


async def inbox(run: Run) -> list[Row]:
    """10,000 requests: into the inbox, through the intake stage, through a whole worker, and by arq's enqueue_job."""
    n = run.sizes.requests
    appended: list[float] = []
    alone: list[float] = []
    whole: list[float] = []
    enqueued: list[float] = []
    for _ in range(run.sizes.repeats):
        async with Rig() as rig:
            began = time.monotonic()
            await rig.client.submit(asked(n))
            appended.append(n / (time.monotonic() - began))
            alone.append(n / await _intake_alone(rig.server.url, n))
            enqueued.append(n / await _enqueue_with_arq(rig.server.url, n))
        async with Rig(workers=1) as rig:
            await _one_up(rig)
            whole.append(n / await _taken_by_worker(rig, n))
        through = f"through intake {alone[-1]:,.0f}/s, through a whole worker {whole[-1]:,.0f}/s"
        run.say(f"appended {appended[-1]:,.0f}/s, {through}; arq enqueues {enqueued[-1]:,.0f}/s")
    plain = f"{rate(enqueued)} by arq's enqueue_job"
    return [
        Row(
            work=f"{n:,} requests into the inbox by the client",
            measured=rate(appended),
            baseline=plain,
            ratio=times(median(appended) / median(enqueued)),
            target="≥50,000/s",
            met=median(appended) >= 50_000,
        ),
        Row(
            work="the same through intake: one worker's intake and the feeding of its queue, no jobs run meanwhile",
            measured=rate(alone),
            baseline=plain,
            ratio=times(median(alone) / median(enqueued)),
            target="≥5,000/s a worker",
            met=median(alone) >= 5_000,
        ),
        Row(
            work="the same by one worker process that runs the jobs and all other stages meanwhile",
            measured=rate(whole),
            baseline=plain,
            ratio=times(median(whole) / median(enqueued)),
        ),
    ]


async def status(run: Run) -> list[Row]:
    """The status of 10,000 puters by the client, beside redis-py reading the same documents."""
    n = run.sizes.requests
    async with Rig() as rig:
        await rig.client.submit(asked(n))
        await _intake_alone(rig.server.url, n)
        keys = [names.record(PuterKey("bench", one.tag)) for one in asked(n)]
        ours: list[float] = []
        plain: list[float] = []
        for _ in range(run.sizes.repeats + 2):
            began = time.monotonic()
            views = await rig.client.recent()
            ours.append(time.monotonic() - began)
            if len(views) != n:
                raise BenchmarkFailed(f"{len(views)} of {n} are shown")
            plain.append(await _read_plainly(rig.server.url, keys))
        began = time.monotonic()
        lines = (await rig.run(sys.executable, "-m", "puter_client.cli", "status", "--json")).splitlines()
        command_s = time.monotonic() - began
        if len(lines) != n:
            raise BenchmarkFailed(f"`puter status --json` printed {len(lines)} lines")
    run.say(f"{n:,} read in {median(ours):.2f} s, by `puter status --json` in {command_s:.2f} s")
    return [
        Row(
            work=f"status of {n:,} puters by the client",
            measured=seconds(ours),
            baseline=f"{seconds(plain)} by redis-py, pipelined, undecoded",
            ratio=times(median(ours) / median(plain)),
            target="≤1 s",
            met=median(ours) <= 1,
        ),
        Row(
            work=f"the same by `puter status --json`, a process of its own, all {n:,} lines written",
            measured=f"{command_s:.2f} s",
            baseline=f"{seconds(plain)}, as above",
            ratio=times(command_s / median(plain)),
        ),
    ]


async def memory(run: Run) -> list[Row]:
    """The peak of one worker's memory while it takes 10,000 requests and queues their jobs."""
    n = run.sizes.requests
    async with Rig(workers=1) as rig:
        await _one_up(rig)
        pid = rig.workers[0].pid
        idle = resident_mb(pid)
        batch_id = await rig.client.submit(asked(n))
        await rig.client.wait(batch_id=batch_id, size=n, wait=WaitFor.QUEUED, timeout_s=PATIENCE_S)
        left = await _still_queued(rig)
        full = resident_mb(pid)
        bare = await rig.run(sys.executable, "-c", BARE)
    if idle is None or full is None:
        run.say("memory can be measured on Linux only")
        return []
    bare_mb = next(int(line.split()[1]) * 1_024 / 1e6 for line in bare.splitlines() if line.startswith(b"VmRSS"))
    run.say(f"idle {idle[0]:.0f} MB, with {n:,} queued {full[0]:.0f} MB, at its highest {full[1]:.0f} MB")
    how_long = "until all wait for their launch" if not left else f"within {RESOLVED_S:.0f} s"
    return [
        Row(
            work=f"memory of a worker with {n:,} jobs queued: resident at its highest, {how_long}",
            measured=f"{full[1]:.0f} MB (idle: {idle[0]:.0f} MB)",
            baseline=f"{bare_mb:.0f} MB for the imports alone",
            ratio=times(full[1] / bare_mb),
            target=f"≤{MOST_MB} MB",
            met=full[1] <= MOST_MB,
        )
    ]


async def _one_up(rig: Rig) -> None:
    """Launch one machine, so that the worker's EC2 clients exist."""
    (request,) = asked(1, "first-")
    batch_id = await rig.client.submit([request])
    await rig.client.wait(batch_id=batch_id, size=1, wait=WaitFor.LAUNCHED, timeout_s=PATIENCE_S)


async def _intake_alone(url: str, n: int) -> float:
    """Seconds in which the intake stage takes a full inbox, called as a worker calls it."""
    pool, timings = connection_pool(url), Timings()
    async with arq_redis(pool) as client:
        store = Store(client, clock=Clock(), timings=timings)
        await store.db.sync_clock()
        intake = Intake(store, timings)
        began = time.monotonic()
        while (await store.requests.ready()).names:
            await intake.run_once()
            await store.jobs.feed()
        took_s = time.monotonic() - began
        taken = await client.zcard(names.index("bench"))
    await pool.disconnect()
    if taken != n:
        raise BenchmarkFailed(f"{taken} of {n} requests were taken")
    return took_s


async def _taken_by_worker(rig: Rig, n: int) -> float:
    """Seconds in which the rig's one worker takes a full inbox; its process is suspended until the inbox is full."""
    (worker,) = rig.workers
    async with redis.asyncio.Redis.from_url(rig.server.url) as look:
        worker.send_signal(signal.SIGSTOP)
        try:
            batch_id = await rig.client.submit(asked(n))
        finally:
            worker.send_signal(signal.SIGCONT)
        began = time.monotonic()
        rows_and_head = n + 1

        async def all_taken() -> bool:
            return bool(await look.hlen(names.batch("bench", batch_id)) == rows_and_head)

        await until(all_taken, PATIENCE_S, "not all requests are taken", every_s=0.01)
        return time.monotonic() - began


async def _still_queued(rig: Rig) -> int:
    """The number of waiting jobs, as soon as it is 0 (then all keys wait for their launch), or after 90 s."""
    left = 0
    async with redis.asyncio.Redis.from_url(rig.server.url) as look:

        async def none() -> bool:
            nonlocal left
            left = sum(await asyncio.gather(look.zcard("arq:queue"), look.llen("puter:_backlog:bench")))
            return not left

        with suppress(BenchmarkFailed):
            await until(none, RESOLVED_S, "some jobs are still queued", every_s=0.1)
    return left


async def _read_plainly(url: str, keys: list[str]) -> float:
    async with redis.asyncio.Redis.from_url(url) as plain:
        began = time.monotonic()
        async with plain.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.hget(key, "doc")
            documents = await pipe.execute()
        took_s = time.monotonic() - began
    if None in documents:
        raise BenchmarkFailed("a record is missing")
    return took_s


async def _enqueue_with_arq(url: str, n: int) -> float:
    """Seconds of the same number of calls of arq's enqueue_job, 50 at a time."""
    pool: Any = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=ENQUEUE_AT_ONCE)
    async with ArqRedis(
        pool_or_conn=pool,
        job_serializer=msgspec.json.encode,
        job_deserializer=msgspec.json.decode,
        default_queue_name="arq:bench",
    ) as arq:
        numbers = iter(range(n))

        async def enqueue() -> None:
            for number in numbers:
                await arq.enqueue_job("ensure_puter", "bench", f"t-{number}", _job_id=f"enqueued/t-{number}")

        began = time.monotonic()
        await asyncio.gather(*(enqueue() for _ in range(ENQUEUE_AT_ONCE)))
        took_s = time.monotonic() - began
        await pool.disconnect()
    return took_s
