"""A server whose worker cannot start is left to nobody: the worker is what ends an engine that is not used."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from puter_client.contract.errors import EngineError
from puter_client.local import Engine, stop_engine
from puter_client.timings import ClientTimings
from tests.integration.engine_world import EngineWorld, wait_for

DYING = [sys.executable, "-c", "raise SystemExit(3)"]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[EngineWorld]:
    with EngineWorld(tmp_path) as world:
        yield world


async def test_a_server_that_got_no_worker_is_ended_with_all_its_data(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")
    await stop_engine(world.paths, say=world.said.append)
    with pytest.raises(EngineError, match="failed to start"):
        await world.ensure(command=DYING)
    assert not world.has_server
    async with await world.ensure() as engine:
        assert await world.get(engine, "request") == "a machine"


async def test_a_server_whose_worker_died_is_ended_by_a_command_that_gets_no_other(world: EngineWorld) -> None:
    (await world.ensure()).close()
    world.end_by_force(world.worker)
    with pytest.raises(EngineError):
        await world.ensure(command=DYING)
    assert not world.has_server


async def test_a_server_in_use_stays_though_another_command_gets_no_worker(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        world.end_by_force(world.worker)
        with pytest.raises(EngineError):
            await world.ensure(command=DYING)
        await world.put(engine, "request", "a machine")


async def test_a_server_stays_for_a_command_that_waits_while_another_gets_no_worker(
    world: EngineWorld, tmp_path: Path
) -> None:
    failing = asyncio.create_task(world.ensure(command=dying_once_told(tmp_path / "die")))
    serving = await one_that_waits(world, command=None)
    server = world.server
    (tmp_path / "die").touch()
    with pytest.raises(EngineError, match="failed to start"):
        await failing
    async with await serving as engine:
        await world.put(engine, "request", "a machine")
    assert world.server == server


async def test_of_two_commands_that_get_no_worker_the_second_ends_the_server_of_the_first(
    world: EngineWorld, tmp_path: Path
) -> None:
    first = asyncio.create_task(world.ensure(command=dying_once_told(tmp_path / "die")))
    second = await one_that_waits(world, command=DYING)
    (tmp_path / "die").touch()
    outcomes = await asyncio.gather(first, second, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [EngineError] * 2
    assert sum(line.startswith("starting the local engine") for line in world.said) == 1
    assert not world.has_server


async def test_a_worker_that_is_slow_to_start_keeps_its_server(world: EngineWorld, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="is not ready after"):
        await world.ensure(command=dying_once_told(tmp_path / "never"), timings=ClientTimings(worker_ready_s=0.2))
    assert world.has_server
    await stop_engine(world.paths, say=world.said.append)


def dying_once_told(told: Path) -> list[str]:
    """A worker that ends, serving nobody, once a file is there; or after 30 s, lest it outlives its test."""
    script = "import pathlib, sys, time\n"
    script += "for _ in range(3000): pathlib.Path(sys.argv[1]).exists() and sys.exit(3) or time.sleep(0.01)"
    return [sys.executable, "-c", script, str(told)]


async def one_that_waits(world: EngineWorld, *, command: list[str] | None) -> asyncio.Task[Engine]:
    """A command that comes while another starts the engine, when it has got as far as to wait for that."""
    await asyncio.to_thread(
        wait_for, lambda: any("starting the local engine" in line for line in world.said), "the first"
    )
    waiting = asyncio.create_task(world.ensure(command=command))
    line = "another command is starting the engine: waiting for it …"
    await asyncio.to_thread(wait_for, lambda: line in world.said, f"{line!r} to be said")
    return waiting
