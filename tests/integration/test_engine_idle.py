"""The local engine ends itself only when nobody needs it, and never at a request's cost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from puter_client.contract.errors import EngineError
from puter_client.local import Engine, exit_if_unused
from puter_client.timings import ClientTimings
from tests.integration.engine_world import EngineWorld, is_running, wait_for


@pytest.fixture
def world(tmp_path: Path) -> Iterator[EngineWorld]:
    with EngineWorld(tmp_path) as world:
        yield world


async def ask_worker_to_end(world: EngineWorld) -> str:
    """Has the worker try, and returns what came of it."""
    outcome = world.idle / "outcome"
    outcome.unlink(missing_ok=True)
    (world.idle / "try").touch()
    await asyncio.to_thread(wait_for, outcome.exists, "the worker's try")
    return outcome.read_text()


async def test_an_unused_engine_ends_its_server_and_its_worker(world: EngineWorld) -> None:
    (await world.ensure()).close()
    pids = [world.server, world.worker]
    assert await ask_worker_to_end(world) == "True"
    await asyncio.to_thread(wait_for, lambda: not any(is_running(pid) for pid in pids), "both to be gone")


async def test_an_engine_in_use_goes_on(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        assert await ask_worker_to_end(world) == "False"
        await world.put(engine, "request", "a machine")


async def test_an_engine_goes_on_for_a_request_that_a_command_left_just_now(world: EngineWorld) -> None:
    (await world.ensure()).close()
    (world.idle / "busy").touch()
    assert await ask_worker_to_end(world) == "False"
    assert is_running(world.server)


async def test_an_engine_that_went_on_can_be_used_as_before(world: EngineWorld) -> None:
    (await world.ensure()).close()
    (world.idle / "busy").touch()
    await ask_worker_to_end(world)
    server = world.server
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")
    assert (world.server, len(world.workers())) == (server, 1)


async def test_data_outlive_the_idle_exit(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")
    await ask_worker_to_end(world)
    async with await world.ensure() as engine:
        assert await world.get(engine, "request") == "a machine"


async def test_a_command_that_comes_during_the_last_look_gets_an_engine(world: EngineWorld) -> None:
    (await world.ensure()).close()
    first = world.worker
    waiting = await come_while_the_worker_ends(world, stage="hold", seen="asked")
    async with await waiting as engine:
        await world.put(engine, "request", "a machine")
    assert world.workers() == [first, world.worker]


async def test_a_command_that_comes_during_the_exit_waits_for_a_new_worker(world: EngineWorld) -> None:
    (await world.ensure()).close()
    first = world.worker
    (world.idle / "linger").touch()
    (world.idle / "try").touch()
    await asyncio.to_thread(wait_for, lambda: not (world.paths.engine / "worker.ready").exists(), "the exit")
    waiting = asyncio.create_task(world.ensure())
    await told(world, "the engine is ending: waiting to start it again …")
    (world.idle / "linger").unlink()
    (await waiting).close()
    assert world.workers() == [first, world.worker]


async def test_a_worker_that_never_gets_through_its_exit_is_named(world: EngineWorld) -> None:
    (await world.ensure()).close()
    worker = world.worker
    (world.idle / "linger").touch()
    (world.idle / "try").touch()
    await asyncio.to_thread(wait_for, lambda: not (world.paths.engine / "worker.ready").exists(), "the exit")
    with pytest.raises(EngineError, match=rf"its worker \(pid {worker}\) still holds"):
        await world.ensure(timings=ClientTimings(engine_busy_s=0.2))


async def test_a_worker_whose_folder_was_removed_leaves_the_new_engine_alone(
    world: EngineWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (await world.ensure()).close()
    with (tmp_path / "removed.lock").open("w") as lock:
        monkeypatch.setenv("PUTER_WORKER_LOCK_FD", str(lock.fileno()))
        assert await exit_if_unused(world.paths, "unix:///nowhere", still_idle=is_idle)
    assert is_running(world.server)


async def is_idle() -> bool:
    return True


async def come_while_the_worker_ends(world: EngineWorld, *, stage: str, seen: str) -> asyncio.Task[Engine]:
    (world.idle / stage).touch()
    (world.idle / "try").touch()
    await asyncio.to_thread(wait_for, (world.idle / seen).exists, f"the worker's {seen}")
    waiting = asyncio.create_task(world.ensure())
    await told(world, "the engine is ending: waiting to start it again …")
    (world.idle / stage).unlink()
    return waiting


async def told(world: EngineWorld, line: str) -> None:
    await asyncio.to_thread(wait_for, lambda: line in world.said, f"{line!r} to be said")
