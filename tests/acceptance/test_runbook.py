"""docs/runbook.md is followed literally: its blocks are run by bash on a real Valkey with the files of `deploy/`.

The variables at the top of the page are set for this server. What needs Docker or root is not run, and is named here.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from tests.integration.redis_servers import server_binaries

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runbook.md").read_text()
NOT_RUN = {("Upgrade", "# needs Docker"), ("Upgrade", "# needs root")}
FIRST = "As administrator"
INBOX = "puter:_in:betty:betty"
REQUEST = b'{"type":"up"}'


pytestmark = pytest.mark.skipif(
    shutil.which("redis-cli") is None and os.environ.get("CI") != "true", reason="redis-cli is not on this machine"
)


class Block(NamedTuple):
    """A block of commands, and the heading that it stands under."""

    heading: str
    text: str


def _blocks() -> list[Block]:
    return [
        Block(section.partition("\n")[0], text)
        for section in PAGE.split("\n## ")[1:]
        for text in re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    ]


BLOCKS = _blocks()


def commands(heading: str) -> list[str]:
    """The blocks of a section that can be run here."""
    return [
        block.text
        for block in BLOCKS
        if block.heading == heading and (heading, block.text.partition("\n")[0]) not in NOT_RUN
    ]


class Host:
    """A host with a Redis as `deploy/` sets it up, a user `betty`, and the scripts that the page's variables name.

    Attributes:
        environ: the variables of the page, and what a shell needs.
        betty: the URL of the user.
    """

    def __init__(self, folder: Path) -> None:
        shutil.copytree(ROOT / "deploy", folder / "deploy")
        for name in ("data", "backup", "bin", "run"):
            (folder / name).mkdir()
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            self.port = int(taken.getsockname()[1])
        self.folder = folder
        self.worker, self.betty = self._added("--worker"), self._added("betty")
        self._added("--admin")
        self.environ = {
            "PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder), "PYTHONPATH": str(ROOT),
            "REDIS_CLI": f"redis-cli -h 127.0.0.1 -p {self.port} --user admin --no-auth-warning",
            "REDIS_ADDRESS": f"127.0.0.1:{self.port}", "HOST_FOLDER": str(folder / "deploy"),
            "PUTER_ADMIN": "puter admin", "PUTER_HOST_FOLDER": str(folder / "deploy"),
            "DATA": str(folder / "data"), "BACKUP": str(folder / "backup"), "CHECK_AOF": "redis-check-aof",
            "NAMESPACE": "betty", "WHO": "betty",
            "STOP_REDIS": self._script("stop-redis", self._stop("redis")),
            "START_REDIS": self._script("start-redis", self._start_redis()),
            "STOP_WORKERS": self._script("stop-workers", self._stop("worker")),
            "START_WORKERS": self._script("start-workers", self._start_worker()),
        }  # fmt: skip
        self._script("puter", f'exec {sys.executable} -m puter_client.cli "$@"')
        self.run("$START_REDIS")

    def _added(self, who: str) -> str:
        """A user is added as `puter admin` does it; its URL."""
        folder = self.folder / "deploy"
        environ = {**os.environ, "PUTER_REDIS_ADDRESS": f"127.0.0.1:{self.port}", "PUTER_HOST_FOLDER": str(folder)}
        command = [sys.executable, "-m", "puter_client.cli", "admin", "user", "add", who]
        told = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        written = folder / f"{who.removeprefix('--')}.env"
        lines = (written.read_text() if written.exists() else told).splitlines()
        return next(line.partition("=")[2] for line in lines if "REDIS_URL=" in line)

    def _script(self, name: str, text: str) -> str:
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o700)
        return name

    def _start_redis(self) -> str:
        words = [server_binaries()["valkey"], self.folder / "deploy" / "redis.conf", "--daemonize", "yes",
                 "--aclfile", self.folder / "deploy" / "acl" / "users.acl", "--dir", self.folder / "data",
                 "--port", self.port,
                 "--bind", "127.0.0.1", "--logfile", self.folder / "run" / "log",
                 "--pidfile", self.folder / "run" / "redis.pid"]  # fmt: skip
        ping = f"printf 'AUTH health -\\nPING\\n' | redis-cli -h 127.0.0.1 -p {self.port} 2>/dev/null | grep -q PONG"
        started = " ".join(shlex.quote(str(word)) for word in words)
        return (
            f"{started}\nuntil {ping}; do grep -q 'Bad file format' {self.folder}/run/log && exit 1; sleep 0.02; done"
        )

    def _start_worker(self) -> str:
        run, environ = self.folder / "run", self.folder / "deploy" / "worker.env"
        return (
            f"export $(cat {environ}) PUTER_HOME={self.folder}/state AWS_EC2_METADATA_DISABLED=true\n"
            f"nohup {sys.executable} -m puter_worker >{run}/worker.log 2>&1 </dev/null &\necho $! >{run}/worker.pid"
        )

    def _stop(self, name: str) -> str:
        pid = f"{self.folder}/run/{name}.pid"
        return (
            f"[ -f {pid} ] || exit 0\npid=$(cat {pid})\nkill $pid\n"
            "while grep -qs '^State:.[^Z]' /proc/$pid/status; do sleep 0.02; done"
        )

    def run(self, script: str) -> str:
        """Run commands as a person would type them, but that the first that fails ends them; what they wrote."""
        command = ["bash", "-euo", "pipefail", "-c", script]
        told = subprocess.run(
            command, env=self.environ, cwd=self.folder, capture_output=True, text=True, check=False, timeout=300
        )
        assert told.returncode == 0, f"{told.stdout}{told.stderr}"
        return told.stdout

    def follow(self, heading: str) -> list[str]:
        """Run the blocks of a section; returns what each wrote."""
        return [self.run(block) for block in commands(heading)]

    def become_admin(self) -> None:
        """Follow the first section; later ones have its password in their environment, as the page says."""
        (block,) = commands(FIRST)
        *told, password = self.run(f'{block}echo "$REDISCLI_AUTH"\n').splitlines()
        self.environ["REDISCLI_AUTH"] = password
        assert told[-1] == "PONG"

    def admin(self) -> Any:
        """A plain client that may do all."""
        return redis.Redis(
            port=self.port, username="admin", password=self.environ["REDISCLI_AUTH"], decode_responses=True
        )

    def client(self, url: str) -> Any:
        return redis.Redis.from_url(url.replace("redis:6379", f"127.0.0.1:{self.port}"), decode_responses=True)

    def wait_for(self, query: str, *words: str) -> None:
        """Return when Redis answers this command with something."""
        with self.admin() as admin:
            until = time.monotonic() + 60
            while not admin.execute_command(query, *words):
                assert time.monotonic() < until, (self.folder / "run" / "worker.log").read_text()
                time.sleep(0.05)  # until a worker has worked; there is no event to wait for

    def close(self) -> None:
        for name in ("worker", "redis"):
            pid = self.folder / "run" / f"{name}.pid"
            if pid.exists():
                with_id = int(pid.read_text())
                try:
                    os.kill(with_id, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    try:
        made.become_admin()
        yield made
    finally:
        made.close()


REVOKE, STOP, FLOOD = "Revoke now", "Stop or drain a namespace", "Flood"
MEMORY, DISK = "Full memory", "Full disk"
BACKUP, RESTORE, UPGRADE = "Backup", "Restore", "Upgrade"
FOLLOWED = {FIRST, REVOKE, STOP, FLOOD, MEMORY, DISK, BACKUP, RESTORE, UPGRADE}


def test_every_block_is_followed_or_named_as_not_run() -> None:
    left_out = {(block.heading, block.text.partition("\n")[0]) for block in BLOCKS} & NOT_RUN

    assert {block.heading for block in BLOCKS} == FOLLOWED
    assert left_out == NOT_RUN


def test_every_variable_is_explained_and_set(host: Host) -> None:
    used = {name for block in BLOCKS for name in re.findall(r"\$\{?([A-Z_]+)", block.text)}
    table = PAGE.partition("| variable |")[2].partition("\n\n")[0]
    explained = set(re.findall(r"`([A-Z_]+)`", table))

    assert used <= explained
    assert explained <= host.environ.keys()


def test_a_user_who_is_revoked_is_out_at_once_and_for_good(host: Host) -> None:
    with host.client(host.betty) as betty:
        betty.rpush(INBOX, REQUEST, REQUEST)
        betty.sadd("puter:_ready", "betty:betty")
        host.follow(REVOKE)
        with pytest.raises(redis.ConnectionError):
            betty.execute_command("PING")
    host.run("$STOP_REDIS; $START_REDIS")
    with host.client(host.betty) as again, pytest.raises(redis.AuthenticationError):
        again.ping()
    host.run("$START_WORKERS")
    with host.admin() as admin:
        until = time.monotonic() + 60
        while admin.exists(INBOX):
            assert time.monotonic() < until, (host.folder / "run" / "worker.log").read_text()
            time.sleep(0.05)
    assert "user betty was removed" in (host.folder / "run" / "worker.log").read_text()


def test_a_namespace_is_stopped(host: Host) -> None:
    host.run("$START_WORKERS")
    host.wait_for("ZCARD", "puter:_public:workers")
    requested = host.run(
        f"PUTER_REDIS_URL={host.betty} puter submit --tag 'job-{{i}}' --count 2 --region us-east-1 --run true"
    )
    host.wait_for("EXISTS", "puter:betty:record:job-1")
    (told,) = host.follow(STOP)
    status = host.run(f"PUTER_REDIS_URL={host.betty} puter status --all --json")

    assert status.count('"phase":"cancelled"') + status.count('"phase": "cancelled"') == 2, (requested, told, status)


def test_a_flood_is_ended(host: Host) -> None:
    with host.client(host.betty) as mallory:
        mallory.rpush(INBOX, *([REQUEST] * 1_000))
        mallory.sadd("puter:_ready", "betty:betty")
        seen, dropped = host.follow(FLOOD)
    with host.admin() as admin:
        assert admin.exists(INBOX, "puter:_ready") == 0
        assert [one["user"] for one in admin.client_list()] == ["admin"]
    assert seen.splitlines()[:2] == ["1", "1000"]
    assert "tot-mem=" in seen
    assert dropped.split() == ["1", "1", "1"]


def test_a_full_redis_takes_writes_again(host: Host) -> None:
    with host.admin() as admin, host.client(host.betty) as betty:
        admin.config_set("maxmemory", admin.info("memory")["used_memory"])
        with pytest.raises(redis.OutOfMemoryError):
            betty.rpush(INBOX, REQUEST)
        shown, _ = host.follow(MEMORY)
        betty.rpush(INBOX, REQUEST)

        assert int(admin.config_get("maxmemory")["maxmemory"]) == 2 << 30
    assert {line.partition(":")[0] for line in shown.splitlines()} >= {"used_memory", "maxmemory", "mem_clients_normal"}


def test_a_redis_whose_file_was_damaged_by_a_full_disk_starts_again(host: Host) -> None:
    with host.admin() as admin:
        admin.set("puter:kept", "yes")
    host.run("$START_WORKERS")
    host.wait_for("ZCARD", "puter:_public:workers")
    host.run("$STOP_WORKERS; $STOP_REDIS")
    (log,) = (host.folder / "data" / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as damaged:
        damaged.write(b"*3\r\n$3\r\nSET\r\n$1000\r\nhalf an entry, then others\r\n" * 200)
    with pytest.raises(AssertionError):
        host.run("$START_REDIS")
    (host.folder / "run" / "log").write_text("")
    host.follow(DISK)
    host.wait_for("ZCARD", "puter:_public:workers")
    with host.admin() as admin:
        assert admin.get("puter:kept") == "yes"
    assert (host.folder / "backup" / "damaged" / "appendonlydir").is_dir()


def test_a_backup_is_whole_and_private_and_can_be_restored(host: Host) -> None:
    with host.admin() as admin:
        admin.set("puter:before", "yes")
    host.follow(BACKUP)
    with host.admin() as admin:
        admin.set("puter:after", "yes")
        assert admin.config_get("auto-aof-rewrite-percentage") == {"auto-aof-rewrite-percentage": "100"}
    assert (host.folder / "backup" / "puter.tar").stat().st_mode & 0o077 == 0
    host.follow(RESTORE)
    host.wait_for("ZCARD", "puter:_public:workers")
    with host.admin() as admin:
        assert (admin.get("puter:before"), admin.get("puter:after")) == ("yes", None)


def test_workers_tell_that_they_work_after_an_upgrade(host: Host) -> None:
    host.run("$START_WORKERS")
    host.wait_for("ZCARD", "puter:_public:workers")
    (told,) = host.follow(UPGRADE)

    assert " healthy" in told
    assert "not healthy" not in told
