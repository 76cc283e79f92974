"""Worker processes on a shared Redis: kill -9 and SIGTERM in a batch, --burst; EC2 tells what it holds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from puter_client.client import MachineRequest, PuterClient
from puter_client.view import View, WaitFor
from tests.acceptance.cli_world import PATIENCE_S
from tests.integration.redis_servers import RedisServer
from tests.integration.workshop import spec

TAGS = [f"sweep-{n}" for n in range(100)]
StartWorker = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start_worker(valkey: RedisServer, moto: str, tmp_path: Path) -> Iterator[StartWorker]:
    """Starts worker processes; whatever runs at the end is ended by its id."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str, pace: str = "off") -> subprocess.Popen[bytes]:
        environ = {**os.environ, "PUTER_REDIS_URL": valkey.url, "PUTER_PACE": pace, "PUTER_HOME": str(tmp_path)}
        environ["PUTER_MAX_GROUP"] = "1"  # of a group's call moto grants one machine
        with (tmp_path / "worker.log").open("ab") as log:
            worker = subprocess.Popen([sys.executable, "-m", "puter_worker", *options], env=environ, stderr=log)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        if worker.poll() is None:
            worker.terminate()
            worker.wait(PATIENCE_S)


@pytest.fixture
async def client(valkey: RedisServer) -> AsyncIterator[PuterClient]:
    async with PuterClient.connect(valkey.url, namespace="betty", user="betty") as connected:
        yield connected


async def test_a_worker_killed_in_the_middle_of_a_batch_leaves_each_tag_one_machine(
    client: PuterClient, start_worker: StartWorker, moto: str
) -> None:
    first = start_worker(pace="on")  # two launches a second: it is amid them for long
    await workers(client, 1)
    batch = await client.submit([MachineRequest(tag, spec(run=f"echo {tag}")) for tag in TAGS])
    await until(client, batch, lambda views: sum(1 for view in views if has_machine(view)) >= 20)
    first.kill()
    first.wait()
    assert not all(has_machine(view) for view in (await client.batch(batch))[1]), "it was killed too late to tell"
    start_worker()
    views = await client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.RUNNING, timeout_s=120)

    assert machines(moto) == {view.tag: view.record and view.record.instance_id for view in views}


async def test_a_worker_told_to_end_in_the_middle_loses_nothing(
    client: PuterClient, start_worker: StartWorker, moto: str
) -> None:
    first = start_worker()
    await workers(client, 1)
    batch = await client.submit([MachineRequest(tag, spec()) for tag in TAGS])
    await until(client, batch, lambda views: any(has_machine(view) for view in views))
    first.terminate()
    ended = await asyncio.to_thread(first.wait, 60)
    start_worker()
    await client.wait(batch_id=batch, tags=TAGS, wait=WaitFor.RUNNING, timeout_s=120)

    assert ended == 0
    assert sorted(machines(moto)) == sorted(TAGS)


async def test_two_workers_share_a_batch_and_end_when_nothing_is_left(
    client: PuterClient, start_worker: StartWorker, moto: str
) -> None:
    await client.submit([MachineRequest(tag, spec()) for tag in TAGS])
    both = [start_worker("--burst"), start_worker("--burst")]
    codes = [await asyncio.to_thread(worker.wait, 90) for worker in both]

    assert codes == [0, 0]
    assert sorted(machines(moto)) == sorted(TAGS)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("loading", ["puter_worker.logs", "puter_worker.ec2.session"])
@pytest.mark.parametrize("started", [["puter_client.cli", "worker"], ["puter_worker"]], ids=["command", "service"])
def test_a_worker_that_is_stopped_while_it_loads_drains_and_says_no_more(
    valkey: RedisServer, tmp_path: Path, number: signal.Signals, loading: str, started: list[str]
) -> None:
    environ = {**os.environ, "PUTER_REDIS_URL": valkey.url, "PUTER_HOME": str(tmp_path)}
    environ["PYTHONPROFILEIMPORTTIME"] = "1"  # tells how far it is
    command = [sys.executable, "-m", *started]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr
        next(line for line in worker.stderr if line.rstrip().endswith(loading))
        worker.send_signal(number)
        told = [line for line in worker.stderr if not line.startswith("import time:")]

    assert worker.returncode == 0
    events = [json.loads(line)["event"] for line in told]
    assert events == ["policy.missing", "worker.started", "worker.draining", "worker.ended"]


def has_machine(view: View) -> bool:
    return view.record is not None and view.record.instance_id is not None


async def workers(client: PuterClient, count: int) -> None:
    while len(await client.workers()) < count:
        await asyncio.sleep(0.05)


async def until(client: PuterClient, batch: str, reached: Callable[[list[View]], bool]) -> None:
    async with asyncio.timeout(120):
        while not reached((await client.batch(batch))[1]):
            await asyncio.sleep(0.02)


def machines(moto: str) -> dict[str, str]:
    """The tag of each instance that EC2 holds, with its id; fails if two have the same."""
    ec2: Any = boto3.client("ec2", region_name="us-east-1", endpoint_url=moto)
    found = [
        (next(tag["Value"] for tag in instance["Tags"] if tag["Key"] == "puter:tag"), instance["InstanceId"])
        for page in ec2.get_paginator("describe_instances").paginate()
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    ]
    ec2.close()
    twice = [tag for tag, count in Counter(tag for tag, _ in found).items() if count > 1]
    assert not twice, f"two machines under one tag: {twice}"
    return dict(found)
