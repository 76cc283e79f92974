"""The connection to Redis, the same for clients and workers."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

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
            "PUTER_REDIS_URL is no address of a Redis: write redis://host:6379/0, rediss://… or unix:///path"
        )
    return url


def safe_url(url: str) -> str:
    """The URL as it may be shown: without user, password and query."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return f"unix://{parts.path}"
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def connection_pool(url: str, *, max_connections: int = 64, timeout_s: float = 5.0) -> ConnectionPool:
    """A pool whose commands end within `timeout_s` and survive one lost connection.

    A repeated command may have been carried out before: harmless, for a wish appended twice joins itself, and
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
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), 2),
        retry_on_error=[RedisConnectionError],
    )
