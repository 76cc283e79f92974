"""How long a command takes to start, beside the minimum that any client of Redis must load."""

from __future__ import annotations

import sys
import sysconfig
import time
from pathlib import Path
from statistics import median

from benchmarks.result import Row, times
from benchmarks.rig import Rig, asked
from benchmarks.sizes import Run
from puter_client.view import WaitFor

MOST = 1.5
LEAST = (sys.executable, "-c", "import redis.asyncio")


async def startup(run: Run) -> list[Row]:
    """`puter --help` and `puter status` of three machines; the three commands run alternately."""
    puter = str(Path(sysconfig.get_path("scripts")) / "puter")
    commands = {"puter --help": (puter, "--help"), "puter status": (puter, "status"), "least": LEAST}
    took: dict[str, list[float]] = {name: [] for name in commands}
    async with Rig(workers=1) as rig:
        batch_id = await rig.client.submit(asked(3))
        await rig.client.wait(batch_id=batch_id, size=3, wait=WaitFor.RUNNING, timeout_s=60)
        await rig.stop_workers()
        for number in range(run.sizes.starts + 1):
            for name, command in commands.items():
                began = time.perf_counter()
                await rig.run(*command)
                if number:  # the first run reads its files from disk
                    took[name].append(time.perf_counter() - began)
    least = median(took.pop("least"))
    run.say(f"least {least * 1e3:.0f} ms, " + ", ".join(f"{n} {median(t) * 1e3:.0f} ms" for n, t in took.items()))
    return [
        Row(
            work=f"`{name}`, median of {len(of)} starts",
            measured=f"{median(of) * 1e3:.0f} ms",
            baseline=f'{least * 1e3:.0f} ms for `python -c "import redis.asyncio"`',
            ratio=times(median(of) / least),
            target=f"≤{MOST}x",
            met=median(of) <= MOST * least,
        )
        for name, of in took.items()
    ]
