"""What the holders of the engine's locks write into them, and what follows from it."""

from __future__ import annotations

import functools
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from puter_client.local.environment import aws_settings, digest, other_settings

USE_LOCK = "engine.use"  # shared by every command that works with the engine; exclusively held to end it
START_LOCK = "engine.start"  # held while a command looks at, starts or replaces processes of the engine
ENGINE_LOCK = "engine.lock"  # held by the server
WORKER_LOCK = "worker.lock"  # held by the worker
WORKER_READY = "worker.ready"  # written by the worker when it serves: its process id
SERVER_PID = "server.pid"  # written by the server


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """The running system that the process ids and sockets of a note belong to.

    Attributes:
        name: the host's name.
        boot_id: random id of this boot of the kernel; no two hosts share one.
        pid_namespace: distinguishes containers of one kernel; empty on systems without PID namespaces.
    """

    name: str
    boot_id: str
    pid_namespace: str = ""

    def sees(self, other: Host) -> bool:
        """Whether process ids of the other refer to the same processes here. The name of a laptop may change."""
        return (self.boot_id, self.pid_namespace) == (other.boot_id, other.pid_namespace)


class EngineNote(msgspec.Struct, frozen=True, kw_only=True):
    """The note in `engine.lock`; it is emptied when the engine has ended in order.

    Attributes:
        host: the host that the server runs on.
        socket: path of its socket.
    """

    host: Host
    socket: str


class WorkerNote(msgspec.Struct, frozen=True, kw_only=True):
    """The note in `worker.lock`.

    Attributes:
        host: the host that the worker runs on.
        version: Puter version of the command that started it.
        url: URL of the server that it works for.
        salt: random, new for each start.
        aws_settings: digest of its `AWS_*` variables, keyed with the salt.
        other_settings: the same of the other variables that its work depends on.
        pid: its process id; None until it is known.
    """

    host: Host
    version: str
    url: str
    salt: str
    aws_settings: str
    other_settings: str
    pid: int | None = None


class StartNote(msgspec.Struct, frozen=True, kw_only=True):
    """The note in `engine.start`: the process that is starting the engine."""

    pid: int


@functools.cache
def this_host() -> Host:
    """The system that this process runs on."""
    if sys.platform == "linux":
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        return Host(name=platform.node(), boot_id=boot_id, pid_namespace=namespace)
    else:  # noqa: RET505 - mypy reads platforms by branch
        command = ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"]
        asked = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - all of it is here
        return Host(name=platform.node(), boot_id=asked.stdout.strip())


def is_elsewhere(noted: Host, here: Host, *, held: bool) -> bool:
    """Whether the engine that a note is about may be running on another host.

    If the lock is held, the holder's processes must be visible from here. A free lock is trusted on the same kernel,
    and on a host of the same name after a reboot. For another host a free lock proves nothing, since a network
    file system may keep locks local to each host (NFS mounted with `nolock` or `local_lock`).
    """
    if here.sees(noted):
        return False
    return held or (noted.boot_id != here.boot_id and noted.name != here.name)


def why_replace(note: WorkerNote, *, environ: Mapping[str, str], version: str, url: str) -> str | None:
    """Why a running worker cannot serve this command; None if it can."""
    if note.version != version:
        return f"it ran Puter {note.version}, this is {version}"
    if note.url != url:
        return "the server's address has changed"
    if note.aws_settings != digest(aws_settings(environ), note.salt):
        return "its AWS_* settings differ from those of this command"
    if note.other_settings != digest(other_settings(environ), note.salt):
        return "variables of its environment that it needs, such as proxies, differ from those of this command"
    return None
