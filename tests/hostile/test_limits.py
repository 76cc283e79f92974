"""The limits of deploy/redis.conf are those of the local engine's server too, but for those that have a reason."""

from __future__ import annotations

from pathlib import Path

from puter_client.local.server import server_config
from puter_client.paths import Paths

CONFIGURATION = Path(__file__).parents[2] / "deploy" / "redis.conf"
# What may differ, and why: here with both values.
DIFFERS = {
    "bind": ("127.0.0.1 -::1", None),  # the engine's server has no port
    "protected-mode": ("yes", None),  # the same
    "tcp-keepalive": ("60", None),  # the same: a program at the other end of a Unix socket has ended or not
    "databases": ("1", None),  # it has one user, who may do everything
    "maxmemory": ("1gb", "0"),  # nobody else shares it: what its user submits is not refused
    "maxmemory-clients": ("25%", "256mb"),  # 25 % of the other's maxmemory: here there is none to take a part of
    "maxclients": ("10000", "1000"),  # one user's commands: a login session may often open 1,024 files
}


def settings(text: str) -> dict[str, str]:
    """Values by directive; each class of clients has an output limit of its own."""
    lines = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    words = [
        (line[:2], line[2:]) if line[0] == "client-output-buffer-limit" else (line[:1], line[1:]) for line in lines
    ]
    return {" ".join(name): " ".join(value) for name, value in words}


def test_the_local_engines_server_has_the_same_limits(tmp_path: Path) -> None:
    shared = settings(CONFIGURATION.read_text())
    engines = settings(server_config(Paths.from_environ({"PUTER_HOME": str(tmp_path)}), tmp_path))

    assert {name: (value, engines.get(name)) for name, value in shared.items() if engines.get(name) != value} == DIFFERS
    assert {
        "client-output-buffer-limit normal", "client-output-buffer-limit pubsub", "client-query-buffer-limit",
        "maxmemory-clients", "proto-max-bulk-len", "maxclients", "timeout",
    } <= shared.keys()  # fmt: skip
