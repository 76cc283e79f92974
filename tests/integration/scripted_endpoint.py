"""Fixtures: an endpoint that answers EC2's calls as a test tells it to, one reply a call: for what moto never does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from puter_worker.ec2.calls import Caller
from puter_worker.ec2.session import Sessions
from puter_worker.timings import Timings
from tests.integration.moto_server import REGION, point_at

REQUEST_ID = "11111111-2222-3333-4444-555555555555"


@dataclass(frozen=True)
class Reply:
    """One answer.

    Attributes:
        status: of HTTP.
        body: as sent.
        missing: how many bytes the head promises beyond the body; the connection closes before they come.
        end: instead of an answer: "close" or "reset" the connection, or stay "silent".
    """

    status: int = 200
    body: str = ""
    missing: int = 0
    end: str | None = None


def refusal(code: str, status: int = 400, message: str = "no") -> Reply:
    """An error in EC2's form."""
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Reply(status, f"<Response><Errors>{error}</Errors><RequestID>{REQUEST_ID}</RequestID></Response>")


def answer(action: str, inside: str = "<return>true</return>") -> Reply:
    """A good answer in EC2's form."""
    space = "http://ec2.amazonaws.com/doc/2016-11-15/"
    tag = f"{action}Response"
    return Reply(200, f'<{tag} xmlns="{space}"><requestId>{REQUEST_ID}</requestId>{inside}</{tag}>')


CLOSED = Reply(end="close")
RESET = Reply(end="reset")
SILENT = Reply(end="silent")


@dataclass
class Endpoint:
    """What was asked, and what is answered next.

    Attributes:
        url: its address.
        replies: still to be given, first to last.
        asked: parameters of each call so far.
        signed_with: the access key of each call so far.
        agents: who each call said to come from.
    """

    url: str = ""
    replies: list[Reply] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    signed_with: list[str] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)

    @property
    def actions(self) -> list[str]:
        """Names of the calls so far."""
        return [params["Action"] for params in self.asked]

    async def answer_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        size = int(head.split("Content-Length:")[1].split("\r\n")[0])
        self.signed_with.append(head.split("Credential=")[1].split("/")[0])
        self.agents.append(head.split("User-Agent:")[1].split("\r\n")[0])
        self.asked.append(dict(parse_qsl((await reader.readexactly(size)).decode())))
        reply = self.replies.pop(0)
        if reply.end == "silent":
            await reader.read()
        elif reply.end == "reset":
            linger_no_more = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_no_more)
        elif reply.end is None:
            body = reply.body.encode()
            lines = [
                f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
                "Content-Type: text/xml",
                f"Content-Length: {len(body) + reply.missing}",
                "Connection: close",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode() + body)
            await writer.drain()


@contextlib.asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    """An endpoint on a free loopback port."""
    told = Endpoint()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await told.answer_one(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    told.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield told


@pytest.fixture
async def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Endpoint]:
    """An endpoint, and an environment in which every AWS tool talks to it."""
    async with endpoint() as opened:
        point_at(opened.url, monkeypatch, tmp_path)
        yield opened


@pytest.fixture
async def told_sessions(told: Endpoint) -> AsyncIterator[Sessions]:
    """Sessions that talk to the endpoint."""
    opened = Sessions(Timings(credentials_again_s=0.0, credentials_told_s=600.0), version="0")
    yield opened
    await opened.aclose()


@pytest.fixture
def told_caller(told_sessions: Sessions) -> Caller:
    """A caller that talks to the endpoint."""
    return Caller(told_sessions, profile=None, region=REGION)
