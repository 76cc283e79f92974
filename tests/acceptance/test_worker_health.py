"""`puter worker --health` beside real workers: the exit code that a container's health check goes by."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from puter_client.contract.health import WorkerHealth
from tests.acceptance.cli_world import PATIENCE_S
from tests.integration.engine_world import wait_for
from tests.integration.redis_servers import RedisServer

Start = Callable[[], subprocess.Popen[bytes]]


def reported(server: RedisServer) -> int:
    """How many workers have reported."""
    with server.client() as redis:
        return int(cast("int", redis.zcard("puter:_public:workers")))


@pytest.fixture
def start(own_valkey: RedisServer, tmp_path: Path) -> Iterator[Start]:
    """Starts worker processes; whatever runs at the end is ended by its id."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        before = reported(own_valkey)
        environ = {**os.environ, "PUTER_REDIS_URL": own_valkey.url, "PUTER_HOME": str(tmp_path)}
        worker = subprocess.Popen([sys.executable, "-m", "puter_worker"], env=environ, stderr=subprocess.DEVNULL)
        started.append(worker)
        wait_for(lambda: reported(own_valkey) > before, "a worker")
        return worker

    yield start
    for worker in started:
        if worker.poll() is None:
            worker.send_signal(signal.SIGCONT)
            worker.kill()
        worker.wait(PATIENCE_S)


def health(server: RedisServer, tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PUTER_REDIS_URL": server.url, "PUTER_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "puter_client.cli", "worker", "--health", *options]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)


def test_a_worker_that_works_is_healthy_and_says_so(start: Start, own_valkey: RedisServer, tmp_path: Path) -> None:
    workers = [start(), start()]
    told = health(own_valkey, tmp_path)

    assert (told.returncode, told.stderr) == (0, "")
    lines = [line for line in told.stdout.splitlines() if not line.startswith(" ")]
    assert {line.partition(" ")[0].rsplit(":", 1)[0] for line in lines} == {
        f"{socket.gethostname()}:{worker.pid}" for worker in workers
    }
    assert all(line.split(" ")[1].startswith("healthy") for line in lines)


def test_programs_get_the_stages_too(start: Start, own_valkey: RedisServer, tmp_path: Path) -> None:
    worker = start()
    told = json.loads(health(own_valkey, tmp_path, "--json").stdout)

    assert (told["pid"], told["healthy"], told["problems"]) == (worker.pid, True, [])


@pytest.mark.parametrize("other", [[], ["another-host"]], ids=["no worker", "a worker of another host"])
def test_without_a_worker_of_this_host_there_is_no_health(
    own_valkey: RedisServer, tmp_path: Path, other: list[str]
) -> None:
    for host in other:
        with own_valkey.client() as client:
            redis: Any = client
            now = float(redis.time()[0])
            known = WorkerHealth(worker_id=f"{host}:1:a", host=host, pid=1, version="1", started_at=now, seen_at=now)
            redis.set(f"puter:_public:worker:{known.worker_id}", msgspec.json.encode(known))
            redis.zadd("puter:_public:workers", {known.worker_id: now})
    told = health(own_valkey, tmp_path)

    assert told.returncode == 1
    assert told.stdout == f"not healthy: no worker of this host ({socket.gethostname()}) reports to this Redis\n"


def test_a_worker_that_stands_still_is_not_healthy(start: Start, own_valkey: RedisServer, tmp_path: Path) -> None:
    worker = start()
    worker.send_signal(signal.SIGSTOP)
    with own_valkey.client() as client:
        redis: Any = client
        (name,) = redis.zrange("puter:_public:workers", 0, -1)
        redis.persist(f"puter:_public:worker:{name.decode()}")
        raw = redis.get(f"puter:_public:worker:{name.decode()}")
        assert isinstance(raw, bytes)
        aged = {**json.loads(raw), "seen_at": json.loads(raw)["seen_at"] - 20}
        redis.set(f"puter:_public:worker:{name.decode()}", json.dumps(aged))
    told = health(own_valkey, tmp_path)
    worker.send_signal(signal.SIGCONT)

    assert told.returncode == 1
    assert "not healthy: it has not reported for " in told.stdout


def test_a_redis_that_does_not_answer_is_no_health(own_valkey: RedisServer, tmp_path: Path) -> None:
    own_valkey.kill()
    told = health(own_valkey, tmp_path)

    assert told.returncode == 1
    assert told.stdout.startswith("not healthy: ")
    assert len(told.stdout.splitlines()) == 1


@pytest.mark.parametrize("options", [["--burst"], ["--metrics", "127.0.0.1:9464"]])
def test_what_would_start_a_worker_is_refused(own_valkey: RedisServer, tmp_path: Path, options: list[str]) -> None:
    told = health(own_valkey, tmp_path, *options)

    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "puter: --health starts no worker: leave out --burst and --metrics\n"
