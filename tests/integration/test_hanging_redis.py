"""A Redis that accepts and does not answer: whatever hangs at whichever command, a client is told within its limit.

Time is the loop's own here: where nothing happens, the next time-out comes at once. So what is measured is the sum of
all time-outs and pauses, and no test waits for them.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.spec import Spec
from puter_client.timings import DEFAULT_TIMINGS

MOST_S = 5.0
# What the answer to a command may need to come through the loopback interface.
GRACE_S = 0.02
ANSWERS = {
    b"TIME": b"*2\r\n$1\r\n1\r\n$1\r\n0\r\n", b"MULTI": b"+OK\r\n", b"HGETALL": b"*0\r\n", b"LLEN": b":0\r\n",
    b"HSCAN": b"*2\r\n$1\r\n0\r\n*0\r\n",
}  # fmt: skip


class QuickSelector(selectors.DefaultSelector):
    """Waits for no time-out: it moves the loop's clock instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(GRACE_S if timeout is None else min(timeout, GRACE_S))
        if not ready and timeout:
            self.now += timeout
        return ready


class QuickLoop(asyncio.SelectorEventLoop):
    """A loop with a clock of its own."""

    def __init__(self) -> None:
        self._quick = QuickSelector()
        super().__init__(self._quick)

    def time(self) -> float:
        return self._quick.now


class HangingRedis:
    """Answers so many commands, then none; it answers to no connection any more.

    Attributes:
        accepted: how many connections it has accepted.
    """

    def __init__(self, answers: int) -> None:
        self._left = answers
        self.accepted = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            while header := await reader.readline():
                if not header.startswith(b"*"):  # TLS
                    await asyncio.Event().wait()
                words = [await _word(reader) for _ in range(int(header[1:]))]
                self._left -= 1
                if self._left < 0:
                    await asyncio.Event().wait()
                writer.write(ANSWERS.get(words[0].upper(), b"+OK\r\n"))
        except (asyncio.CancelledError, ValueError, OSError):
            pass
        finally:
            writer.close()


async def _word(reader: asyncio.StreamReader) -> bytes:
    size = int((await reader.readline())[1:])
    return (await reader.readexactly(size + 2))[:-2]


Use = Callable[[PuterClient], Awaitable[object]]


async def _follows(client: PuterClient) -> None:
    await client.wait(tags=["one"])


USES: dict[str, Use] = {
    "a look": lambda client: client.untaken(),
    "a batch": lambda client: client.batch("b-1"),
    "a submission": lambda client: client.submit([MachineRequest("one", Spec())]),
    "many": lambda client: client.submit([MachineRequest(f"n-{n}", Spec(run="x" * 8_000)) for n in range(900)]),
    "a wait": _follows,
}


def in_quick_time(work: Coroutine[Any, Any, float]) -> float:
    with asyncio.Runner(loop_factory=QuickLoop) as runner:
        return runner.run(work)


async def _again_and_again(use: Use, client: PuterClient) -> None:
    while True:
        await use(client)


async def seconds_until_told(url: str, use: Use) -> float:
    """How long a client takes from its first command until it has closed its connections."""
    began = asyncio.get_running_loop().time()
    async with PuterClient.connect(url, namespace="betty", user="betty") as client:
        with pytest.raises(StoreUnavailable, match="does not answer in time"):
            await _again_and_again(use, client)
    return asyncio.get_running_loop().time() - began


@pytest.mark.parametrize("use", USES.values(), ids=USES)
@pytest.mark.parametrize("answers", range(10))
def test_a_redis_that_hangs_at_any_command_is_named_within_5_s(tmp_path: Path, use: Use, answers: int) -> None:
    server = HangingRedis(answers)

    async def work() -> float:
        path = tmp_path / "s"
        async with await asyncio.start_unix_server(server.serve, path):
            return await seconds_until_told(f"unix://betty:pw@{path}?db=1", use)

    assert in_quick_time(work()) <= DEFAULT_TIMINGS.answer_s + DEFAULT_TIMINGS.close_s
    assert server.accepted <= 2  # a wait has two: one of them subscribes


@pytest.mark.parametrize(("scheme", "answers"), [("redis", 0), ("redis", 1), ("redis", 4), ("rediss", 0)])
def test_so_is_one_behind_tcp_or_tls(scheme: str, answers: int) -> None:
    server = HangingRedis(answers)

    async def work() -> float:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            return await seconds_until_told(f"{scheme}://betty:pw@127.0.0.1:{port}", USES["a look"])

    assert in_quick_time(work()) <= DEFAULT_TIMINGS.answer_s + DEFAULT_TIMINGS.close_s


def test_so_is_a_host_that_accepts_no_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        fillers = [socket.socket() for _ in range(4)]
        for one in fillers:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        port = full.getsockname()[1]

        assert (
            in_quick_time(seconds_until_told(f"redis://127.0.0.1:{port}", USES["a look"]))
            <= DEFAULT_TIMINGS.answer_s + DEFAULT_TIMINGS.close_s
        )
        for one in fillers:
            one.close()


def test_with_what_a_command_takes_to_begin_and_to_end_that_is_within_5_s() -> None:
    assert DEFAULT_TIMINGS.answer_s + DEFAULT_TIMINGS.close_s <= MOST_S - 1.0


def test_a_url_may_allow_more() -> None:
    server = HangingRedis(0)

    async def work() -> float:
        listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            return await seconds_until_told(f"redis://127.0.0.1:{port}?socket_timeout=60", USES["a look"])

    assert 59.0 < in_quick_time(work()) <= 60.0 + DEFAULT_TIMINGS.close_s
