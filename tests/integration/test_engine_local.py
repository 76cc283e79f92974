"""What `puter local stop` and `puter local status` stand on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError

from puter_client.contract.errors import EngineError
from puter_client.contract.health import StageHealth, WorkerHealth
from puter_client.local import Engine, engine_status, stop_engine
from puter_client.store import names
from puter_client.timings import ClientTimings
from tests.integration.engine_world import EngineWorld, is_running, wait_for

SHORT = ClientTimings(server_answer_s=0.5, worker_ready_s=30.0, worker_drain_s=0.3, engine_busy_s=1.0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[EngineWorld]:
    with EngineWorld(tmp_path) as world:
        yield world


class TestStop:
    async def test_it_ends_worker_and_server(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        pids = [world.server, world.worker]
        assert await stop_engine(world.paths, say=world.said.append)
        wait_for(lambda: not any(is_running(pid) for pid in pids), "server and worker to be gone")

    async def test_what_was_written_is_there_at_the_next_start(self, world: EngineWorld) -> None:
        async with await world.ensure() as engine:
            await world.put(engine, "request", "a machine")
        await stop_engine(world.paths, say=world.said.append)
        async with await world.ensure() as engine:
            assert await world.get(engine, "request") == "a machine"

    async def test_where_nothing_runs_there_is_nothing_to_end(self, world: EngineWorld) -> None:
        assert not await stop_engine(world.paths, say=world.said.append)
        assert not world.home.exists()

    async def test_an_engine_in_use_is_not_ended(self, world: EngineWorld) -> None:
        async with await world.ensure():
            with pytest.raises(EngineError, match="in use by another command"):
                await stop_engine(world.paths, say=world.said.append)
            assert is_running(world.server)

    async def test_by_force_it_is(self, world: EngineWorld) -> None:
        async with await world.ensure():
            pid = world.server
            assert await stop_engine(world.paths, say=world.said.append, force=True)
        wait_for(lambda: not is_running(pid), "the server to be gone")

    async def test_a_stopped_server_is_told_with_what_ends_it(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        os.kill(world.server, signal.SIGSTOP)
        with pytest.raises(EngineError, match=r"kill -CONT.*`puter local stop --force` ends it"):
            await stop_engine(world.paths, say=world.said.append, timings=SHORT)

    async def test_a_stopped_server_is_said_before_it_is_waited_for(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        pid = world.server
        os.kill(pid, signal.SIGSTOP)
        stopping = asyncio.create_task(stop_engine(world.paths, say=world.said.append))
        line = f"the engine's server (pid {pid}) does not answer: waiting up to 10 s …"
        await asyncio.to_thread(wait_for, lambda: line in world.said, f"{line!r} to be said")
        os.kill(pid, signal.SIGCONT)
        assert await stopping
        assert not world.has_server

    async def test_a_stopped_server_costs_no_worker_its_life(self, world: EngineWorld) -> None:
        (await world.ensure(STUB_END="late")).close()
        os.kill(world.server, signal.SIGSTOP)
        with pytest.raises(EngineError):
            await stop_engine(world.paths, say=world.said.append, timings=SHORT)
        assert is_running(world.worker)

    async def test_by_force_a_stopped_server_is_woken_to_end_in_order(self, world: EngineWorld) -> None:
        async with await world.ensure() as engine:
            await world.put(engine, "request", "a machine")
        os.kill(world.server, signal.SIGSTOP)
        assert await stop_engine(world.paths, say=world.said.append, force=True)
        assert "User requested shutdown" in (world.paths.logs / "server.log").read_text()
        async with await world.ensure() as engine:
            assert await world.get(engine, "request") == "a machine"

    async def test_by_force_a_server_that_cannot_be_woken_is_killed_and_loses_nothing(self, world: EngineWorld) -> None:
        async with await world.ensure() as engine:
            await world.put(engine, "request", "a machine")
            busy = asyncio.create_task(keep_busy(engine))
            await asyncio.to_thread(wait_for, lambda: not answers(world), "the server to be silent")
            assert await stop_engine(world.paths, say=world.said.append, force=True, timings=SHORT)
            await busy
        async with await world.ensure() as engine:
            assert await world.get(engine, "request") == "a machine"

    async def test_by_force_a_worker_is_not_waited_for_that_has_no_server_to_write_to(self, world: EngineWorld) -> None:
        async with await world.ensure(STUB_END="late") as engine:
            worker = world.worker
            busy = asyncio.create_task(keep_busy(engine))
            await asyncio.to_thread(wait_for, lambda: not answers(world), "the server to be silent")
            timings = ClientTimings(server_answer_s=0.5, worker_drain_s=600.0)
            assert await asyncio.wait_for(
                stop_engine(world.paths, say=world.said.append, force=True, timings=timings), 30
            )
            await busy
        assert not is_running(worker)


class TestStatus:
    async def test_it_makes_nothing(self, world: EngineWorld) -> None:
        assert (await engine_status(world.paths)).state == "stopped"
        assert not world.home.exists()

    async def test_it_shows_a_running_engine_in_use(self, world: EngineWorld) -> None:
        async with await world.ensure() as engine:
            status = await engine_status(world.paths)
        assert (status.state, status.url, status.server_pid) == ("running", engine.url, world.server)
        assert (status.worker_pid, status.worker_ready, status.in_use) == (world.worker, True, True)

    async def test_it_shows_one_that_nobody_uses(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        assert not (await engine_status(world.paths)).in_use

    async def test_it_shows_a_server_that_does_not_answer(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        os.kill(world.server, signal.SIGSTOP)
        status = await engine_status(world.paths)
        assert (status.state, status.server_pid) == ("silent", world.server)

    async def test_it_shows_that_worker_and_server_are_gone(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        for pid in (world.worker, world.server):
            world.end_by_force(pid)
        status = await engine_status(world.paths)
        assert (status.state, status.server_pid, status.worker_pid) == ("stopped", None, None)

    async def test_it_tells_a_dead_worker_from_one_of_unknown_id(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        (world.paths.engine / "worker.lock").write_bytes(b"")
        unknown = await engine_status(world.paths)
        world.end_by_force(world.worker)
        dead = await engine_status(world.paths)
        assert (unknown.worker_pid, unknown.worker_running) == (None, True)
        assert (dead.state, dead.worker_pid, dead.worker_running) == ("running", None, False)


class TestStatusCommand:
    async def test_a_dead_worker_is_told_with_what_starts_it(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        world.end_by_force(world.worker)
        assert "worker  not running; the next command starts it" in await shown_status(world)

    async def test_a_silent_server_is_told_with_what_ends_it(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        os.kill(world.server, signal.SIGSTOP)
        told = await shown_status(world)
        assert told[0] == "engine  silent"
        assert "its server does not answer: `puter local stop --force` ends it" in told[1]

    async def test_of_a_stopped_engine_nothing_is_missing(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        await stop_engine(world.paths, say=world.said.append)
        told = await shown_status(world)
        assert [line.split()[0] for line in told] == ["engine", "data", "logs"]

    async def test_a_stage_that_fails_is_told_and_with_an_option_all_stages_are(self, world: EngineWorld) -> None:
        async with await world.ensure() as engine:
            await announce(engine)
            told = await shown_status(world)
            with_stages = await shown_status(world, "--stages")
        failing = "warning stage launch has had no success for 5m: no credentials"
        assert told[-1] == failing
        assert with_stages[-6:] == [
            failing,
            "",
            "stages of worker desk:7:a:",
            "STAGE   SUCCESS  ERROR   LAST ERROR",
            "intake  4m ago   never",
            "launch  5m ago   2m ago  no credentials",
        ]

    async def test_programs_get_the_stages_of_every_worker(self, world: EngineWorld) -> None:
        async with await world.ensure() as engine:
            await announce(engine)
            (line,) = await shown_status(world, "--json")
        told = json.loads(line)
        assert told["state"] == "running"
        assert [stage["name"] for worker in told["workers"] for stage in worker["stages"]] == ["intake", "launch"]

    async def test_a_stopped_engine_has_no_workers_to_tell_of(self, world: EngineWorld) -> None:
        (line,) = await shown_status(world, "--json")
        assert json.loads(line)["workers"] == []
        assert (await shown_status(world, "--stages"))[-1] == "no worker has reported its stages"


async def announce(engine: Engine) -> None:
    """Publish a worker's health as a worker does, with one stage that fails."""
    now = time.time()
    health = WorkerHealth(
        worker_id="desk:7:a",
        host="desk",
        pid=7,
        version="1",
        started_at=now - 3_600,
        seen_at=now,
        stages=(
            StageHealth(name="intake", last_success_at=now - 250, runs=9),
            StageHealth(name="launch", last_success_at=now - 310, last_error_at=now - 130, last_error="no credentials"),
        ),
    )
    async with Redis.from_url(engine.url) as redis:
        await redis.set(names.worker(health.worker_id), msgspec.json.encode(health))
        await redis.zadd(names.WORKERS, {health.worker_id: now})


async def shown_status(world: EngineWorld, *options: str) -> list[str]:
    """What `puter local status` writes."""
    command = [sys.executable, "-m", "puter_client.cli", "local", "status", *options]
    shown = await asyncio.create_subprocess_exec(*command, env=world.environ, stdout=asyncio.subprocess.PIPE)
    written, _ = await shown.communicate()
    return written.decode().splitlines()


async def keep_busy(engine: Engine) -> None:
    """Has the server do nothing else until it is killed; it does not even say that it is busy."""
    async with Redis.from_url(engine.url) as redis:
        await redis.config_set("lua-time-limit", 0)
        with pytest.raises(RedisError):
            await redis.eval("while true do end", 0)


def answers(world: EngineWorld) -> bool:
    with BlockingRedis(unix_socket_path=str(world.paths.socket), socket_timeout=0.2) as client:
        try:
            return bool(client.ping())
        except RedisError:
            return False
