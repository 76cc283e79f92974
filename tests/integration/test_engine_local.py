"""What `puter local stop` and `puter local status` stand on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from puter_client.contract.errors import EngineError
from puter_client.local import Patience, engine_status, stop_engine
from tests.integration.engine_world import EngineWorld, is_running, wait_for

SHORT = Patience(answer=0.5, ready=30.0, drain=0.3, others=1.0)


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
            await world.put(engine, "wish", "a machine")
        await stop_engine(world.paths, say=world.said.append)
        async with await world.ensure() as engine:
            assert await world.get(engine, "wish") == "a machine"

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

    async def test_a_stopped_server_is_told(self, world: EngineWorld) -> None:
        (await world.ensure()).close()
        os.kill(world.server, signal.SIGSTOP)
        worker = world.worker
        with pytest.raises(EngineError, match="kill -CONT"):
            async with asyncio.timeout(30):  # what can finish nothing is given no time to
                await stop_engine(world.paths, say=world.said.append, patience=replace(SHORT, drain=3_600.0))
        wait_for(lambda: not is_running(worker), "the worker to be gone")


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
