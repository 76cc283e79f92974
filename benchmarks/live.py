"""1,000 tags whose machines are live: one more submit, with fresh records, with old ones, with none."""

from __future__ import annotations

import time

import redis.asyncio

from benchmarks.result import BenchmarkFailed, Row, seconds, times
from benchmarks.rig import Rig, asked, until
from benchmarks.sizes import Run
from puter_client.client import MachineRequest
from puter_client.contract.outcome import Outcome
from puter_client.view import WaitFor
from tests.ec2sim.config import SimConfig

WORKERS = 2
PATIENCE_S = 120.0
MOST_CALLS, MOST_S = 10, 3.0


async def live_many(run: Run) -> list[Row]:
    """For each: seconds until every request has the outcome `existing`, and the number of Describe calls."""
    n = run.sizes.many
    requests = asked(n)
    # Launched without limits; then the buckets are enabled, full, and workers that respect them take over.
    async with Rig(SimConfig(throttle=False), workers=WORKERS, pace=False) as rig:
        run.say(f"{n:,} machines are made first")
        await make(rig, requests)
        await rig.stop_workers()
        await rig.sim.control.configure(throttle=True)
        rig.pace = True
        await rig.start_workers(WORKERS)
        await looked_at_all(rig, requests)
        rows = [await _again(run, rig, requests, "one submit, records known")]
        async with redis.asyncio.Redis.from_url(rig.server.url) as plain:
            await plain.flushall()
        rows.append(await _again(run, rig, requests, "one submit, Redis emptied before"))
        run.say("baseline: the same tags, one look each")
        plain_run = await rig.baseline(n, "--prefix", "t-")
    if plain_run.found != n:
        raise BenchmarkFailed(f"the baseline found {plain_run.found} of {n}")
    baseline = f"{seconds([plain_run.seconds])}, {plain_run.calls:,} calls"
    return [
        Row(
            work=f"{n:,} tags already live, {what}",
            measured=f"{took_s:.2f} s, {calls} Describe calls",
            baseline=baseline,
            ratio=times(plain_run.seconds / took_s),
            target=f"≤{MOST_CALLS} calls, ≤{MOST_S:.0f} s",
            met=calls <= MOST_CALLS and took_s <= MOST_S,
        )
        for what, took_s, calls in rows
    ]


async def make(rig: Rig, requests: list[MachineRequest]) -> None:
    """Request machines, and wait until they run and have their tags."""
    tags = [one.tag for one in requests]
    batch_id = await rig.client.submit(requests)
    await rig.client.wait(batch_id=batch_id, tags=tags, wait=WaitFor.RUNNING, timeout_s=PATIENCE_S)

    async def all_labelled() -> bool:
        return all(view.record and view.record.labelled for view in await rig.client.views(tags))

    await until(all_labelled, PATIENCE_S, "not all are labelled", every_s=0.2)


async def looked_at_all(rig: Rig, requests: list[MachineRequest]) -> None:
    """Wait until the new workers have looked at all machines, since these calls are not caused by the submit."""
    tags = [one.tag for one in requests]
    began = max(view.record.observed_at or 0.0 for view in await rig.client.views(tags) if view.record)

    async def seen() -> bool:
        views = await rig.client.views(tags)
        return all(view.record and (view.record.observed_at or 0.0) > began for view in views)

    await until(seen, PATIENCE_S, "the machines are not looked at", every_s=0.2)


async def _again(run: Run, rig: Rig, requests: list[MachineRequest], what: str) -> tuple[str, float, int]:
    tags = [one.tag for one in requests]
    before = await rig.calls("DescribeInstances")
    began = time.monotonic()
    batch_id = await rig.client.submit(requests)
    views = await rig.client.wait(batch_id=batch_id, tags=tags, wait=WaitFor.RUNNING, timeout_s=PATIENCE_S)
    took_s = time.monotonic() - began
    calls = await rig.calls("DescribeInstances") - before
    if {view.outcome for view in views} != {Outcome.EXISTING}:
        raise BenchmarkFailed(f"{what}: {sorted({str(view.outcome) for view in views})}")
    await rig.check(tags, views, labelled=True)
    run.say(f"{what}: {took_s:.2f} s, {calls} Describe calls")
    return what, took_s, calls
