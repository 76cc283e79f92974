"""What the holders of the engine's locks write into them, and what can be told from it."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

USE_LOCK = "engine.use"  # shared by every command that works with the engine; exclusively held to end it
START_LOCK = "engine.start"  # held while a command looks at, starts or replaces processes of the engine
ENGINE_LOCK = "engine.lock"  # held by the server
WORKER_LOCK = "worker.lock"  # held by the worker
WORKER_READY = "worker.ready"  # written by the worker when it serves: its process id
SERVER_PID = "server.pid"  # written by the server


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The running system that process ids and sockets of a note belong to.

    Attributes:
        name: the host's name.
        boot_id: of this run of its kernel; random, so no two hosts share one.
        pid_namespace: tells containers of one kernel apart; empty where there is no such thing.
    """

    name: str
    boot_id: str
    pid_namespace: str = ""

    def sees(self, other: Host) -> bool:
        """Whether process ids of the other mean the same processes here. Names of laptops change."""
        return (self.boot_id, self.pid_namespace) == (other.boot_id, other.pid_namespace)


class EngineNote(msgspec.Struct, frozen=True, kw_only=True):
    """In `engine.lock`; emptied when the engine has ended in order.

    Attributes:
        host: where the server runs.
        socket: its socket's path.
    """

    host: Host
    socket: str


class WorkerNote(msgspec.Struct, frozen=True, kw_only=True):
    """In `worker.lock`.

    Attributes:
        host: where the worker runs.
        version: Puter's, of the command that started it.
        url: of the server it works for.
        salt: random, of this start.
        settings: digest of the `AWS_*` settings it runs with, keyed with the salt.
        pid: None until it is known.
    """

    host: Host
    version: str
    url: str
    salt: str
    settings: str
    pid: int | None = None


class StartNote(msgspec.Struct, frozen=True, kw_only=True):
    """In `engine.start`: which process is busy with starting."""

    pid: int


@functools.cache
def this_host() -> Host:
    """The system this process runs on."""
    if sys.platform == "linux":
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        return Host(name=platform.node(), boot_id=boot_id, pid_namespace=namespace)
    else:  # noqa: RET505 - mypy reads platforms by branch
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        asked = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - all of it is here
        return Host(name=platform.node(), boot_id=asked.stdout.strip())


def is_elsewhere(noted: Host, here: Host, *, held: bool) -> bool:
    """Whether a note speaks of an engine that may be running on another host.

    A lock that is held is believed: then the processes must be visible from here. One that is free is believed on
    the same kernel, and on a host of the same name that was started anew; from another host it says nothing, since
    a network file system may keep locks to each host (NFS mounted with `nolock` or `local_lock`).
    """
    if here.sees(noted):
        return False
    return held or (noted.boot_id != here.boot_id and noted.name != here.name)


def aws_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings for AWS of an environment."""
    return {name: value for name, value in environ.items() if name.startswith("AWS_")}


def settings_digest(environ: Mapping[str, str], salt: str) -> str:
    """Agrees for the same `AWS_*` settings; says nothing of their values.

    Keyed with a salt of each start (BLAKE2, RFC 7693), so that digests of two starts or users compare to nothing.
    """
    keyed = hashlib.blake2b(key=bytes.fromhex(salt), digest_size=32)
    keyed.update(
        msgspec.json.encode(sorted((os.fsencode(n), os.fsencode(v)) for n, v in aws_settings(environ).items()))
    )
    return keyed.hexdigest()


def why_replace(note: WorkerNote, *, environ: Mapping[str, str], version: str, url: str) -> str | None:
    """Why a running worker cannot serve this command; None if it can."""
    if note.version != version:
        return f"it was of Puter {note.version}, this is {version}"
    if note.url != url:
        return "it worked for a server that has moved"
    if note.settings != settings_digest(environ, note.salt):
        return "its AWS_* settings were not those of this command"
    return None
