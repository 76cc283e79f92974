"""One machine on an idle system: what Puter adds to the calls to EC2."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from benchmarks.result import Row, seconds, times
from benchmarks.rig import Rig, asked
from benchmarks.sizes import Run
from puter_client.contract.request import Origin
from puter_client.view import WaitFor

# Long enough for the bucket of RunInstances to be full again: the system is idle.
APART_S = 0.6
MOST_MORE_S = 0.25


async def one_up(run: Run) -> list[Row]:
    """From submit to the published instance id, beside one look-up and one launch by boto3 on a warm connection."""
    ours: list[float] = []
    async with Rig(workers=1) as rig:
        for request in asked(run.sizes.ups + 1):
            began = time.monotonic()
            batch_id = await rig.client.submit([request], origin=Origin.UP)
            await rig.client.wait(batch_id=batch_id, tags=[request.tag], wait=WaitFor.LAUNCHED, timeout_s=60)
            ours.append(time.monotonic() - began)
            await asyncio.sleep(APART_S)
        plain = (await rig.baseline(run.sizes.ups + 1, "--one-by-one")).each
    run.say(f"the first took {ours[0]:.2f} s (target, image, key pair and group are found), boto3's {plain[0]:.2f} s")
    ours, plain = ours[1:], plain[1:]
    more = median(ours) - median(plain)
    return [
        Row(
            work=f"one `puter up`, idle system: from submit to the instance id published, median of {len(ours)}",
            measured=seconds(ours),
            baseline=f"{seconds(plain)} for the EC2 calls themselves",
            ratio=f"{times(median(ours) / median(plain))}: {more:.2f} s more",
            target=f"≤{MOST_MORE_S} s more",
            met=more <= MOST_MORE_S,
        )
    ]
