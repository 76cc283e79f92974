"""A shared host as `deploy/` sets it up: its folder, and a server with deploy's settings that reads its users there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from puter_client.acl.changes import Added, NewUser, UserChanges
from puter_client.acl.host import HostFolder
from puter_client.acl.rules import Role
from puter_client.acl.running import Told

ROOT = Path(__file__).parents[2]
CONFIGURATION = ROOT / "deploy" / "redis.conf"


class SharedHost:
    """A folder of users, and the socket of the server that reads it.

    Attributes:
        folder: as /etc/puter is on a host.
        socket: of the server.
        version: the option that tells a command which server it is, while it does not run.
    """

    def __init__(self, tmp_path: Path, binary: str) -> None:
        self._binary = binary
        self._home = tmp_path
        self.folder = HostFolder(tmp_path / "host")
        self.socket = tmp_path / "s"
        self.version = ("--redis-version", _version(binary))
        self._changes = UserChanges(self.folder, {})
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def acl(self) -> Path:
        """The file of users."""
        return self.folder.acl.path

    async def add(
        self, name: str, role: Role = Role.CLIENT, namespace: str | None = None, *, says_version: bool = True
    ) -> Added:
        """Add a user, a client of the namespace of its name by default; `says_version`: for which server."""
        named = namespace or (name if role is Role.CLIENT else None)
        version = self.version[1] if says_version else None
        address = f"unix://{self.socket}"
        new = NewUser(name=name, role=role, namespace=named, address=address, redis_version=version)
        return await self._changes.add(new)

    async def remove(self, name: str) -> Told:
        """Remove a user."""
        return await self._changes.remove(name)

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """`puter admin user …` in this folder."""
        return subprocess.run(
            self.command(*words), env=self.environ(**environ), cwd=ROOT, capture_output=True, text=True, check=False
        )

    def command(self, *words: str) -> list[str]:
        """The words of `puter admin user …`."""
        return [sys.executable, "-m", "puter_client.cli", "admin", "user", *words, "--folder", str(self.folder.path)]

    def environ(self, **environ: str) -> dict[str, str]:
        """Its environment."""
        return {"PATH": os.environ["PATH"], "PUTER_REDIS_ADDRESS": f"unix://{self.socket}", **environ}

    def client(self, url: str) -> redis.Redis:
        """A plain client with the URL of a user."""
        return redis.Redis.from_url(url)

    def admin(self) -> redis.Redis:
        """A plain client that is the user `admin`."""
        url, _ = self.folder.admin_url({})
        assert url
        return redis.Redis.from_url(url)

    def start(self, *options: str, own_users: bool = True) -> None:
        """Start the server, and return when it answers: it listens before it has read its users.

        `options`: further ones. `own_users`: it reads the users of this host.
        """
        log = self._home / "log"
        own = {"aclfile": self.acl, "dir": self._home, "port": 0, "unixsocket": self.socket, "logfile": log}
        if not own_users:
            own.pop("aclfile")
        words = [word for name, value in own.items() for word in (f"--{name}", str(value))]
        self.socket.unlink(missing_ok=True)
        self._server = subprocess.Popen([self._binary, CONFIGURATION, *options, *words])
        while not self._answers():
            assert self._server.poll() is None, log.read_text()
            time.sleep(0.005)  # there is no event to wait for

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as caller:
            if caller.connect_ex(str(self.socket)) != 0:
                return False
            try:
                caller.sendall(b"PING\r\n")
                return bool(caller.recv(1))  # that it asks for a password will do
            except ConnectionError:
                return False

    def stop(self) -> None:
        """End the server, whatever it does."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None


def _version(binary: str) -> str:
    told = subprocess.run([binary, "--version"], capture_output=True, check=True).stdout
    return "7.0" if b"Redis server v=7.0." in told else "8.1"


@contextmanager
def shared_host(tmp_path: Path, binary: str) -> Iterator[SharedHost]:
    """A host without users, whose server is not started yet; the server ends with the context."""
    host = SharedHost(tmp_path, binary)
    try:
        yield host
    finally:
        host.stop()
