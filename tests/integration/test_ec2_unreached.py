"""Calls that never reach EC2: real connections that are refused, by hosts, proxies and TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from puter_worker.ec2.answers import Vpcs
from puter_worker.ec2.calls import Caller
from puter_worker.errors import NotReached, StageError, reason_after
from tests.integration.moto_server import point_at


@contextmanager
def nobody() -> Iterator[str]:
    """A port at which nobody listens, and that nobody else gets."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@asynccontextmanager
async def somebody(answer: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Somebody who answers whatever comes with these bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65_536)
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


def self_signed(folder: Path) -> ssl.SSLContext:
    """The TLS of a server whose certificate nobody knows."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = folder / "server.pem"
    file.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.fixture
def caller(told_caller: Caller) -> Caller:
    """A caller of an endpoint that each test replaces."""
    return told_caller


async def told(caller: Caller) -> str:
    with pytest.raises(StageError) as caught:
        await caller.call("DescribeVpcs", Vpcs)
    assert (type(caught.value), caught.value.doubtful) == (NotReached, False)
    return reason_after(caught.value)


async def test_a_host_that_refuses(caller: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with nobody() as where:
        point_at(f"https://{where}", monkeypatch, tmp_path)

        assert (await told(caller)).startswith(
            f"EC2 was not reached: {where} refused the connection: check the network"
        )


async def test_a_proxy_that_is_not_there(caller: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    point_at("https://ec2.test", monkeypatch, tmp_path)
    with nobody() as where:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{where}")

        assert f"the proxy {where} refused the connection: check HTTPS_PROXY" in await told(caller)


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"])
async def test_a_proxy_that_refuses(
    caller: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, status: str
) -> None:
    point_at("https://ec2.test", monkeypatch, tmp_path)
    async with somebody(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()) as where:
        monkeypatch.setenv("HTTPS_PROXY", f"http://betty:hunter2@{where}")
        reason = await told(caller)

    assert f"{where} refused the connection (HTTP {status})" in reason
    assert "hunter2" not in reason


async def test_a_certificate_that_nobody_knows(caller: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with somebody(b"", self_signed(tmp_path)) as where:
        point_at(f"https://{where}", monkeypatch, tmp_path)
        reason = await told(caller)

    assert f"TLS with {where} failed (self-signed certificate)" in reason
    assert "set AWS_CA_BUNDLE" in reason


async def test_a_host_that_speaks_no_tls(caller: Caller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async with somebody(b"220 ready\r\n") as where:
        point_at(f"https://{where}", monkeypatch, tmp_path)

        assert f"TLS with {where} failed" in await told(caller)
