"""A worker whose Redis dies under it, with all its jobs running: what its log says is its own, and is little."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from puter_client.client import MachineRequest, PuterClient
from puter_worker.log_limit import MOST_LINES
from tests.integration.redis_servers import RedisServer
from tests.integration.workshop import spec

JOBS = 64


@asynccontextmanager
async def silent_aws() -> AsyncIterator[str]:
    """An AWS that accepts connections and never answers: jobs run for as long as they may."""
    over = asyncio.Event()

    async def served(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    over.set()
    server.close()


def text(log: Path) -> str:
    return log.read_text()


async def read_until(log: Path, event: str) -> None:
    async with asyncio.timeout(120):
        while f'"{event}"' not in text(log):
            await asyncio.sleep(0.02)


def started(log: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as stderr:
        return subprocess.Popen([sys.executable, "-m", "puter_worker"], env=environ, stderr=stderr)


@pytest.mark.parametrize(
    "first", ["redis", "worker"], ids=["Redis dies, then it is stopped", "it is stopped, then Redis dies"]
)
async def test_jobs_that_lose_their_redis_leave_no_traceback(
    own_valkey: RedisServer, tmp_path: Path, first: str
) -> None:
    log = tmp_path / "log"
    async with silent_aws() as aws:
        environ = {
            **os.environ, "PUTER_REDIS_URL": own_valkey.url, "PUTER_HOME": str(tmp_path), "PUTER_DRAIN_S": "1",
            "AWS_ENDPOINT_URL": aws, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        worker = started(log, environ)
        try:
            await read_until(log, "worker.started")
            async with PuterClient.connect(own_valkey.url, namespace="betty", user="betty") as betty:
                await betty.submit([MachineRequest(f"t-{number}", spec()) for number in range(500)])
            with own_valkey.client() as redis:
                behind: Any = redis
                while len(behind.keys("arq:in-progress:*")) < JOBS:
                    await asyncio.sleep(0.01)
            if first == "redis":
                own_valkey.kill()
                await read_until(log, "job.interrupted")
                worker.send_signal(signal.SIGTERM)
            else:
                worker.send_signal(signal.SIGTERM)
                await read_until(log, "worker.draining")
                own_valkey.kill()
            code = await asyncio.to_thread(worker.wait, 60)
        finally:
            worker.kill()
            worker.wait()
    lines = [json.loads(line) for line in text(log).splitlines()]  # each is one of the log's own

    assert code == 0
    assert [line for line in lines if line["level"] == "error" or "exception" in line] == []
    kinds = Counter((line["event"], line.get("stage")) for line in lines)
    assert max(kinds.values()) <= MOST_LINES
    interrupted = [line["jobs"] for line in lines if line["event"] == "job.interrupted"]
    assert sum(interrupted) <= JOBS
    assert interrupted or first == "worker"  # stopped first, it may have taken note of none before its stages ended
