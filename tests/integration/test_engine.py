"""The local engine, started and used from within one process; its server and its worker are real processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from puter_client.contract.errors import EngineError
from puter_client.local import engine_status, stop_engine
from puter_client.timings import ClientTimings
from tests.integration.engine_world import EngineWorld, is_running, kill, wait_for

SHORT = ClientTimings(server_answer_s=0.5, worker_ready_s=30.0, worker_drain_s=0.3, engine_busy_s=1.0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[EngineWorld]:
    with EngineWorld(tmp_path) as world:
        yield world


async def test_a_first_command_starts_a_server_and_a_worker(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")
        assert await world.get(engine, "request") == "a machine"
        assert is_running(world.worker)


async def test_a_next_command_uses_what_runs(world: EngineWorld) -> None:
    (await world.ensure()).close()
    server, worker = world.server, world.worker
    (await world.ensure()).close()
    assert (world.server, world.workers()) == (server, [worker])


async def test_the_first_command_says_that_it_starts_an_engine_and_the_next_says_nothing(world: EngineWorld) -> None:
    (await world.ensure()).close()
    (await world.ensure()).close()
    assert [line.partition(" (data in")[0] for line in world.said] == ["starting the local engine"]


async def test_every_file_is_0600_every_folder_0700_and_so_is_the_socket(world: EngineWorld) -> None:
    before = os.umask(0o000)
    try:
        (await world.ensure()).close()
    finally:
        os.umask(before)
    private = {"0600", "0700"}
    assert {name: mode for name, mode in world.modes().items() if mode not in private} == {}


async def test_the_server_listens_on_no_port(world: EngineWorld) -> None:
    from redis.asyncio import Redis

    async with await world.ensure() as engine, Redis.from_url(engine.url) as redis:
        assert (await redis.config_get("port"))["port"] == "0"


async def test_the_server_syncs_every_write_and_drops_none(world: EngineWorld) -> None:
    from redis.asyncio import Redis

    asked = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy")
    async with await world.ensure() as engine, Redis.from_url(engine.url) as redis:
        config = await redis.config_get(*asked)
    assert [config[name] for name in asked] == ["yes", "always", "no", "noeviction"]


async def test_a_relative_home_is_the_same_for_the_worker(
    world: EngineWorld, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    world.environ["PUTER_HOME"] = "home"
    (await world.ensure()).close()
    (world.idle / "try").touch()
    await asyncio.to_thread(wait_for, (world.idle / "outcome").exists, "the worker's try to end its engine")
    assert (world.idle / "outcome").read_text() == "True"


async def test_a_killed_server_is_started_again_with_all_its_data(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")
    world.end_by_force(world.server)
    async with await world.ensure() as engine:
        assert await world.get(engine, "request") == "a machine"


async def test_a_killed_server_does_not_cost_the_worker_its_life(world: EngineWorld) -> None:
    (await world.ensure()).close()
    worker = world.worker
    world.end_by_force(world.server)
    (await world.ensure()).close()
    assert world.workers() == [worker]
    assert is_running(worker)


async def test_a_killed_worker_is_followed_by_a_new_one(world: EngineWorld) -> None:
    (await world.ensure()).close()
    first, server = world.worker, world.server
    world.end_by_force(first)
    (await world.ensure()).close()
    assert world.workers() == [first, world.worker]
    assert world.server == server


async def test_a_command_that_goes_on_starts_a_new_worker_for_one_that_was_killed(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        await engine.revive()
        (first,) = world.workers()
        kill(first, signal.SIGKILL)
        wait_for(lambda: not is_running(first), "the worker to be gone")
        await engine.revive()
        await engine.revive()

        assert len(world.workers()) == 2
        assert is_running(world.workers()[-1])
        assert world.said[-1] == "the engine's worker has died: starting another one …"


async def test_a_command_that_goes_on_starts_nothing_for_an_engine_that_was_stopped(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        await stop_engine(world.paths, say=world.said.append, force=True)
        await engine.revive()

        assert (len(world.workers()), (await engine_status(world.paths)).state) == (1, "stopped")


async def test_a_killed_worker_gets_no_successor_without_a_server(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        pids = [*world.workers(), world.server]
        for pid in pids:
            kill(pid, signal.SIGKILL)
        wait_for(lambda: not any(is_running(pid) for pid in pids), "the processes to be gone")
        await engine.revive()

        assert len(world.workers()) == 1


async def test_a_socket_left_over_from_a_crash_is_no_hindrance(world: EngineWorld) -> None:
    world.paths.secure()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(world.paths.socket))
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")


async def test_a_note_left_over_from_before_a_reboot_is_no_hindrance(world: EngineWorld) -> None:
    (await world.ensure()).close()
    await stop_engine(world.paths, say=world.said.append)
    write_host(world, boot_id="an earlier one", name=None)
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")


async def test_a_stopped_server_is_told_in_one_line_with_the_remedy(world: EngineWorld) -> None:
    (await world.ensure()).close()
    pid = world.server
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match=rf"^.*\(pid {pid}\) does not answer: .*`kill -CONT {pid}`.*$") as told:
        await world.ensure(timings=SHORT)
    assert "\n" not in str(told.value)


async def test_a_stopped_server_gets_no_second_one_beside_it(world: EngineWorld) -> None:
    (await world.ensure()).close()
    pid = world.server
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(EngineError):
        await world.ensure(timings=SHORT)
    os.kill(pid, signal.SIGCONT)
    (await world.ensure()).close()
    assert world.server == pid


async def test_a_server_whose_lock_file_was_removed_gets_no_second_one_beside_it(world: EngineWorld) -> None:
    (await world.ensure()).close()
    (world.paths.engine / "engine.lock").unlink()
    with pytest.raises(EngineError, match=r"a server still uses .*lsof"):
        await world.ensure()


async def test_a_server_whose_socket_is_gone_is_started_again_with_all_its_data(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")
    first = world.server
    world.paths.socket.unlink()
    async with await world.ensure(timings=ClientTimings(server_answer_s=1.0)) as engine:
        assert await world.get(engine, "request") == "a machine"
    assert world.server != first
    assert "the engine's socket was removed: restarting its server" in world.said


async def test_a_command_of_another_session_finds_the_socket_of_the_first(world: EngineWorld, tmp_path: Path) -> None:
    (tmp_path / "session").mkdir(mode=0o700)
    del world.environ["PUTER_HOME"]
    world.environ |= {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path / "session")}
    async with await world.ensure() as first:
        del world.environ["XDG_RUNTIME_DIR"]
        async with await world.ensure() as second:
            assert second.url == first.url


async def test_a_long_home_gets_its_socket_elsewhere(world: EngineWorld, tmp_path: Path) -> None:
    world.home = tmp_path / ("long-" * 30) / "home"
    world.environ["PUTER_HOME"] = str(world.home)
    async with await world.ensure() as engine:
        assert engine.url.startswith(f"unix:///tmp/puter-{os.geteuid()}/engine-")
        await world.put(engine, "request", "a machine")
    await stop_engine(world.paths, say=world.said.append)


async def test_a_home_with_blanks_and_quotes_serves(world: EngineWorld, tmp_path: Path) -> None:
    world.home = tmp_path / "a 'b' \"c\" #%41é"
    world.environ["PUTER_HOME"] = str(world.home)
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")
    assert (world.paths.engine / "data" / "appendonlydir").is_dir()


async def test_other_aws_settings_replace_the_worker_and_are_said(world: EngineWorld) -> None:
    (await world.ensure(AWS_SECRET_ACCESS_KEY="one")).close()
    (await world.ensure(AWS_SECRET_ACCESS_KEY="two")).close()
    assert world.secrets_seen() == [hashlib.sha256(s.encode()).hexdigest() for s in ("one", "two")]
    assert world.said[-1] == "replacing the engine's worker: its AWS_* settings differ from those of this command"


async def test_a_replaced_worker_has_ended(world: EngineWorld) -> None:
    (await world.ensure(AWS_PROFILE="one")).close()
    (await world.ensure(AWS_PROFILE="two")).close()
    first, second = world.workers()
    assert (is_running(first), is_running(second)) == (False, True)


async def test_the_same_aws_settings_keep_the_worker(world: EngineWorld) -> None:
    (await world.ensure(AWS_PROFILE="one", AWS_REGION="us-east-1")).close()
    (await world.ensure(AWS_REGION="us-east-1", AWS_PROFILE="one", EDITOR="ed")).close()
    assert len(world.workers()) == 1


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "no_proxy", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "HOME"])
async def test_other_variables_that_a_worker_reads_replace_it_and_are_said(world: EngineWorld, name: str) -> None:
    for value in ("/one", "/two"):
        world.environ[name] = value
        (await world.ensure()).close()
    assert len(world.workers()) == 2
    assert world.said[-1].endswith("that it needs, such as proxies, differ from those of this command")


async def test_two_shells_that_take_turns_keep_the_worker(world: EngineWorld, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\ncredential_process = get-keys\n")
    shells = (
        {"PWD": "/a", "OLDPWD": "/b", "SHLVL": "1", "_": "/bin/puter", "TERM": "xterm", "WINDOWID": "7", "LINES": "24"},
        {"PWD": "/c", "SHLVL": "3", "_": "/bin/env", "TERM": "tmux", "TMUX": "/tmp/t,1,0", "SSH_TTY": "/dev/pts/9"},
    )
    world.environ["AWS_CONFIG_FILE"] = str(config)
    before = dict(world.environ)
    for shell in shells * 2:
        world.environ = before | shell
        (await world.ensure()).close()
    assert len(world.workers()) == 1


async def test_what_a_credential_process_reads_replaces_the_worker(world: EngineWorld, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\ncredential_process = get-keys\n")
    for path in ("/usr/bin:/bin", f"{tmp_path}:/usr/bin:/bin"):
        (await world.ensure(AWS_CONFIG_FILE=str(config), PATH=path)).close()
    assert len(world.workers()) == 2


async def test_a_worker_that_does_not_heed_its_end_is_killed(world: EngineWorld) -> None:
    (await world.ensure(STUB_END="late", AWS_PROFILE="one")).close()
    first = world.worker
    (await world.ensure(AWS_PROFILE="two", timings=ClientTimings(worker_drain_s=0.2))).close()
    assert not is_running(first)
    assert len(world.workers()) == 2


async def test_a_worker_of_another_version_is_replaced_and_said(world: EngineWorld) -> None:
    (await world.ensure()).close()
    rewrite(world.paths.engine / "worker.lock", r'"version":"[^"]*"', '"version":"0.0.1"')
    (await world.ensure()).close()
    assert len(world.workers()) == 2
    assert re.fullmatch(r"replacing the engine's worker: it ran Puter 0\.0\.1, this is \S+", world.said[-1])


async def test_a_worker_that_dies_at_its_start_is_told_with_its_last_words(world: EngineWorld) -> None:
    dying = [sys.executable, "-c", "import sys; sys.stderr.write('x\\n'); sys.exit('no such policy file')"]
    with pytest.raises(EngineError, match=r"^the engine's worker failed to start: 'no such policy file'; .*$"):
        await world.ensure(command=dying)


async def test_a_worker_without_its_packages_is_told_what_to_install(world: EngineWorld) -> None:
    dying = [sys.executable, "-c", "import no_such_aioboto3"]
    with pytest.raises(EngineError, match=r"No module named.*pip install --require-hashes -r requirements/local\.txt"):
        await world.ensure(command=dying)


async def test_a_server_started_for_a_worker_that_cannot_be_is_ended_again(world: EngineWorld) -> None:
    with pytest.raises(EngineError):
        await world.ensure(command=[sys.executable, "-c", "raise SystemExit('dead')"])

    assert (await engine_status(world.paths)).state == "stopped"


async def test_a_server_that_ran_before_outlives_a_worker_that_cannot_be(world: EngineWorld) -> None:
    async with await world.ensure() as engine:
        await world.put(engine, "request", "a machine")
        (worker,) = world.workers()
        kill(worker, signal.SIGKILL)
        wait_for(lambda: not is_running(worker), "the worker to be gone")
        with pytest.raises(EngineError):
            await world.ensure(command=[sys.executable, "-c", "raise SystemExit('dead')"])

        assert await world.get(engine, "request") == "a machine"


async def test_last_words_are_not_those_of_an_earlier_start(world: EngineWorld) -> None:
    with pytest.raises(EngineError, match="earlier"):
        await world.ensure(command=[sys.executable, "-c", "raise SystemExit('earlier')"])
    with pytest.raises(EngineError, match="it wrote nothing and ended with exit code 3"):
        await world.ensure(command=[sys.executable, "-c", "raise SystemExit(3)"])


async def test_a_worker_that_died_at_its_start_is_tried_again_by_the_next_command(world: EngineWorld) -> None:
    with pytest.raises(EngineError):
        await world.ensure(command=[sys.executable, "-c", "raise SystemExit(3)"])
    (await world.ensure()).close()
    assert is_running(world.worker)


async def test_a_server_that_cannot_start_is_told_with_its_last_words(world: EngineWorld) -> None:
    world.paths.secure()
    data = world.paths.engine / "data" / "appendonlydir"
    data.mkdir(parents=True)
    (data / "appendonly.aof.manifest").write_text("not a manifest\n")
    with pytest.raises(EngineError, match=r"^the engine's server failed to start: '.*(?i:manifest|AOF).*$"):
        await world.ensure()


@pytest.mark.parametrize("name", ["engine.use", "engine.start", "engine.lock", "worker.lock"])
async def test_a_symlink_in_place_of_a_lock_is_refused(world: EngineWorld, tmp_path: Path, name: str) -> None:
    world.paths.secure()
    (world.paths.engine / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineError, match=re.escape(name)):
        await world.ensure()
    assert not (tmp_path / "elsewhere").exists()


async def test_the_folder_of_another_hosts_engine_is_refused(world: EngineWorld) -> None:
    (await world.ensure()).close()
    await stop_engine(world.paths, say=world.said.append)
    write_host(world, boot_id="another", name="render-7")
    with pytest.raises(EngineError, match=r"runs on host 'render-7'.*PUTER_HOME.*empty its lock file"):
        await world.ensure()


async def test_a_lock_that_another_host_holds_is_refused(world: EngineWorld) -> None:
    (await world.ensure()).close()
    write_host(world, boot_id="another", name="render-7")
    with pytest.raises(EngineError, match=r"runs on host 'render-7'.*PUTER_HOME=…$"):
        await world.ensure()


async def test_a_worker_of_another_host_is_not_signalled(world: EngineWorld) -> None:
    (await world.ensure(AWS_PROFILE="one")).close()
    worker = world.worker
    rewrite(world.paths.engine / "worker.lock", r'"boot_id":"[^"]*"', '"boot_id":"another"')
    with pytest.raises(EngineError, match="worker runs on host"):
        await world.ensure(AWS_PROFILE="two")
    assert is_running(worker)


async def test_an_engine_ended_in_order_may_be_carried_to_another_host(world: EngineWorld) -> None:
    (await world.ensure()).close()
    await stop_engine(world.paths, say=world.said.append)
    assert (world.paths.engine / "engine.lock").read_bytes() == b""


async def test_a_log_that_grew_is_put_aside_at_the_next_start(world: EngineWorld) -> None:
    world.paths.secure()
    for name in ("server.log", "worker.out"):
        (world.paths.logs / name).write_bytes(b"x" * 2_000_000)
    (await world.ensure()).close()
    sizes = {path.name: path.stat().st_size for path in world.paths.logs.iterdir()}
    assert sizes["server.log"] < 100_000 > sizes["worker.out"]
    assert sizes["server.log.1"] == sizes["worker.out.1"] == 2_000_000


async def test_the_event_loop_goes_on_while_another_command_starts_the_engine(world: EngineWorld) -> None:
    from puter_client.local.locks import FileLock

    world.paths.secure()
    with FileLock(world.paths.engine / "engine.start") as start:
        assert start.try_lock()
        waiting = asyncio.create_task(world.ensure())
        line = "another command is starting the engine: waiting for it …"
        await asyncio.to_thread(wait_for, lambda: line in world.said, f"{line!r} to be said")
    (await waiting).close()
    assert is_running(world.worker)


async def test_a_command_that_hangs_in_starting_is_named(world: EngineWorld) -> None:
    from puter_client.local.locks import FileLock
    from puter_client.local.notes import StartNote

    world.paths.secure()
    with FileLock(world.paths.engine / "engine.start") as start:
        assert start.try_lock()
        start.write(StartNote(pid=4_711))
        with pytest.raises(EngineError, match=r"another command \(pid 4711; `kill 4711` if it hangs\)"):
            await world.ensure(timings=SHORT)


def rewrite(path: Path, pattern: str, replacement: str) -> None:
    text, changed = re.subn(pattern, replacement, path.read_text())
    assert changed == 1
    path.write_text(text)


def write_host(world: EngineWorld, *, boot_id: str, name: str | None) -> None:
    import msgspec

    from puter_client.local.notes import EngineNote, this_host

    host = msgspec.structs.replace(this_host(), boot_id=boot_id, name=name or this_host().name)
    note = EngineNote(host=host, socket=str(world.paths.socket))
    (world.paths.engine / "engine.lock").write_bytes(msgspec.json.encode(note))
