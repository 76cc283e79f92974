"""A shared Redis as `deploy/` sets it up, with users of its rules: a worker, betty, and mallory, who attacks."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import redis

from puter_client.client import PuterClient
from tests.integration.redis_servers import server_binaries

DEPLOY = Path(__file__).parents[2] / "deploy"


class SharedRedis(NamedTuple):
    """Addresses of one server, by user."""

    worker: str
    betty: str
    mallory: str

    def plain(self, url: str) -> redis.Redis:
        """A plain client."""
        return redis.Redis.from_url(url)

    def puter(self, user: str) -> PuterClient:
        """Puter's client of a user, in the namespace of the same name."""
        return PuterClient.connect(getattr(self, user), namespace=user, user=user)

    def memory(self) -> int:
        """Bytes that the server uses."""
        with self.plain(self.worker) as client:
            return int(client.info("memory")["used_memory"])


def _added(folder: Path, *arguments: str) -> str:
    made = subprocess.run([folder / "add-user", *arguments], capture_output=True, text=True, check=True)
    return made.stdout.strip().partition("//")[2].partition("@")[0]


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[SharedRedis]:
    """An empty server with the files of `deploy/`."""
    folder = tmp_path / "deploy"
    shutil.copytree(DEPLOY, folder)
    _added(folder, "worker")
    worker = (folder / "worker.env").read_text().partition("//")[2].partition("@")[0]
    users = {name: _added(folder, "client", name) for name in ("betty", "mallory")}
    socket, log = tmp_path / "s", tmp_path / "log"
    options = {"aclfile": folder / "users.acl", "dir": tmp_path, "port": 0, "unixsocket": socket, "logfile": log}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    server = subprocess.Popen([server_binaries()["valkey"], folder / "redis.conf", *words])
    try:
        while not socket.exists():
            assert server.poll() is None, log.read_text()
            time.sleep(0.005)  # until it listens; there is no event to wait for
        yield SharedRedis(*(f"unix://{who}@{socket}" for who in (worker, users["betty"], users["mallory"])))
    finally:
        server.kill()
        server.wait(10)
