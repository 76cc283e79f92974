"""A worker's settings, read once from its environment and options."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown
from puter_client.paths import Paths
from puter_client.store.redis_connection import check_url


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker runs with.

    Attributes:
        redis_url: of the Redis that clients append to.
        worker_id: `<host>:<pid>:<random>`, its name among all workers.
        host: this host's name.
        max_jobs: ensure jobs at a time; more only make each other, and all other stages, wait for longer.
        drain_s: how long the stages in hand may take after SIGTERM; a stop grace must be longer.
        burst: end when nothing is left to do.
        embedded: state folder of the local engine this worker belongs to; None on a shared host.
        idle_exit_s: an embedded worker ends itself and its Redis after this long with nothing alive or on its way.
        pace: whether to stay inside EC2's published rates; off only for stand-ins without limits.
        quarantine_s: how long a target waits after Redis has forgotten its launches.
        memory_folder: where is kept what must outlive both Redis and this process; None: nowhere.
        quiet_sweep_s: how often living machines are looked at while nobody waits for an end.
        max_group: most instances one RunInstances call may launch.
        log_folder: where the JSON log goes; None: to standard error.
    """

    redis_url: str
    worker_id: str
    host: str
    max_jobs: int = 64
    drain_s: float = 25.0
    burst: bool = False
    embedded: Path | None = None
    idle_exit_s: float = 600.0
    pace: bool = True
    quarantine_s: float = 10.0
    memory_folder: Path | None = None
    quiet_sweep_s: float = 25.0
    max_group: int = 100
    log_folder: Path | None = None

    def __repr__(self) -> str:
        return f"Settings(worker_id={self.worker_id!r})"  # the URL may hold a password


def read_settings(environ: Mapping[str, str], *, burst: bool = False, embedded: Path | None = None) -> Settings:
    """The settings of this process.

    Raises:
        InvalidInput: PUTER_REDIS_URL is missing or unreadable, or a number is none.
    """
    url = environ.get("PUTER_REDIS_URL", "")
    if not url:
        raise InvalidInput("PUTER_REDIS_URL is not set: a worker needs the Redis that its clients use")
    host = socket.gethostname()
    return Settings(
        redis_url=check_url(url),
        worker_id=f"{host}:{os.getpid()}:{os.urandom(3).hex()}",
        host=host,
        max_jobs=_number(environ, "PUTER_MAX_JOBS", 64, 1, 10_000),
        drain_s=_number(environ, "PUTER_DRAIN_S", 25, 1, 3_600),
        idle_exit_s=_number(environ, "PUTER_IDLE_EXIT_S", 600, 1, 86_400),
        quarantine_s=_number(environ, "PUTER_QUARANTINE_S", 10, 0, 3_600),
        memory_folder=Paths.from_environ(environ).state / "targets",
        pace=environ.get("PUTER_PACE", "on") != "off",
        max_group=_number(environ, "PUTER_MAX_GROUP", 100, 1, 100),
        burst=burst,
        embedded=embedded,
    )


def _number(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environ.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
        raise InvalidInput(f"{name} {shown(text)}: write a whole number from {least} to {most}")
    return int(text)
