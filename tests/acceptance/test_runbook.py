"""docs/runbook.md is followed literally: its blocks are run by bash, with its variables, on a host with a real Valkey.

What needs Docker is run by a stand-in, which goes by compose.yaml.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import yaml

from puter_client.store.redis_url import RedisUrl
from tests.acceptance.page_host import ROOT, PageHost, blocks

BLOCKS = blocks("runbook.md")
VARIABLES, FIRST, UPGRADE = "Variables", "As administrator", "Upgrade"
NEEDS_DOCKER = "# needs Docker"
WITH_DOCKER = {VARIABLES, UPGRADE}
SET_UP = [block.text for block in blocks("shared-host.md") if block.heading == "Without containers"][1]
INBOX = "puter:_in:team-a:betty"
REQUEST = b'{"type":"up"}'


pytestmark = pytest.mark.skipif(
    shutil.which("redis-cli") is None and os.environ.get("CI") != "true", reason="redis-cli is not on this machine"
)


def commands(heading: str) -> list[str]:
    """The blocks of a section, but for those of a host with Docker."""
    return [block.text for block in BLOCKS if block.heading == heading and not block.text.startswith(NEEDS_DOCKER)]


class RunbookHost(PageHost):
    """A host with the files of `deploy/`, and a shell in which the variables of the page were set.

    Attributes:
        betty: the URL of the user of whom the page tells.
    """

    betty = ""

    def set_up(self, *left_out: str) -> None:
        """Follow the set-up of docs/shared-host.md, but for lines with these words; add the user; become admin."""
        lines = SET_UP.splitlines()
        self.run("\n".join(line for line in lines if not any(word in line for word in left_out)))
        told = self.run("/opt/puter/bin/puter admin user add betty --namespace team-a")
        self.betty = told.splitlines()[0].partition("=")[2]
        (block,) = commands(FIRST)
        *shown, url, password = self.type(f'{block}\necho "$PUTER_REDIS_URL"\necho "$REDISCLI_AUTH"').splitlines()
        assert shown[-1] == "PONG"
        self.environ |= {"PUTER_REDIS_URL": url, "REDISCLI_AUTH": password}

    def type(self, script: str) -> str:
        """Run commands in that shell; root's umask is a strict one."""
        return self.run("\n".join(["umask 077", *commands(VARIABLES), script]))

    def follow(self, heading: str) -> list[str]:
        """Run the blocks of a section; returns what each wrote."""
        return [self.type(block) for block in commands(heading)]

    def wait_for(self, query: str, *words: str) -> None:
        """Return when Redis answers this command with something."""
        with self.as_admin() as admin:
            until = time.monotonic() + 60
            while not admin.execute_command(query, *words):
                assert time.monotonic() < until, self.log("puter-worker@1")
                time.sleep(0.05)  # until a worker has worked; there is no event to wait for


@pytest.fixture
def host(tmp_path: Path) -> Iterator[RunbookHost]:
    """A host whose Redis runs, and whose workers do not yet."""
    made = RunbookHost(tmp_path)
    try:
        made.run_from_source()
        made.set_up("-m venv", "pip install", "systemctl enable")
        yield made
    finally:
        made.close()


REVOKE, STOP, FLOOD = "Revoke now", "Stop or drain a namespace", "Flood"
CONNECTION, MEMORY, DISK = "No connection", "Full memory", "Full disk"
BACKUP, RESTORE = "Backup", "Restore"
FOLLOWED = {VARIABLES, FIRST, REVOKE, STOP, FLOOD, CONNECTION, MEMORY, DISK, BACKUP, RESTORE, UPGRADE}


def test_every_block_is_followed_and_says_whether_it_needs_docker() -> None:
    with_docker = [block for block in BLOCKS if "docker" in block.text]

    assert {block.heading for block in BLOCKS} == FOLLOWED
    assert {block.heading for block in with_docker} == WITH_DOCKER
    assert all(block.text.startswith(NEEDS_DOCKER) for block in with_docker)


def test_every_variable_is_set_for_both_kinds_of_host() -> None:
    used = {name for block in BLOCKS for name in re.findall(r"\$\{?([A-Z_]+)", block.text)}
    systemd, compose, what = (
        set(re.findall(r"^([A-Z_]+)=", block.text, re.MULTILINE)) for block in BLOCKS if block.heading == VARIABLES
    )
    exported = {"PUTER_REDIS_URL", "REDISCLI_AUTH"}

    assert systemd == compose
    assert used - exported <= systemd | what
    assert systemd | what <= used


@pytest.mark.parametrize(
    "url",
    [
        "redis://admin:0a1b@127.0.0.1:6379/0",
        "rediss://admin:0a1b@redis.example:6380/2?ssl_cert_reqs=none",
        "unix://admin:0a1b@/run/redis.sock?db=1",
        "redis+sentinel://admin:0a1b@s1,s2:26380/mymaster/0?sentinel_user=a&sentinel_password=b",
    ],
)
def test_the_url_of_admin_may_have_any_form(tmp_path: Path, url: str) -> None:
    host = PageHost(tmp_path)
    host.program("redis-cli", "echo PONG")
    (host.folder / "etc/puter/admin.env").write_text(f"# of Puter\nPUTER_ADMIN_REDIS_URL={url}\n")
    (block,) = commands(FIRST)
    shown = 'echo "$PUTER_REDIS_URL"; echo "$REDISCLI_AUTH"'

    assert RedisUrl.parse(url).password == "0a1b"
    assert host.run("\n".join([*commands(VARIABLES), block, shown])).splitlines() == ["PONG", url, "0a1b"]


def test_the_commands_for_docker_are_of_what_compose_yaml_has(tmp_path: Path) -> None:
    host = PageHost(tmp_path, containers=True)
    host.program("git", '[ "$*" = pull ]')
    (set_up,) = [block.text for block in blocks("shared-host.md") if block.heading == "With Compose"]
    variables, upgrade = [block.text for block in BLOCKS if block.text.startswith(NEEDS_DOCKER)]
    used = ["$STOP_WORKERS", "$STOP_REDIS", '$CHECK_AOF --fix "$DATA/x"', "$START_REDIS", "$START_WORKERS",
            "$REDIS_CLI PING", "$PUTER worker --health", "ls $HOST_FOLDER/admin.env"]  # fmt: skip
    host.run(set_up)
    told = host.run("\n".join([variables, *used, upgrade]), REDISCLI_AUTH="0a1b", PUTER_REDIS_URL="redis://")
    listed = host.run(f"{variables}\n$PUTER_ADMIN user list")

    health = " ".join(
        yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["worker"]["healthcheck"]["test"][1:]
    )
    data = "/var/lib/docker/volumes/puter_redis/_data"
    assert told.splitlines() == [
        "stop worker", "stop redis", f"run redis valkey-check-aof --fix {data}/x", "up: redis", "start worker",
        "exec redis valkey-cli --user admin PING", f"exec worker {health}", "deploy/admin.env",
        "up: worker", "ps worker",
    ]  # fmt: skip
    assert "betty" in listed


def test_a_user_who_is_revoked_is_out_at_once_and_for_good(host: RunbookHost) -> None:
    with host.as_user(host.betty) as betty:
        betty.rpush(INBOX, REQUEST, REQUEST)
        betty.sadd("puter:_ready", "team-a:betty")
        host.follow(REVOKE)
        with pytest.raises(redis.ConnectionError):
            betty.execute_command("PING")
    host.type("$STOP_REDIS; $START_REDIS")
    with host.as_user(host.betty) as again, pytest.raises(redis.AuthenticationError):
        again.ping()
    host.type("$START_WORKERS")
    with host.as_admin() as admin:
        until = time.monotonic() + 60
        while admin.exists(INBOX):
            assert time.monotonic() < until, host.log("puter-worker@1")
            time.sleep(0.05)
    assert any("user betty was removed" in host.log(f"puter-worker@{one}") for one in (1, 2))


def test_a_namespace_is_stopped(host: RunbookHost) -> None:
    host.type("$START_WORKERS")
    betty = {"PUTER_REDIS_URL": host.betty, "PUTER_NAMESPACE": "team-a"}
    requested = host.run(
        "/opt/puter/bin/puter submit --tag 'job-{i}' --count 2 --region us-east-1 --ssh-from none --run true", **betty
    )
    host.wait_for("EXISTS", "puter:team-a:record:job-1")
    held, told = host.follow(STOP)
    status = host.type("$PUTER status --all --json --namespace team-a")
    with host.as_user(host.betty) as outside, pytest.raises(redis.AuthenticationError):
        outside.ping()

    assert held.splitlines()[0] == "OK"
    assert status.count('"phase":"cancelled"') + status.count('"phase": "cancelled"') == 2, (requested, told, status)


def test_a_flood_is_ended(host: RunbookHost) -> None:
    with host.as_user(host.betty) as mallory:
        mallory.rpush(INBOX, *([REQUEST] * 1_000))
        mallory.sadd("puter:_ready", "team-a:betty")
        seen, dropped = host.follow(FLOOD)
    with host.as_admin() as admin:
        assert admin.exists(INBOX, "puter:_ready") == 0
        assert [one["user"] for one in admin.client_list()] == ["admin"]
    assert seen.splitlines()[:2] == ["1", "1000"]
    assert "tot-mem=" in seen
    assert dropped.split() == ["1", "1", "1"]


def test_sockets_that_do_not_sign_in_are_ended(host: RunbookHost) -> None:
    with socket.create_connection(("127.0.0.1", host.port), timeout=30) as silent, host.as_user(host.betty) as betty:
        betty.ping()
        (told,) = host.follow(CONNECTION)

        assert silent.recv(1) == b""
        assert betty.ping()
    *users, killed = told.splitlines()
    assert killed == "1"
    assert {tuple(line.split()) for line in users} == {
        ("1", "user=admin"), ("1", "user=betty"), ("1", "user=default"),
    }  # fmt: skip


def test_a_full_redis_takes_writes_again(host: RunbookHost) -> None:
    with host.as_admin() as admin, host.as_user(host.betty) as betty:
        admin.config_set("maxmemory", admin.info("memory")["used_memory"])
        with pytest.raises(redis.OutOfMemoryError):
            betty.rpush(INBOX, REQUEST)
        shown, _ = host.follow(MEMORY)
        betty.rpush(INBOX, REQUEST)

        assert int(admin.config_get("maxmemory")["maxmemory"]) == 2 << 30
    assert {line.partition(":")[0] for line in shown.splitlines()} >= {"used_memory", "maxmemory", "mem_clients_normal"}


def test_a_redis_whose_file_was_damaged_by_a_full_disk_starts_again(host: RunbookHost) -> None:
    with host.as_admin() as admin:
        admin.set("puter:kept", "yes")
    host.type("$START_WORKERS")
    host.type("$STOP_WORKERS; $STOP_REDIS")
    (log,) = (host.folder / "var/lib/redis" / "appendonlydir").glob("*.incr.aof")
    with log.open("ab") as damaged:
        damaged.write(b"*3\r\n$3\r\nSET\r\n$1000\r\nhalf an entry, then others\r\n" * 200)
    with pytest.raises(AssertionError):
        host.type("$START_REDIS")
    # For its supervisor it runs, since it is started again and again.
    supervised = subprocess.Popen(["sleep", "600"])
    (host.folder / "run/redis-server.pid").write_text(str(supervised.pid))
    host.follow(DISK)
    assert supervised.wait(60) == -signal.SIGTERM
    host.wait_for("ZCARD", "puter:_public:workers")
    with host.as_admin() as admin:
        assert admin.get("puter:kept") == "yes"
    assert (host.folder / "var/backups/puter" / "damaged" / "appendonlydir").is_dir()


def test_a_backup_is_whole_and_private_and_can_be_restored(host: RunbookHost) -> None:
    with host.as_admin() as admin:
        admin.set("puter:before", "yes")
    host.follow(BACKUP)
    with host.as_admin() as admin:
        admin.set("puter:after", "yes")
        assert admin.config_get("auto-aof-rewrite-percentage") == {"auto-aof-rewrite-percentage": "100"}
    assert (host.folder / "var/backups/puter" / "puter.tar").stat().st_mode & 0o077 == 0
    host.follow(RESTORE)
    host.wait_for("ZCARD", "puter:_public:workers")
    with host.as_admin() as admin:
        assert (admin.get("puter:before"), admin.get("puter:after")) == ("yes", None)


def test_workers_run_the_new_program_after_an_upgrade(tmp_path: Path) -> None:
    host = RunbookHost(tmp_path)
    try:
        host.make_ready()
        host.run("make wheel")
        host.set_up()
        before = {path.name: path.read_text() for path in (host.folder / "run").glob("puter-worker@*.pid")}
        (host.project / "puter_worker" / "newer.py").write_text("")
        host.run("make wheel")
        _, told = host.follow(UPGRADE)
        after = {path.name: path.read_text() for path in (host.folder / "run").glob("puter-worker@*.pid")}
    finally:
        host.close()
    (newer,) = (host.folder / "opt/puter/lib").rglob("newer.py")

    assert newer.stat().st_mode & 0o044 == 0o044
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] == after[name]] == []
    assert told.count(" healthy") == len(after)
    assert "not healthy" not in told
