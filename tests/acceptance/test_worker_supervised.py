"""A worker under a service manager: it says when it takes requests, that it works, and that it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.redis_servers import RedisServer


@pytest.mark.parametrize("abstract", [False, True], ids=["a path", "an abstract name"])
@pytest.mark.parametrize("command", [["puter_worker"], ["puter_client.cli", "worker"]], ids=["service", "command"])
def test_a_worker_tells_its_service_manager_that_it_works(
    own_valkey: RedisServer, tmp_path: Path, command: list[str], abstract: bool
) -> None:
    address = f"@puter-{os.getpid()}-{os.urandom(4).hex()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address.replace("@", "\0", 1) if abstract else address)
        manager.settimeout(60)
        environ = {**os.environ, "PUTER_REDIS_URL": own_valkey.url, "PUTER_HOME": str(tmp_path / "home")}
        environ |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "300000"}
        with subprocess.Popen([sys.executable, "-m", *command], env=environ, stderr=subprocess.DEVNULL) as worker:
            told = [manager.recv(100).decode()]
            while "READY=1" not in told:
                told.append(manager.recv(100).decode())
            with own_valkey.client() as redis:
                announced = redis.zcard("puter:_public:workers")
            own_valkey.kill()  # a Redis that is gone is no reason to start the worker again
            after = [manager.recv(100).decode() for _ in range(5)]
            worker.send_signal(signal.SIGTERM)
            while "STOPPING=1" not in after:
                after.append(manager.recv(100).decode())

    assert worker.returncode == 0
    assert announced == 1
    assert set(told) <= {"READY=1", "WATCHDOG=1"}
    assert set(after) == {"WATCHDOG=1", "STOPPING=1"}
