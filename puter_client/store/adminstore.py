"""What the administrator of a shared Redis asks of it about its users."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from puter_client.contract.errors import NotPermitted, PuterError, StoreUnavailable
from puter_client.store import names
from puter_client.store.redis_connection import check_url, connection_pool
from puter_client.store.redis_errors import is_not_let_in, is_not_permitted, why_refused

if TYPE_CHECKING:
    from redis.asyncio import Redis

ADMIN_URL_VARIABLE = "PUTER_ADMIN_REDIS_URL"
TIMEOUT_S = 10.0
"""How long an answer is waited for, with all attempts: a busy host takes seconds, and nobody is served by giving up."""
# What ACL LOAD says is wrong with a line, as in the source of Valkey 9 (src/acl.c).
_PROBLEMS = (
    "should start with user keyword",
    "Unknown command or category name in ACL",
    "Syntax error",
    "Duplicate user",
)


class UsersRefused(PuterError):
    """Redis does not take the users that are in its file."""


class NotSignedIn(StoreUnavailable):
    """Redis does not take the user or the password."""


class AdminStore:
    """A connection of the user `admin`.

    Every method raises StoreUnavailable if Redis does not answer, or refuses: NotSignedIn if it does not take the user
    or the password, NotPermitted if the user may not do this; then nothing of it was done.
    """

    def __init__(self, redis: Redis, url: str, *, url_from: str) -> None:
        self._redis: Any = redis
        self._url = url
        self._url_from = url_from

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str, *, url_from: str = ADMIN_URL_VARIABLE) -> AsyncIterator[AdminStore]:
        """A store on the Redis at `url`, open while inside. `url_from`: what errors call the URL.

        Raises:
            InvalidInput: it is not the URL of a Redis.
        """
        from redis.asyncio import Redis

        pool = connection_pool(check_url(url, named_by=url_from), max_connections=2, timeout_s=TIMEOUT_S)
        redis = Redis(connection_pool=pool)
        try:
            yield cls(redis, url, url_from=url_from)
        finally:
            await redis.aclose()
            await pool.disconnect()

    @asynccontextmanager
    async def _asked(self) -> AsyncIterator[Any]:
        from redis.exceptions import RedisError

        try:
            async with asyncio.timeout(TIMEOUT_S):  # for all attempts: redis-py makes another one after its own limit
                yield self._redis
        except (RedisError, OSError) as error:
            why = why_refused(self._url, error, "admin", named_by=self._url_from)
            if is_not_let_in(error):
                raise NotSignedIn(why) from None
            raise (NotPermitted if is_not_permitted(error) else StoreUnavailable)(why) from None

    async def version(self) -> tuple[int, int]:
        """The version of Redis whose commands it has, which a Valkey says too."""
        async with self._asked() as redis:
            text = str((await redis.info("server")).get("redis_version", "0.0"))
        major, minor, *_ = [int(part) if part.isdigit() else 0 for part in [*text.split("."), "0"]]
        return major, minor

    async def users(self) -> set[str]:
        """The names of its users."""
        async with self._asked() as redis:
            return {name if isinstance(name, str) else _text(name) for name in await redis.acl_users()}

    async def passwords(self, user: str) -> set[str]:
        """The hashes of a user's passwords, each SHA-256 in hexadecimal; empty if there is no such user."""
        async with self._asked() as redis:
            found = await redis.acl_getuser(user)
        return {password.lstrip("#") for password in found["passwords"]} if found else set()

    async def file(self) -> str:
        """The path of the file from which it reads its users, as it sees it; empty if it reads none."""
        async with self._asked() as redis:
            found = await redis.config_get("aclfile")
        return str(found.get("aclfile", ""))

    async def load(self) -> None:
        """Have Redis read its file of users again; connections of users that are gone end.

        Redis 7.0 ends the connections of all users but `default`, this one too: they are made anew by themselves.

        Raises:
            UsersRefused: Redis does not take what is in the file, and keeps the users that it has.
        """
        from redis.exceptions import ResponseError

        async with self._asked() as redis:
            try:
                await redis.acl_load()
            except ResponseError as error:
                told = _what_is_wrong(str(error))
                if told is None:
                    raise
                raise UsersRefused(told) from None

    async def end_connections(self, user: str) -> None:
        """End the connections of a user, who may sign in again."""
        async with self._asked() as redis:
            await redis.execute_command("CLIENT KILL", "USER", user)

    async def waiting(self, inbox: str) -> int:
        """How many requests are in an inbox that no worker has taken."""
        async with self._asked() as redis:
            return int(await redis.llen(names.inbox(inbox)))


def _what_is_wrong(answer: str) -> str | None:
    """What ACL LOAD says of the file, without the words of a line, which may be a password; None: something else."""
    if "not configured to use an ACL file" in answer:
        return "it has no file of users: set aclfile in its configuration, and restart it"
    if "no change to the previously active ACL rules" not in answer and "ACL file" not in answer:
        return None
    line = re.search(r"(?::| line )(\d+)\b", answer)
    why = next((words for words in _PROBLEMS if words in answer), "it cannot be used")
    return f"line {line[1]}: {why}" if line else why


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")
