"""The connection to Redis, the same for clients and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from puter_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

SCHEMES = ("redis", "rediss", "unix")


def check_url(url: str) -> str:
    """The URL itself, if it can name a Redis; the error shows its scheme only, for it may hold a password.

    Raises:
        InvalidInput: it is none of redis://, rediss://, unix://.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in SCHEMES and bool(parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port if parts.scheme != "unix" else None
    except ValueError:
        fine = False
    if not fine:
        raise InvalidInput(
            "is not the address of a Redis: write redis://host:6379/0, rediss://… or unix:///path",
            subject="PUTER_REDIS_URL",
        )
    return url


def safe_url(url: str) -> str:
    """The URL as it may be shown: without user, password and query."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def why_refused(url: str, error: Exception, role: Literal["client", "worker"] = "client") -> str:
    """What it means that a command to the Redis at this URL failed, and what to do; without any secret.

    Args:
        url: as it was connected to.
        error: of redis-py, whose text may quote what was sent, or of the system.
        role: of the user that the URL has to name.
    """
    from redis.exceptions import (
        AuthenticationError,
        NoPermissionError,
        OutOfMemoryError,
        ReadOnlyError,
        ResponseError,
    )
    from redis.exceptions import ConnectionError as RedisConnectionError

    parts = urlsplit(url)
    user = unquote(parts.username or "")
    # What is refused while a connection is made comes as a connection that was not made.
    refused = type(error) is RedisConnectionError and isinstance(error.__cause__, AuthenticationError | ResponseError)
    match error.__cause__ if refused else error:
        case AuthenticationError() if not user and parts.password:
            told = "refuses the password in PUTER_REDIS_URL, which names no user"
        case AuthenticationError() if not user:
            told = "wants a user and a password: PUTER_REDIS_URL names none"
        case AuthenticationError():
            told = f"refuses the user {user!r}, or the password, in PUTER_REDIS_URL"
        case NoPermissionError() if role == "worker":
            told = (
                f"does not permit this to the user {user or 'default'!r}: PUTER_REDIS_URL has to name one with "
                "a worker's rights (deploy/add-user worker makes it)"
            )
        case NoPermissionError():
            told = (
                f"does not permit this to the user {user or 'default'!r}: it may use another namespace "
                "(name it with --namespace or PUTER_NAMESPACE), or may only read"
            )
        case OutOfMemoryError():
            told = "is out of memory: give it more, or wait until records run out"
        case ReadOnlyError():
            told = "is a replica that cannot be written to: name its primary in PUTER_REDIS_URL"
        case ResponseError():
            told = f"refused a command ({type(error).__name__})"
        case _:
            told = f"does not answer ({type(error).__name__}): is it running, and is PUTER_REDIS_URL right?"
    return f"Redis at {safe_url(url)} {told}"


def connection_pool(url: str, *, max_connections: int = 64, timeout_s: float = 5.0) -> ConnectionPool:
    """A pool whose commands end within `timeout_s` and survive one lost connection.

    A repeated command may have been carried out before: harmless, for a request appended twice joins itself, and
    every write of a worker is guarded by what it expects to find.
    """
    from redis.asyncio import BlockingConnectionPool
    from redis.asyncio.retry import Retry
    from redis.backoff import ExponentialBackoff
    from redis.exceptions import ConnectionError as RedisConnectionError

    return BlockingConnectionPool.from_url(
        check_url(url),
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
        retry_on_error=[RedisConnectionError],
    )
