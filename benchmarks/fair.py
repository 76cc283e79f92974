"""Thousands of requests of one namespace beside a single one of another: how long that waits for its launch.

One worker. The many want more machines than EC2's bucket of instances holds, so nearly all of them wait, for over an
hour; the one comes while they are taken in, while they are looked up and launched, and when the bucket is empty.
"""

from __future__ import annotations

import asyncio
import time

from benchmarks.result import Row, times
from benchmarks.rig import Rig, asked
from benchmarks.sizes import Run
from puter_client.client import PuterClient
from puter_client.view import WaitFor

AFTER_S = (0.5, 6.0, 20.0)
PATIENCE_S = 60.0
MOST_S = 2.0
# "Request throttling for the Amazon EC2 API" in AWS's developer guide: instances at once, and per second.
INSTANCES_BURST, INSTANCES_RATE = 1_000, 2.0


async def fairness(run: Run) -> list[Row]:
    """Seconds from submit to the published instance id of single requests, sent at several times after the many."""
    return [await _beside(n, run) for n in run.sizes.crowds]


async def _beside(n: int, run: Run) -> Row:
    async with Rig(workers=1) as rig, PuterClient.connect(rig.server.url, namespace="other", user="one") as other:
        began = time.monotonic()
        await rig.client.submit(asked(n))
        took: list[float] = []
        for after_s in AFTER_S[: run.sizes.repeats]:
            await asyncio.sleep(max(0.0, began + after_s - time.monotonic()))
            took.append(await _one(other, f"one-{len(took)}"))
            run.say(f"{after_s:g} s after {n:,}: launched after {took[-1]:.2f} s")
        refused = await rig.refused()
    computed_s = max(1.0, (n - INSTANCES_BURST) / INSTANCES_RATE)
    told = ", ".join(f"{one:.2f} s" for one in took)
    when = ", ".join(f"{after_s:g}" for after_s in AFTER_S[: len(took)])
    return Row(
        work=f"one request of another namespace, {when} s after {n:,}, one worker: launched ({refused} refused)",
        measured=told,
        baseline=f"{computed_s:,.0f} s first come, first served (computed)",
        ratio=times(computed_s / max(took)),
        target=f"≤{MOST_S:.0f} s each, none refused",
        met=max(took) <= MOST_S and not refused,
    )


async def _one(client: PuterClient, tag: str) -> float:
    began = time.monotonic()
    (request,) = asked(1, f"{tag}-")
    batch_id = await client.submit([request])
    await client.wait(batch_id=batch_id, tags=[request.tag], wait=WaitFor.LAUNCHED, timeout_s=PATIENCE_S)
    return time.monotonic() - began
