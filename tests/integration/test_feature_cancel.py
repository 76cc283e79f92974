"""`puter cancel --batch` of a large batch right after its submission, on the command line: real Valkey, moto."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from puter_client.client import MachineRequest
from tests.integration.workshop import Workshop, spec

MANY = [f"job-{n}" for n in range(5_000)]


async def test_a_batch_that_workers_are_still_taking_is_cancelled_whole(workshop: Workshop, tmp_path: Path) -> None:
    workshop.hurry(least_gap_s=0.2)  # a busy worker: the batch is taken bit by bit
    batch = await workshop.client.submit([MachineRequest(tag, spec(profile="nobodys")) for tag in MANY], max_parallel=1)
    async with workshop.working():
        while (await workshop.client.batch(batch))[0] is None:
            await asyncio.sleep(0.01)
        cancel = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "puter_client.cli", "cancel", "--batch", batch),
            env={**os.environ, "PUTER_REDIS_URL": workshop.server.url, "PUTER_NAMESPACE": "betty"}
            | {"PUTER_HOME": str(tmp_path)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await cancel.communicate()

    assert b"Traceback" not in err
    assert b"not cancelled" not in err
    assert out.startswith(b"cancelled: ")
    assert {view.phase.value for view in await workshop.client.recent()} <= {"cancelled", "failed"}
