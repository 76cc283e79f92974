"""A Redis that fails over: a primary, two replicas and three Sentinels, each a process on a port of 127.0.0.1.

Users and configuration are what docs/shared-host.md makes of them: the commands of its section "Failing over" are run.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import redis

from puter_client.store.redis_url import RedisUrl
from tests.integration.redis_servers import server_binaries
from tests.integration.shared_host import CONFIGURATION, ROOT

HOST = "127.0.0.1"
SERVICE = "mymaster"
SOON_MS = 3_000
NEVER_MS = 600_000
PATIENCE_S = 240.0  # Sentinels give a failover up after 60 s
SECTION = (ROOT / "docs" / "shared-host.md").read_text().partition("\n## Failing over\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
ON_PAGE = "192.0.2.11,192.0.2.12,192.0.2.13"
NOWHERE = "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"  # until it is known where the Sentinels are
BEHIND = "behind"
OWN_SERVER = """\
port {port}
unixsocket {folder}/s
logfile {folder}/log
repl-diskless-sync-delay 0
repl-ping-replica-period 1
"""
OWN_SENTINEL = """\
unixsocket {folder}/s
logfile {folder}/log
"""


class SetUp(NamedTuple):
    """What the commands of the page have made.

    Attributes:
        server, sentinel: the configuration of each.
        users: the file of users.
        admin: the file with the URL of the user `admin`.
        urls: of `worker` and `betty`.
        password: of the Sentinels' own user `sentinel`.
    """

    server: str
    sentinel: str
    users: str
    admin: str
    urls: Mapping[str, str]
    password: str

    @classmethod
    def follow(cls, binary: str, folder: Path) -> SetUp:
        """Run the first commands of the page in this folder, before any server runs."""
        (folder / "bin").mkdir()
        puter = folder / "bin" / "puter"
        puter.write_text(f'#!/bin/sh\nexec {sys.executable} -m puter_client.cli "$@"\n')
        puter.chmod(0o700)
        version = subprocess.run([binary, "--version"], capture_output=True, check=True, text=True).stdout
        old = " --redis-version 7.0" if "Redis server v=7.0." in version else ""
        script = replaced(BLOCKS[0], {ON_PAGE: NOWHERE, "--admin ": f"--admin{old} "})
        told = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f'{script}echo "SENTINELS=$SENTINELS"\n'],
            env={
                "PATH": f"{folder}/bin:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "PUTER_HOST_FOLDER": str(folder / "host"),
                "PUTER_REDIS_ADDRESS": "127.0.0.1:1",
            },
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stderr
        shown = dict(line.split("=", 1) for line in told.stdout.splitlines())
        host = folder / "host"
        return cls(
            server=(folder / "redis.conf").read_text(),
            sentinel=(folder / "sentinel.conf").read_text(),
            users=(host / "acl" / "users.acl").read_text(),
            admin=(host / "admin.env").read_text(),
            urls={
                "worker": (host / "worker.env").read_text().strip().partition("=")[2],
                "betty": shown["PUTER_REDIS_URL"],
            },
            password=shown["SENTINELS"],
        )


@cache
def set_up(binary: str) -> SetUp:
    """The page is followed once for each kind of server, since it says the same every time."""
    with tempfile.TemporaryDirectory(prefix="puter-set-up-") as folder:
        return SetUp.follow(binary, Path(folder))


def replaced(text: str, changes: Mapping[str, str]) -> str:
    """A text of the page, changed for this computer; what is to be changed must be there."""
    for old, new in changes.items():
        assert old in text, f"docs/shared-host.md has no {old!r} any more"
        text = text.replace(old, new)
    return text


class Member:
    """One process.

    Attributes:
        port: on 127.0.0.1.
        socket: the path of its socket.
        folder: what it reads and writes; of a server also what /etc/puter is on its host.
    """

    def __init__(self, command: list[str], port: int, folder: Path, config: str, user: tuple[str, str]) -> None:
        """`command`: what to run, but for the path of its configuration; `user`: who may do all, and the password."""
        self.port = port
        self.socket = str(folder / "s")
        self.folder = folder
        self._command = command
        self._user, self._password = user
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        (folder / "conf").write_text(config)

    def start(self) -> None:
        """Start it, and return when it answers."""
        binary, *arguments = self._command
        self.process = subprocess.Popen([binary, self.folder / "conf", *arguments])
        eventually("a server answers", self._answers)

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def client(self) -> redis.Redis:
        """A plain client that may do all."""
        return redis.Redis(
            host=HOST, port=self.port, username=self._user, password=self._password, decode_responses=True
        )

    def says(self, section: str) -> Mapping[str, Any]:
        """A section of its INFO."""
        with self.client() as client:
            told: Mapping[str, Any] = client.info(section)
            return told

    def follows(self) -> bool:
        """Whether it is a replica of one that it has heard of."""
        told = self.says("replication")
        return (told["role"], told.get("master_link_status")) == ("slave", "up")


class Failover:
    """The whole.

    Attributes:
        made: by the commands of the page.
        servers: the primary at the beginning, then the replicas.
        sentinels: who decide which one is the primary.
    """

    def __init__(self, folder: Path, *, binary: str, min_replicas: int, settings: str) -> None:
        ports = free_ports(6)
        self.made = set_up(binary)
        self.servers: list[Member] = []
        for number, port in enumerate(ports[:3]):
            of = folder / f"server-{number}"
            config = replaced(
                self.made.server,
                {
                    "/etc/puter/redis.conf": str(CONFIGURATION),
                    "/etc/puter/": f"{of}/",
                    "/var/lib/redis": str(of),
                    "bind HOST ": "bind ",
                    "min-replicas-to-write 1": f"min-replicas-to-write {min_replicas}",
                },
            )
            config += OWN_SERVER.format(port=port, folder=of) + settings
            config += f"replicaof {HOST} {ports[0]}\n" if number else ""
            self.servers.append(Member([binary], port, of, config, (BEHIND, BEHIND)))
            (of / "acl").mkdir()
            (of / "acl" / "users.acl").write_text(users(self.made.users))
        self.sentinels = [
            Member(
                [binary, "--sentinel"],
                port,
                of := folder / f"sentinel-{port}",
                replaced(
                    self.made.sentinel,
                    {
                        "port 26379": f"port {port}",
                        "/var/lib/redis": str(of),
                        "bind HOST ": "bind ",
                        "192.0.2.11 6379": f"{HOST} {ports[0]}",
                        "milliseconds mymaster 5000": f"milliseconds mymaster {NEVER_MS}",
                        "timeout mymaster 60000": "timeout mymaster 3000",
                    },
                )
                + OWN_SENTINEL.format(folder=of),
                ("sentinel", self.made.password),
            )
            for port in ports[3:]
        ]

    def url(self, user: str, *ports: int) -> str:
        """The URL of the primary, whichever server that is; `ports`: of its Sentinels, if not their own."""
        hosts = ",".join(f"{HOST}:{port}" for port in ports or [one.port for one in self.sentinels])
        return self.made.urls[user].replace(NOWHERE, hosts)

    def password(self, user: str) -> str:
        """The password of `worker` or `betty`."""
        return RedisUrl.parse(self.made.urls[user]).password

    def start(self) -> None:
        """Start everything, and return when it could fail over."""
        for one in (*self.servers, *self.sentinels):
            one.start()
        eventually("both replicas follow", lambda: 2 in map(self.following, self.servers))
        self.is_whole()

    def is_whole(self) -> None:
        """Return when each Sentinel knows the others and both replicas, and nothing is going on."""
        eventually("the Sentinels know each other and the replicas", lambda: all(map(self._knows_all, self.sentinels)))

    def following(self, one: Member) -> int:
        """How many replicas follow this server."""
        told = one.says("replication")
        return sum(told.get(f"slave{n}", {}).get("state") == "online" for n in range(2))

    def _knows_all(self, one: Member) -> bool:
        with one.client() as client:
            told: Any = client.execute_command("SENTINEL MASTER", SERVICE)
        state = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
        return (state["flags"], int(state["num-slaves"]), int(state["num-other-sentinels"])) == ("master", 2, 2)

    @property
    def primary(self) -> Member:
        """The one that the Sentinels agree on, once they do."""
        return self._agreed(lambda _: True)

    def failed_over(self, before: Member) -> Member:
        """The new primary, after this one was ended, once all Sentinels agree on one and it is one.

        Only from now on do they look for one that is gone.
        """
        self.watch()
        return self._agreed(lambda now: now is not before and now.says("replication")["role"] == "master")

    def watch(self) -> None:
        """Have the Sentinels miss a server soon; before, none that merely stands still for a while is missed."""
        for one in self.sentinels:
            with one.client() as client:
                client.execute_command(f"SENTINEL SET {SERVICE} down-after-milliseconds {SOON_MS}")

    def hand_over(self, options: str = "") -> None:
        """Make another server the primary, as somebody asks for it; `options`: of SENTINEL FAILOVER."""
        before, asked = self.primary, self.sentinels[0]

        def is_done() -> bool:
            if self.named(asked) != before.port:
                return True
            with asked.client() as sentinel, suppress(redis.ResponseError):
                # Refused before it has heard of what the last failover changed, and while one is in progress. One that
                # it has given up, as it does without telling anybody, is asked for again.
                sentinel.execute_command(f"SENTINEL FAILOVER {SERVICE}{options}")
            return False

        eventually("another is the primary", is_done)
        self._agreed(lambda now: now is not before and now.says("replication")["role"] == "master")
        eventually("the old primary follows", before.follows)
        self.is_whole()

    def _agreed(self, fits: Callable[[Member], bool]) -> Member:
        found: list[Member] = []

        def agreed() -> bool:
            named = set(map(self.named, self.sentinels))
            found[:] = [one for one in self.servers if named == {one.port} and fits(one)]
            return bool(found)

        eventually("the Sentinels agree on a primary", agreed)
        return found[0]

    def named(self, one: Member) -> int:
        """The port of the primary, as this Sentinel says."""
        with one.client() as client:
            told: Any = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(told[1])

    def cut_replicas_off(self) -> None:
        """From now on no replica gets what the primary writes, though all of them run."""
        for one in self.servers[1:]:
            with one.client() as client:
                client.config_set("masteruser", "nobody")
                client.config_set("masterauth", "nothing")
        with self.servers[0].client() as client:
            client.execute_command("CLIENT KILL TYPE replica")
        eventually("no replica follows", lambda: self.following(self.servers[0]) == 0)

    def end(self) -> None:
        """Kill all that still run."""
        for one in (*self.sentinels, *self.servers):
            one.kill()


def users(made: str) -> str:
    """The file of users, with one that may look behind."""
    return f"{made}user {BEHIND} on >{BEHIND} ~* &* +@all\n"


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses."""
    sockets = [socket.create_server((HOST, 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def eventually(what: str, holds: Callable[[], bool]) -> None:
    """Return once a condition holds that nobody announces."""
    deadline = time.monotonic() + PATIENCE_S
    while not _holds(holds):
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.02)


def _holds(holds: Callable[[], bool]) -> bool:
    try:
        return holds()
    except redis.ConnectionError:  # a server is being told to follow another
        return False


@contextmanager
def failing_over(*, kind: str = "valkey", min_replicas: int = 1, settings: str = "") -> Iterator[Failover]:
    """It runs while inside; `kind`: of server, as `server_binaries` names them; `settings`: further ones of servers."""
    folder = Path(tempfile.mkdtemp(prefix="puter-sentinel-"))
    group = Failover(folder, binary=server_binaries()[kind], min_replicas=min_replicas, settings=settings)
    try:
        group.start()
        yield group
    finally:
        group.end()
        shutil.rmtree(folder, ignore_errors=True)
