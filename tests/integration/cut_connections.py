"""A socket in front of a Redis whose connections are lost in the middle of a command."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration.shared_host import SharedHost

_Meet = Callable[[socket.socket, socket.socket, bytes], None]


class _Door:
    """The socket; `meet` is called with a command that holds `word`, in place of handing it on."""

    def __init__(self, word: bytes, path: Path, redis: Path, meet: _Meet, *, times: int | None) -> None:
        self._word, self._redis, self._meet, self._times = word, redis, meet, times
        self._met = 0
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def _is_shut(self) -> bool:
        return self._times is None and self._met > 0

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                if self._is_shut:
                    caller.close()
                    continue
                redis = socket.socket(socket.AF_UNIX)
                redis.connect(str(self._redis))
                self._open += [caller, redis]
                threading.Thread(target=self._serve, args=(caller, redis), daemon=True).start()

    def _serve(self, caller: socket.socket, redis: socket.socket) -> None:
        with caller, redis, suppress(OSError):
            while sent := caller.recv(65_536):
                if self._word in sent and (self._times is None or self._met < self._times):
                    self._met += 1
                    self._meet(caller, redis, sent)
                    return
                redis.sendall(sent)
                answer = redis.recv(65_536)  # one command at a time, with a short answer
                if not answer:
                    return
                caller.sendall(answer)

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@contextmanager
def _door(word: bytes, host: SharedHost, path: Path, meet: _Meet, *, times: int | None) -> Iterator[str]:
    url, _ = host.folder.admin_url({})
    assert url is not None
    door = _Door(word, path, host.socket, meet, times=times)
    try:
        yield url.replace(str(host.socket), str(path))
    finally:
        door.close()


@contextmanager
def cut_at(
    word: bytes, host: SharedHost, path: Path, *, reaches_redis: bool, times: int | None = None
) -> Iterator[str]:
    """A URL of `admin` whose connection is lost at a command with this word.

    `reaches_redis`: Redis carries the command out first. `times`: how often; None: once, and then no other is made.
    """

    def meet(caller: socket.socket, redis: socket.socket, sent: bytes) -> None:
        if reaches_redis:
            redis.sendall(sent)
            redis.recv(65_536)
        caller.close()

    with _door(word, host, path, meet, times=times) as url:
        yield url


@contextmanager
def held_at(word: bytes, host: SharedHost, path: Path) -> Iterator[tuple[str, threading.Event]]:
    """A URL of `admin` whose connection gets no answer to a command with this word; the event: it has come."""
    is_held = threading.Event()

    def meet(caller: socket.socket, redis: socket.socket, sent: bytes) -> None:
        is_held.set()
        caller.recv(1)  # until the caller has gone

    with _door(word, host, path, meet, times=None) as url:
        yield url, is_held
