"""A TLS port in front of a Redis, with certificates made for the test: not every server is built with TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


class Authority:
    """An authority that nobody knows yet, and the files of what it signs.

    Attributes:
        certificate: its own, as a PEM file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of a test")])
        made = self._signed(self._name, self._key, datetime.now(UTC) + DAY, x509.BasicConstraints(True, None))
        self.certificate = folder / "authority.pem"
        self.certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))

    def _signed(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, end: datetime, *extensions: x509.ExtensionType
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - 3 * DAY)
            .not_valid_after(end)
        )
        for extension in extensions:
            builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        return builder.sign(self._key, hashes.SHA256())

    def file(self, address: str, *, ended: bool = False, passphrase: str = "") -> Path:
        """A file with a key and a certificate for an address; `ended`: it is not valid any more."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
        end = datetime.now(UTC) + (-DAY if ended else DAY)
        made = self._signed(name, key, end, x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]))
        locked: serialization.KeySerializationEncryption = serialization.NoEncryption()
        if passphrase:
            locked = serialization.BestAvailableEncryption(passphrase.encode())
        path = self._folder / f"{address}-{ended}-{bool(passphrase)}.pem"
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
            + made.public_bytes(serialization.Encoding.PEM)
        )
        return path


def server_context(file: Path, *, clients_of: Path | None = None) -> ssl.SSLContext:
    """How a TLS port behaves.

    Args:
        file: its key and certificate.
        clients_of: certificate of the authority that must have signed those of its clients; None asks for none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    if clients_of is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(clients_of)
    return context


@asynccontextmanager
async def open_port(socket: str, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port on 127.0.0.1 that passes everything on to a Redis's socket; over TLS, if there is a context."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_redis, to_redis = await asyncio.open_unix_connection(socket)
        await asyncio.gather(_pass_on(reader, to_redis), _pass_on(from_redis, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        port: int = server.sockets[0].getsockname()[1]
        yield port


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:  # one side has gone
        pass
    finally:
        writer.close()
