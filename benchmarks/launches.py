"""New machines: 200 and 1,000 within EC2's published call rates, 200 of Spot, and 1,000 without any limit.

The clock starts before the batch is handed to the client, so a little before the first request is in Redis. The workers
are fresh and nothing is cached: image, key pair and security group are found or made within the time. "Launched" is
when the client has read the instance id of every tag, "labelled" when it has read that each machine has its tags.
"""

from __future__ import annotations

import time
from statistics import median

import msgspec

from benchmarks.result import Row, seconds, times
from benchmarks.rig import Rig, asked, until
from benchmarks.sizes import Run
from puter_client.view import WaitFor
from tests.ec2sim.config import SimConfig

WORKERS = 2
PATIENCE_S = 300.0
# "Request throttling for the Amazon EC2 API" in AWS's developer guide: tokens, and refill per second.
RUN_BURST, RUN_RATE = 5, 2.0
TAGS_BURST, TAGS_RATE = 100, 10.0
NO_LIMITS = SimConfig(throttle=False)


class Launched(msgspec.Struct, frozen=True):
    """One batch on its own rig.

    Attributes:
        launched_s: until every instance id was published.
        labelled_s: until every machine had its tags; None if that was not waited for.
        refused: calls that EC2 refused as one too many.
        calls: of RunInstances.
    """

    launched_s: float
    labelled_s: float | None
    refused: int
    calls: int


async def launch_few(run: Run) -> list[Row]:
    """200 new tags."""
    n = run.sizes.few
    runs = [await _paced(run, n, labelled=True) for _ in range(run.sizes.repeats)]
    async with Rig() as rig:
        run.say(f"baseline: {n} tags, one call each")
        plain = await rig.baseline(n)
        plain_refused = await rig.refused()
    launched, labelled = [one.launched_s for one in runs], [one.labelled_s or 0.0 for one in runs]
    limit_s = max(1.0, (n - TAGS_BURST) / TAGS_RATE)
    faster, labelled_faster = plain.seconds / median(launched), plain.seconds / median(labelled)
    return [
        Row(
            work=f"{n:,} new tags, buckets on: all launched",
            measured=seconds(launched),
            baseline=f"{plain.seconds:.1f} s, {plain.failed} failed",
            ratio=times(faster),
            target="≤2 s, ≥40x",
            met=median(launched) <= 2 and faster >= 40,
        ),
        Row(
            work="the same: all labelled too",
            measured=seconds(labelled),
            baseline=f"{plain.seconds:.1f} s",
            ratio=times(labelled_faster),
            target=f"≤{1.2 * limit_s:.0f} s (the bucket's limit is {limit_s:.0f} s), ≥7x",
            met=median(labelled) <= 1.2 * limit_s and labelled_faster >= 7,
        ),
        _refused_row(n, runs, f"{plain_refused:,}"),
    ]


async def launch_spot(run: Run) -> list[Row]:
    """200 new tags on Spot machines; a machine knows its own workload when it has the tag `puter:member`."""
    n = run.sizes.few
    runs = [await _paced(run, n, labelled=True, spot=True) for _ in range(run.sizes.repeats)]
    launched, labelled = [one.launched_s for one in runs], [one.labelled_s or 0.0 for one in runs]
    # Each call launches one, because all Spot instances of a call have launch index 0.
    computed_s = max(1.0, (n - RUN_BURST) / RUN_RATE)
    return [
        Row(
            work=f"{n:,} new tags on Spot, buckets on: all launched",
            measured=seconds(launched),
            baseline=f"{computed_s:.0f} s (computed)",
            ratio=times(computed_s / median(launched)),
            target="≤2 s",
            met=median(launched) <= 2,
        ),
        Row(
            work="the same: each machine knows its own workload",
            measured=seconds(labelled),
            baseline=f"{computed_s:.0f} s (computed)",
            ratio=times(computed_s / median(labelled)),
            target="≤12 s",
            met=median(labelled) <= 12,
        ),
        _refused_row(n, runs, "-"),
    ]


async def launch_many(run: Run) -> list[Row]:
    """1,000 new tags."""
    n = run.sizes.many
    runs = [await _paced(run, n, labelled=first) for first in [True, *[False] * (run.sizes.repeats - 1)]]
    computed_s = (n - RUN_BURST) / RUN_RATE
    launched = [one.launched_s for one in runs]
    labelled_s = runs[0].labelled_s or 0.0
    limit_s = max(1.0, (n - TAGS_BURST) / TAGS_RATE)
    return [
        Row(
            work=f"{n:,} new tags, buckets on: all launched",
            measured=seconds(launched),
            baseline=f"{computed_s:.0f} s (computed)",
            ratio=times(computed_s / median(launched)),
            target="≤6 s",
            met=median(launched) <= 6,
        ),
        Row(
            work="the same: all labelled too",
            measured=seconds([labelled_s]),
            baseline=f"{computed_s:.0f} s (computed)",
            ratio=times(computed_s / labelled_s),
            target=f"≤97 s (the bucket's limit is {limit_s:.0f} s)",
            met=labelled_s <= 97,
        ),
        _refused_row(n, runs, "-"),
    ]


async def unlimited(run: Run) -> list[Row]:
    """1,000 new tags without limits of EC2 or the pacer; Puter and the baseline run alternately."""
    n = run.sizes.many
    ours: list[Launched] = []
    plain: list[float] = []
    for _ in range(run.sizes.repeats):
        async with Rig(NO_LIMITS, workers=WORKERS, pace=False) as rig:
            ours.append(await _launch(run, rig, n, labelled=True))
        async with Rig(NO_LIMITS) as rig:
            plain.append((await rig.baseline(n)).seconds)
            run.say(f"baseline without limits: {plain[-1]:.2f} s")
    labelled = [one.labelled_s or 0.0 for one in ours]
    faster = median(plain) / median(labelled)
    return [
        Row(
            work=f"{n:,} new tags, no buckets, pacer unlimited, {WORKERS} workers: launched and labelled",
            measured=seconds(labelled),
            baseline=seconds(plain),
            ratio=times(faster),
            target="≥1.5x",
            met=faster >= 1.5,
        )
    ]


async def _paced(run: Run, n: int, *, labelled: bool, spot: bool = False) -> Launched:
    async with Rig(workers=WORKERS) as rig:
        return await _launch(run, rig, n, labelled=labelled, spot=spot)


async def _launch(run: Run, rig: Rig, n: int, *, labelled: bool, spot: bool = False) -> Launched:
    requests, client = asked(n, spot=spot), rig.client
    tags = [one.tag for one in requests]
    began = time.monotonic()
    batch_id = await client.submit(requests)
    await client.wait(batch_id=batch_id, tags=tags, wait=WaitFor.LAUNCHED, timeout_s=PATIENCE_S)
    launched_s = time.monotonic() - began
    labelled_s = None
    if labelled:
        left = tags

        async def all_labelled() -> bool:
            nonlocal left
            left = [view.tag for view in await client.views(left) if not (view.record and view.record.labelled)]
            return not left

        await until(all_labelled, PATIENCE_S, "not all are labelled", every_s=0.1)
        labelled_s = time.monotonic() - began
    await rig.check(tags, await client.views(tags), labelled=labelled)
    told = "" if labelled_s is None else f", labelled after {labelled_s:.2f} s"
    run.say(f"{n:,} tags launched after {launched_s:.2f} s{told}")
    return Launched(launched_s, labelled_s, await rig.refused(), await rig.calls("RunInstances"))


def _refused_row(n: int, runs: list[Launched], plain: str) -> Row:
    refused = sum(one.refused for one in runs)
    calls = ", ".join(str(one.calls) for one in runs)
    return Row(
        work=f"the same {n:,}, all runs: EC2 calls refused by throttling (RunInstances calls: {calls})",
        measured=str(refused),
        baseline=plain,
        target="0",
        met=refused == 0,
    )
