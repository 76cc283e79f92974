"""A worker's settings, which are read once from its environment and options."""

from __future__ import annotations

import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown
from puter_client.paths import Paths
from puter_client.policy.file import POLICY_VARIABLE
from puter_client.store.redis_connection import check_url
from puter_client.store.redis_url import URL_VARIABLE, RedisUrl

_LAST_PORT = 65_535


class Address(msgspec.Struct, frozen=True):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one worker.

    Attributes:
        redis_url: the URL of the Redis that its clients use.
        redis_url_from: the setting that holds it, for errors.
        worker_id: `<host>:<pid>:<random>`, its name among all workers.
        host: this host's name.
        max_jobs: how many ensure jobs run at a time; more would only delay each other and all other stages.
        drain_s: how long the stages may take to finish after SIGTERM; a supervisor must wait longer before it kills.
        burst: whether to end when nothing is left to do.
        local_engine: the state folder of the local engine that this worker belongs to; None on a shared host.
        idle_exit_s: a local engine's worker ends itself and its Redis after this long with no machine alive and no
            request open.
        pace: whether to stay inside EC2's published rates; off only for stand-ins of EC2 without limits.
        quarantine_s: how long a target waits after Redis has forgotten its launches.
        memory_folder: keeps what must survive both Redis and this process; None keeps nothing.
        quiet_sweep_s: how often living machines are looked at while no key waits for one of them to end.
        max_group: the largest number of instances that one RunInstances call may launch.
        metrics: where Prometheus reads the worker's metrics; None: they are not counted.
        policy_file: what namespaces may request; None: all. The local engine allows all to its owner.
    """

    redis_url: str
    redis_url_from: str = URL_VARIABLE
    worker_id: str
    host: str
    max_jobs: int = 64
    drain_s: float = 25.0
    burst: bool = False
    local_engine: Path | None = None
    idle_exit_s: float = 600.0
    pace: bool = True
    quarantine_s: float = 10.0
    memory_folder: Path | None = None
    quiet_sweep_s: float = 25.0
    max_group: int = 100
    metrics: Address | None = None
    policy_file: Path | None = None

    def __repr__(self) -> str:
        return f"WorkerSettings(worker_id={self.worker_id!r})"  # the URL may hold a password


def read_settings(
    environ: Mapping[str, str],
    *,
    burst: bool = False,
    local_engine: Path | None = None,
    redis_url_from: str = URL_VARIABLE,
    metrics: str | None = None,
) -> WorkerSettings:
    """The settings of this process.

    `metrics`: the option's value, which goes before PUTER_METRICS.
    `redis_url_from`: the setting from which `puter worker` took PUTER_REDIS_URL, for errors.

    Raises:
        InvalidInput: PUTER_REDIS_URL is missing or cannot be used, or a number or an address is not valid.
    """
    url = environ.get(URL_VARIABLE, "")
    if not url:
        raise InvalidInput(f"{URL_VARIABLE} is not set: a worker needs the Redis that its clients use")
    host = socket.gethostname()
    return WorkerSettings(
        redis_url=check_url(url, named_by=redis_url_from),
        redis_url_from=redis_url_from,
        worker_id=f"{host}:{os.getpid()}:{os.urandom(3).hex()}",
        host=host,
        max_jobs=_number(environ, "PUTER_MAX_JOBS", 64, 1, 10_000),
        drain_s=_number(environ, "PUTER_DRAIN_S", 25, 1, 3_600),
        idle_exit_s=_number(environ, "PUTER_IDLE_EXIT_S", 600, 1, 86_400),
        quarantine_s=_number(environ, "PUTER_QUARANTINE_S", 10, 0, 3_600),
        memory_folder=_memory_folder(environ, url, is_local=local_engine is not None),
        pace=environ.get("PUTER_PACE", "on") != "off",
        quiet_sweep_s=_number(environ, "PUTER_QUIET_SWEEP_S", 25, 1, 25),
        max_group=_number(environ, "PUTER_MAX_GROUP", 100, 1, 100),
        # The variable is not for the engines of a user who also runs a worker: they would want the same address.
        metrics=None if local_engine is not None else _metrics(metrics, environ),
        policy_file=Path(policy) if local_engine is None and (policy := environ.get(POLICY_VARIABLE)) else None,
        burst=burst,
        local_engine=local_engine,
    )


def _memory_folder(environ: Mapping[str, str], url: str, *, is_local: bool) -> Path:
    """What is remembered of one Redis says nothing of another one."""
    of = "local" if is_local else hashlib.sha256(str(RedisUrl.parse(url)).encode()).hexdigest()[:16]
    return Paths.from_environ(environ).state / "targets" / of


def _metrics(option: str | None, environ: Mapping[str, str]) -> Address | None:
    """The address of `--metrics` or PUTER_METRICS; a port alone is on the loopback address."""
    named_by, text = ("--metrics", option) if option is not None else ("PUTER_METRICS", environ.get("PUTER_METRICS"))
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = host or "127.0.0.1"
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not port.isascii() or not port.isdigit() or not 1 <= int(port[:9]) <= _LAST_PORT:
        raise InvalidInput(f"{named_by} {shown(text)}: write an address and a port, such as 127.0.0.1:9464")
    return Address(host, int(port))


def _number(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
        raise InvalidInput(f"{name} {shown(text)}: write a whole number from {least} to {most}")
    return int(text)
