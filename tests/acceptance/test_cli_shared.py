"""A shared Redis: whoever is missing is told of, and the wishes stay."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.acceptance.cli_world import PUTER, CliWorld
from tests.integration.redis_servers import RedisServer, running_server, server_binaries


@pytest.fixture
def shared() -> Iterator[RedisServer]:
    """A Redis of a team, empty."""
    with running_server(server_binaries()["valkey"]) as server:
        yield server


def test_without_a_worker_the_wishes_stay_and_exit_code_is_3(fresh: CliWorld, shared: RedisServer) -> None:
    ran = fresh.puter("submit", "--tag", "x-{i}", "--count", "3", PUTER_REDIS_URL=shared.url)
    assert ran.code == 3
    assert "no worker is running on this Redis" in ran.err
    assert "the wishes wait for one, as batch b" in ran.err
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


def test_a_worker_that_comes_later_grants_the_wishes(fresh: CliWorld, shared: RedisServer) -> None:
    fresh.puter("submit", "--tag", "x-{i}", "--count", "3", PUTER_REDIS_URL=shared.url)
    work(fresh, shared)
    told = fresh.puter("status", "--json", PUTER_REDIS_URL=shared.url).objects()
    assert sorted(record["tag"] for record in told if record["instance_id"]) == ["x-0", "x-1", "x-2"]


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
