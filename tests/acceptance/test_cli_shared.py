"""A shared Redis: whoever is missing is told of, and the requests stay."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from puter_client.cli import session
from puter_client.cli.follow import InFlight, follow
from puter_client.client import MachineRequest
from puter_client.config import Config, client_settings
from puter_client.contract.errors import NoWorker
from puter_client.contract.health import WorkerHealth
from puter_client.contract.spec import Spec
from puter_client.store import names
from puter_client.timings import ClientTimings
from tests.acceptance.cli_world import PUTER, CliWorld
from tests.integration.engine_world import wait_for
from tests.integration.redis_servers import RedisServer, running_server, server_binaries


@pytest.fixture
def shared() -> Iterator[RedisServer]:
    """A Redis of a team, empty."""
    with running_server(server_binaries()["valkey"]) as server:
        yield server


def test_without_a_worker_the_requests_stay_and_exit_code_is_3(fresh: CliWorld, shared: RedisServer) -> None:
    ran = fresh.puter("submit", "--tag", "x-{i}", "--count", "3", PUTER_REDIS_URL=shared.url)
    assert ran.code == 3
    assert "no worker is running on this Redis" in ran.err
    assert "the requests stay queued until one starts, as batch b" in ran.err
    with shared.client() as redis:
        assert redis.llen("puter:_in:betty") == 3


def test_no_engine_is_started_beside_it(fresh: CliWorld, shared: RedisServer) -> None:
    fresh.puter("up", "x", PUTER_REDIS_URL=shared.url)
    assert not fresh.paths.engine.exists()


def test_a_wait_for_what_nobody_grants_is_exit_code_3(fresh: CliWorld, shared: RedisServer) -> None:
    fresh.puter("up", "x", PUTER_REDIS_URL=shared.url)
    work(fresh, shared)
    assert fresh.puter("wait", "x", "--for", "launched", PUTER_REDIS_URL=shared.url).code == 0
    ran = fresh.puter("wait", "x", "--for", "terminated", PUTER_REDIS_URL=shared.url)
    assert (ran.code, "no worker is running" in ran.err) == (3, True)


def test_a_worker_that_comes_later_grants_the_requests(fresh: CliWorld, shared: RedisServer) -> None:
    fresh.puter("submit", "--tag", "x-{i}", "--count", "3", PUTER_REDIS_URL=shared.url)
    work(fresh, shared)
    told = fresh.puter("status", "--json", PUTER_REDIS_URL=shared.url).objects()
    assert sorted(record["tag"] for record in told if record["instance_id"]) == ["x-0", "x-1", "x-2"]


def test_what_no_worker_has_taken_is_told_by_every_look(fresh: CliWorld, shared: RedisServer) -> None:
    fresh.puter("submit", "--tag", "x-{i}", "--count", "3", PUTER_REDIS_URL=shared.url)
    three = "3 requests are waiting for a worker to take them"

    status = fresh.puter("status", PUTER_REDIS_URL=shared.url)
    assert (status.code, status.out) == (0, f"no worker is running\n{three}\n")
    batches = fresh.puter("batches", PUTER_REDIS_URL=shared.url)
    assert (batches.code, batches.err) == (0, f"puter: {three}\n")
    for words in (["status", "x-1"], ["why", "x-1"]):
        ran = fresh.puter(*words, PUTER_REDIS_URL=shared.url)
        assert (ran.code, ran.err) == (1, f"puter: x-1 is not known in namespace betty yet\nputer: {three}\n")
    for words in (["status", "--batch", "last"], ["wait", "--batch", "last"], ["cancel", "--batch", "last"]):
        ran = fresh.puter(*words, PUTER_REDIS_URL=shared.url)
        assert (ran.code, ran.err) == (
            1,
            f"puter: the last batch is not known yet: {three}; name it with --batch ID\n",
        )
    ran = fresh.puter("wait", "x-1", PUTER_REDIS_URL=shared.url)
    assert (ran.code, "no worker is running" in ran.err, three in ran.err) == (3, True, True)


def test_a_worker_that_is_just_starting_is_waited_for(fresh: CliWorld, shared: RedisServer) -> None:
    with subprocess.Popen(
        [*PUTER, "submit", "--tag", "x-{i}", "--count", "3", "--wait", "launched", "--json"],
        env={**fresh.environ, "PUTER_REDIS_URL": shared.url},
        cwd=fresh.home.parent,
        stdout=subprocess.PIPE,
        text=True,
    ) as waiting:
        with shared.client() as redis:
            wait_for(lambda: redis.llen("puter:_in:betty") == 3, "the requests")
        work(fresh, shared)
        told, _ = waiting.communicate(timeout=60)
    assert (waiting.returncode, told.count('"instance_id":"i-')) == (0, 3)


@pytest.fixture
def idle(shared: RedisServer) -> None:
    """A worker of that Redis which is there, and takes nothing."""
    now = time.time() + 3_600  # it stays for as long as any test takes
    worker = WorkerHealth(worker_id="here:1:idle", host="here", pid=1, version="0", started_at=now, seen_at=now)
    with shared.client() as redis:
        redis.zadd(names.WORKERS, {worker.worker_id: now})
        redis.set(names.worker(worker.worker_id), msgspec.json.encode(worker))


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize(
    ("words", "tags"),
    [
        (["up", "x", "--timeout", "1s"], ["x"]),
        (["submit", "--tag", "x-{i}", "--count", "2", "--timeout", "1s"], ["x-0", "x-1"]),
        (["submit", "--tag", "x-{i}", "--count", "2", "--wait", "running", "--timeout", "1s"], ["x-0", "x-1"]),
        (["wait", "earlier", "--timeout", "1s"], ["earlier"]),
    ],
)
def test_json_is_written_too_when_time_is_up(
    fresh: CliWorld, shared: RedisServer, words: list[str], tags: list[str]
) -> None:
    fresh.puter("up", "earlier", "--timeout", "1s", PUTER_REDIS_URL=shared.url)

    ran = fresh.puter(*words, "--json", PUTER_REDIS_URL=shared.url)

    waiting = "waiting for a worker to take the request"
    assert (ran.code, ran.err.startswith("puter: timed out: ")) == (4, True)
    assert [(told["tag"], told["phase"], told["reason"]) for told in ran.objects()] == [
        (tag, "queued", waiting) for tag in tags
    ]


def test_json_is_written_too_when_there_is_no_worker(fresh: CliWorld, shared: RedisServer) -> None:
    ran = fresh.puter("up", "x", "--json", PUTER_REDIS_URL=shared.url)

    (told,) = ran.objects()
    assert (ran.code, told["tag"], told["phase"]) == (3, "x", "queued")
    assert told["batch_id"] in ran.err


async def test_a_wait_ends_when_there_is_no_worker_any_more(fresh: CliWorld, shared: RedisServer) -> None:
    environ = {**fresh.environ, "PUTER_REDIS_URL": shared.url}
    settings = client_settings(environ, namespace=None, config=Config(), paths=fresh.paths)
    async with session.connected(settings, timings=ClientTimings(worker_gone_after_s=0.5)) as client:
        await client.submit([MachineRequest("one", Spec())])
        with pytest.raises(NoWorker, match="no worker is running on this Redis"):
            async with asyncio.timeout(120):
                await follow(client, InFlight(settings, tags=["one"]), timeout_s=None, tags=["one"])


def test_a_folder_that_is_not_ones_own_gets_no_key(fresh: CliWorld, shared: RedisServer, tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    for environ in ({"PUTER_REDIS_URL": shared.url}, {}):
        ran = fresh.puter("up", "x", PUTER_HOME=str(link), **environ)
        assert (ran.code, "is a symlink: name the folder itself" in ran.err) == (3, True)
        assert list(real.iterdir()) == []


def work(world: CliWorld, shared: RedisServer) -> None:
    """A worker grants what lies there, and ends."""
    worker = subprocess.run(
        [*PUTER, "worker", "--burst"],
        env={**world.environ, "PUTER_REDIS_URL": shared.url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert worker.returncode == 0, worker.stderr
