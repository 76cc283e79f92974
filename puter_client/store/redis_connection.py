"""The connection to Redis, the same for clients and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote, urlsplit

from puter_client.contract.errors import InvalidInput

if TYPE_CHECKING:
    from redis.asyncio import ConnectionPool

SCHEMES = ("redis", "rediss", "unix")
URL_VARIABLE = "PUTER_REDIS_URL"


def check_url(url: str, *, named_by: str = URL_VARIABLE) -> str:
    """The URL itself, if it is one of a Redis; the error does not show it, since it may hold a password.

    `named_by`: the setting that holds it, for the error.

    Raises:
        InvalidInput: it is not a redis://, rediss:// or unix:// URL.
    """
    try:
        parts = urlsplit(url)
        fine = parts.scheme in SCHEMES and bool(parts.path if parts.scheme == "unix" else parts.hostname)
        _ = parts.port if parts.scheme != "unix" else None
    except ValueError:
        fine = False
    if not fine:
        raise InvalidInput(
            "is not a Redis URL: write redis://host:6379/0, rediss://… or unix:///path", subject=named_by
        )
    return url


def safe_url(url: str) -> str:
    """The URL without user, password and query, safe to show."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def why_refused(
    url: str, error: Exception, role: Literal["client", "worker"] = "client", *, named_by: str = URL_VARIABLE
) -> str:
    """Why a command to the Redis at this URL failed, and what to do; contains no secret.

    Args:
        url: URL of the connection.
        error: of redis-py or of the system; its text is not used, since it may quote what was sent.
        role: of the user that the URL must name.
        named_by: the setting that holds the URL.
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
    # redis-py reports a refusal during the connection as a ConnectionError caused by it.
    refused = type(error) is RedisConnectionError and isinstance(error.__cause__, AuthenticationError | ResponseError)
    match error.__cause__ if refused else error:
        case AuthenticationError() if not user and parts.password:
            told = f"refuses the password: {named_by} names no user"
        case AuthenticationError() if not user:
            told = f"requires a user and a password: add them to {named_by}"
        case AuthenticationError():
            told = f"refuses the user {user!r} or the password: check {named_by}"
        case NoPermissionError() if role == "worker":
            told = (
                f"does not permit this to user {user or 'default'!r}: {named_by} must name a user with "
                "a worker's rights (deploy/add-user worker creates it)"
            )
        case NoPermissionError():
            told = (
                f"does not permit this to user {user or 'default'!r}: perhaps the user has another namespace "
                "(set --namespace or PUTER_NAMESPACE), or may only read"
            )
        case OutOfMemoryError():
            told = "is out of memory: raise its maxmemory, or wait until old records expire"
        case ReadOnlyError():
            told = f"is a read-only replica: name its primary in {named_by}"
        case ResponseError():
            told = f"refused a command ({type(error).__name__})"
        case _:
            told = f"does not answer ({type(error).__name__}): check that it runs and that {named_by} is right"
    return f"Redis at {safe_url(url)} {told}"


def connection_pool(url: str, *, max_connections: int = 64, timeout_s: float = 5.0) -> ConnectionPool:
    """A pool whose commands end within `timeout_s` and survive one lost connection.

    A repeated command may have been executed before. That is harmless: a request appended twice joins itself, and
    every write of a worker is guarded by the revision that it expects.
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
