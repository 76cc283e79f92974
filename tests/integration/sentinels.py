"""A Redis that fails over: a primary, two replicas and three Sentinels, each a process on a port of 127.0.0.1."""

from __future__ import annotations

import hashlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from puter_client.acl.rules import Role, line, rules
from tests.integration.redis_servers import server_binaries

HOST = "127.0.0.1"
SERVICE = "mymaster"
PASSWORD = "a-secret"
PATIENCE_S = 60.0
# As docs/shared-host.md has them, but for the times.
SERVER = """\
port {port}
unixsocket {folder}/s
bind 127.0.0.1
dir {folder}
logfile {folder}/log
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
min-replicas-to-write {min_replicas}
min-replicas-max-lag 10
repl-diskless-sync-delay 0
repl-ping-replica-period 1
aclfile {folder}/users.acl
"""
SENTINEL = """\
port {port}
unixsocket {folder}/s
bind 127.0.0.1
dir {folder}
logfile {folder}/log
{users}sentinel monitor mymaster 127.0.0.1 {primary} 2
sentinel down-after-milliseconds mymaster 700
sentinel failover-timeout mymaster 3000
"""


class Member:
    """One process.

    Attributes:
        port: on 127.0.0.1.
        socket: the path of its socket.
    """

    def __init__(self, port: int, folder: Path, config: str, *arguments: str) -> None:
        self.port = port
        self.socket = str(folder / "s")
        self._folder = folder
        self._arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        (folder / "conf").write_text(config)

    def start(self) -> None:
        """Start it, and return when it answers."""
        binary = server_binaries()["valkey"]
        self.process = subprocess.Popen([binary, self._folder / "conf", *self._arguments])
        eventually("a server answers", self._answers)

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, (self._folder / "log").read_text()
        with self.client() as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return True
            except redis.RedisError:
                return False

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def client(self) -> redis.Redis:
        """A plain client."""
        return redis.Redis(host=HOST, port=self.port)

    def says(self, section: str) -> Mapping[str, Any]:
        """A section of its INFO."""
        with self.client() as client:
            told: Mapping[str, Any] = client.info(section)
            return told


class Failover:
    """The whole.

    Attributes:
        servers: the primary at the beginning, then the replicas.
        sentinels: who decide which one is the primary.
    """

    def __init__(self, folder: Path, *, min_replicas: int, sentinel_password: str) -> None:
        ports = free_ports(6)
        self.servers: list[Member] = []
        for number, port in enumerate(ports[:3]):
            of = folder / f"server-{number}"
            config = SERVER.format(port=port, folder=of, min_replicas=min_replicas)
            config += f"replicaof {HOST} {ports[0]}\n" if number else ""
            self.servers.append(Member(port, of, config))
            (of / "users.acl").write_text(users())
        own = ""
        if sentinel_password:
            own = f"user default off\nuser asks on >{sentinel_password} allchannels +@all\n"
            own += f"sentinel sentinel-user asks\nsentinel sentinel-pass {sentinel_password}\n"
        self.sentinels = [
            Member(
                port,
                of := folder / f"sentinel-{port}",
                SENTINEL.format(port=port, folder=of, primary=ports[0], users=own),
                "--sentinel",
            )
            for port in ports[3:]
        ]
        self.sentinel_password = sentinel_password

    def url(self, user: str = "", *, options: str = "") -> str:
        """The URL of the primary, whichever server that is."""
        hosts = ",".join(f"{HOST}:{one.port}" for one in self.sentinels)
        signed = f"{user}:{PASSWORD}@" if user else ""
        return f"redis+sentinel://{signed}{hosts}/{SERVICE}/0{options}"

    def start(self) -> None:
        """Start everything, and return when it could fail over."""
        for one in (*self.servers, *self.sentinels):
            one.start()
        eventually("both replicas follow", lambda: self._following() == 2)
        eventually("the Sentinels know each other and the replicas", lambda: all(map(self._knows_all, self.sentinels)))

    def _following(self) -> int:
        told = self.servers[0].says("replication")
        return sum(told.get(f"slave{n}", {}).get("state") == "online" for n in range(2))

    def _sentinel(self, one: Member) -> redis.Redis:
        signed: Any = {"username": "asks", "password": self.sentinel_password} if self.sentinel_password else {}
        return redis.Redis(host=HOST, port=one.port, decode_responses=True, **signed)

    def _knows_all(self, one: Member) -> bool:
        with self._sentinel(one) as client:
            told: Any = client.execute_command("SENTINEL MASTER", SERVICE)
        state = told if isinstance(told, dict) else dict(zip(told[::2], told[1::2], strict=True))
        return (int(state["num-slaves"]), int(state["num-other-sentinels"])) == (2, 2)

    @property
    def primary(self) -> Member:
        """The one that the Sentinels agree on."""
        ports: set[int] = set()
        for one in self.sentinels:
            with self._sentinel(one) as client:
                told: Any = client.execute_command("SENTINEL GET-MASTER-ADDR-BY-NAME", SERVICE)
                ports.add(int(told[1]))
        if len(ports) != 1:
            return self.servers[0]
        (port,) = ports
        return next(one for one in self.servers if one.port == port)

    def failed_over(self, before: Member) -> Member:
        """The new primary, once all Sentinels agree on one and it is one."""

        def done() -> bool:
            now = self.primary
            return now is not before and now.says("replication")["role"] == "master"

        eventually("another primary", done)
        return self.primary

    def cut_replicas_off(self) -> None:
        """From now on no replica gets what the primary writes, though all of them run."""
        for one in self.servers[1:]:
            with one.client() as client:
                client.config_set("masteruser", "nobody")
                client.config_set("masterauth", "nothing")
        with self.servers[0].client() as client:
            client.execute_command("CLIENT KILL TYPE replica")
        eventually("no replica follows", lambda: self._following() == 0)

    def end(self) -> None:
        """Kill all that still run."""
        for one in (*self.sentinels, *self.servers):
            one.kill()


def users() -> str:
    """Users of the deployed rules; `default` keeps all rights, for replicas, Sentinels and for looking behind."""
    secret = hashlib.sha256(PASSWORD.encode()).hexdigest()
    worker = line("worker", secret, rules(Role.WORKER, user="worker"))
    betty = line("betty", secret, rules(Role.CLIENT, user="betty", namespace="betty"))
    return f"user default on nopass allkeys allchannels +@all\n{worker}\n{betty}\n"


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
def failing_over(*, min_replicas: int = 1, sentinel_password: str = "") -> Iterator[Failover]:
    """It runs while inside."""
    folder = Path(tempfile.mkdtemp(prefix="puter-sentinel-"))
    group = Failover(folder, min_replicas=min_replicas, sentinel_password=sentinel_password)
    try:
        group.start()
        yield group
    finally:
        group.end()
        shutil.rmtree(folder, ignore_errors=True)
