"""The connection to Redis, the same for clients and workers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from puter_client.contract.errors import InvalidInput
from puter_client.store.redis_url import URL_VARIABLE, RedisUrl

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

LIMITS = ("socket_timeout", "socket_connect_timeout")
FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


def check_url(url: str, *, named_by: str = URL_VARIABLE) -> str:
    """The URL itself, if a connection can be tried with it.

    `named_by`: the setting that holds it, for the error.

    Raises:
        InvalidInput: it cannot be used, or names a file for TLS that cannot; the text holds nothing of the URL.
    """
    try:
        _check_files(RedisUrl.parse(url))
    except InvalidInput as error:
        raise InvalidInput(error.message, subject=named_by) from None
    return url


def _check_files(url: RedisUrl) -> None:
    """Refuse files for TLS with which every connection would fail."""
    named = {name: url.options[name] for name in FILES if name in url.options}
    for name, path in named.items():
        try:
            os.close(os.open(path, os.O_RDONLY))
        except OSError as error:
            raise _refused(f"{name} that cannot be read: {error.strerror}") from None
    if not named:
        return
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if path := named.get("ssl_ca_certs"):
            what = "ssl_ca_certs that holds no certificates in PEM form"
            context.load_verify_locations(path)
        if path := named.get("ssl_certfile"):
            what = "ssl_certfile that is no certificate of the key in ssl_keyfile, or the key has a passphrase"
            context.load_cert_chain(path, named["ssl_keyfile"], password="")  # else OpenSSL asks the terminal for it
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        raise _refused(what) from None


def _refused(what: str) -> InvalidInput:
    return InvalidInput(f"names a file with {what}", subject=URL_VARIABLE)


def answer_s(url: str, default_s: float) -> float:
    """How long Redis's answer to one command is waited for, with all that connecting takes.

    Raises:
        InvalidInput: the URL cannot be used.
    """
    options = RedisUrl.parse(url).options
    return max((options[name] for name in LIMITS if name in options), default=default_s)


def connection_pool(url: str, *, max_connections: int = 64, timeout_s: float | None = 5.0) -> ConnectionPool:
    """A pool whose connections wait `timeout_s` for each answer, and whose commands survive one lost connection.

    The URL may have other limits. `timeout_s` None: the caller has limits for everything, also those of the URL.

    A repeated command may have been executed before. That is harmless: a request that comes twice is decided once, and
    every write of a worker is guarded by the revision that it expects.

    Raises:
        InvalidInput: the URL cannot be used.
    """
    from redis.asyncio.retry import Retry
    from redis.backoff import ExponentialBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError

    from puter_client.store.pool import LivePool

    to = RedisUrl.parse(check_url(url))
    arguments = {
        "timeout": timeout_s,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "max_connections": max_connections,
        "retry": Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
        "retry_on_error": [RedisConnectionError],
        **connection_arguments(to),
    }
    if timeout_s is None:
        arguments |= dict.fromkeys(LIMITS)
    if not to.sentinels:
        return LivePool(**arguments)
    from puter_client.store.sentinel import Primary, PrimaryPool

    primary = Primary(to.sentinels, to.service, **_sentinel_arguments(to))
    return PrimaryPool(primary, tls=to.has_tls, **arguments)


def _sentinel_arguments(to: RedisUrl) -> dict[str, Any]:
    """How to connect to the Sentinels themselves."""
    tls = {name: value for name, value in to.options.items() if name.startswith("ssl_")}
    tls |= {"ssl": True, "ssl_check_hostname": _checks_host(to)} if to.has_tls else {}
    return {"username": to.sentinel_user or None, "password": to.sentinel_password or None, **tls}


def _checks_host(url: RedisUrl) -> bool:
    """Whether a certificate must name the host; redis-py 5 accepts one of another host unless it is told not to."""
    return url.options.get("ssl_cert_reqs") != "none" and bool(url.options.get("ssl_check_hostname", True))


def connection_arguments(url: RedisUrl) -> dict[str, Any]:
    """What the URL says, in redis-py's words."""
    from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection

    arguments: dict[str, Any] = {
        "username": url.user or None,
        "password": url.password or None,
        "db": url.database,
        **url.options,
    }
    if url.scheme == "unix":
        return {"connection_class": UnixDomainSocketConnection, "path": url.socket, **arguments}
    if url.has_tls:
        arguments["ssl_check_hostname"] = _checks_host(url)
    if url.sentinels:
        return arguments
    connection = SSLConnection if url.has_tls else Connection
    return {"connection_class": connection, **arguments, "host": url.host, "port": url.port}
