"""The primary of a Redis with Sentinels is killed in the middle of a batch: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from puter_client.store import names
from tests.acceptance.cli_world import ROOT, CliWorld
from tests.acceptance.test_cli_outages import AWAY, BACK, waiting
from tests.ec2sim.client import ControlClient
from tests.ec2sim.config import Fault
from tests.ec2sim.reports import Seen
from tests.integration.sentinels import Failover, eventually, failing_over
from tests.integration.sim_workshop import CALM, sim_url

__all__ = ["sim_url"]

KEYS = 300
WORKERS = 2


@pytest.fixture
def group() -> Iterator[Failover]:
    """A primary, two replicas and three Sentinels, with the users of `deploy/`."""
    with failing_over() as started:
        yield started


@pytest.fixture
def world(sim_url: str, group: Failover, tmp_path: Path) -> Iterator[CliWorld]:
    """A user of it with two workers, and of an EC2 that is empty."""
    asyncio.run(_emptied(sim_url))
    made = CliWorld(tmp_path, sim_url)
    made.environ |= {
        "PUTER_REDIS_URL": group.url("worker"),
        "PUTER_PACE": "on",
        "PUTER_MAX_GROUP": "20",  # many launches, so that it fails over among them
        "PUTER_QUIET_SWEEP_S": "1",
    }
    with (tmp_path / "worker.log").open("wb") as log:
        command = [sys.executable, "-m", "tests.acceptance.quick_worker"]
        environ = {**made.environ, "PATH": os.environ["PATH"]}
        workers = [subprocess.Popen(command, env=environ, cwd=ROOT, stderr=log) for _ in range(WORKERS)]
    eventually("the workers serve", lambda: counted(group, names.WORKERS) == WORKERS)
    made.environ["PUTER_REDIS_URL"] = group.url("betty")
    yield made
    for worker in workers:
        worker.terminate()
    assert [worker.wait(60) for worker in workers] == [0] * WORKERS


async def _emptied(sim_url: str) -> None:
    async with ControlClient(sim_url) as sim:
        await sim.reset(CALM)


async def _instances(sim_url: str) -> list[Seen]:
    async with ControlClient(sim_url) as sim:
        return await sim.instances()


async def _faults(sim_url: str, *faults: Fault) -> None:
    async with ControlClient(sim_url) as sim:
        await sim.configure(faults=msgspec.to_builtins(faults))


def counted(group: Failover, name: str) -> int:
    """How many members a sorted set of the first primary has."""
    with group.servers[0].client() as behind:
        count: Any = behind.zcard(name)
        return int(count)


def launched(sim_url: str) -> int:
    return len(asyncio.run(_instances(sim_url)))


def by_tag(sim_url: str) -> Counter[str | None]:
    """How many machines each tag has."""
    return Counter(one.tags.get("puter:tag") for one in asyncio.run(_instances(sim_url)))


def test_a_primary_killed_in_the_middle_of_300_keys_costs_none_and_doubles_none(
    world: CliWorld, group: Failover, sim_url: str, tmp_path: Path
) -> None:
    first = group.servers[0]
    asyncio.run(_faults(sim_url, Fault(action="RunInstances", hold=True, skip=3)))
    words = ["submit", "--tag", "k-{i}", "--count", str(KEYS), "--ssh-from", "none", "--wait", "running"]
    with waiting(world, *words) as command:
        eventually("some are launched", lambda: launched(sim_url) > 0)
        first.kill()
        asyncio.run(_faults(sim_url))
        assert launched(sim_url) < KEYS, "it was killed too late to tell"
        command.says(AWAY)
        second = group.failed_over(first)
        first.start()
        eventually("the old primary follows", lambda: first.says("replication")["role"] == "slave")
        assert command.ended() == 0, command.err

    # Those of a launch get their own tags after it.
    each_once = {f"k-{n}": 1 for n in range(KEYS)}
    eventually("each key has its own machine, and no other", lambda: by_tag(sim_url) == each_once)
    assert any(BACK in line for line in command.err)
    assert second.says("replication")["role"] == "master"
    log = (tmp_path / "worker.log").read_text()
    assert "stage.failed" not in log
    assert "Traceback" not in log
