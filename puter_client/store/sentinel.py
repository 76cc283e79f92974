"""Connections to the primary of a Redis that fails over: its Sentinels say which server that is.

A connection is made to the server that the Sentinels name, and used only if that server itself says that it is the
primary: one that comes back after a failover takes itself for it until the Sentinels have told it otherwise. So nothing
is read from a replica. When the primary becomes a replica, its connections are closed by the Sentinels, or refuse
writes; both make the next command ask again where the primary is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any, cast

from redis.asyncio import SSLConnection
from redis.asyncio.connection import Connection
from redis.asyncio.sentinel import Sentinel, SentinelManagedConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from puter_client.store.pool import LivePool

ASK_S = 1.0  # limit for the answer of a Sentinel
Address = tuple[str, int]


class NoPrimary(RedisConnectionError):
    """It is not known where the primary is.

    Attributes:
        why: what is known of it.
    """

    def __init__(self, why: Why) -> None:
        super().__init__(why.value)
        self.why = why


class Why(StrEnum):
    """Why it is not known where a primary is."""

    SILENT = "none of its Sentinels answers"
    UNKNOWN = "its Sentinels know no primary of that name"
    DOWN = "its Sentinels say that the primary is down"
    REPLICA = "the server that its Sentinels name is a replica"


def primary_of(states: Sequence[Mapping[str, Any] | None]) -> Address:
    """Where the primary is, by what Sentinels say of it; None: one does not know its name. Pure.

    Of several the latest is right: each failover raises `config-epoch`.

    Raises:
        NoPrimary: they do not say.
    """
    known = [state for state in states if state is not None]
    up = [state for state in known if state["is_master"] and not (state["is_sdown"] or state["is_odown"])]
    if not up:
        raise NoPrimary(Why.DOWN if known else Why.UNKNOWN if states else Why.SILENT)
    latest = max(up, key=lambda state: int(state["config-epoch"]))
    return str(latest["ip"]), int(latest["port"])


class Primary(Sentinel):
    """Finds the primary of one service.

    Attributes:
        latest: where it was found last; connections to another server are not used any more.
        is_master, check_connection: as redis-py's connections ask for them.
    """

    is_master = True
    check_connection = False

    def __init__(self, sentinels: Sequence[Address], service: str, **arguments: Any) -> None:
        """`arguments`: of connections to the Sentinels."""
        limits = {"socket_timeout": ASK_S, "socket_connect_timeout": ASK_S}
        options = {**arguments, **limits, "lib_name": None, "lib_version": None}
        super().__init__(sentinels, sentinel_kwargs=options)  # type: ignore[no-untyped-call]
        self._service = service
        self._finding: asyncio.Task[Address] | None = None
        self.latest: Address | None = None

    async def find(self) -> Address:
        """Where the primary is now; those who ask at the same time share the question.

        Raises:
            RedisError: it cannot be found out.
        """
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self.discover_master(self._service))
            self._finding.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may wait for it
        self.latest = await asyncio.shield(self._finding)
        return self.latest

    async def discover_master(self, service_name: str) -> Address:
        """Where the primary is, as most Sentinels say. A Sentinel alone may be cut off from the others.

        Raises:
            RedisError: they do not say, or refuse to.
        """
        asked = [asyncio.create_task(_state(sentinel, service_name)) for sentinel in self.sentinels]
        states: list[Mapping[str, Any] | None] = []
        refusals: list[Exception] = []
        try:
            for answer in asyncio.as_completed(asked):
                try:
                    states.append(await answer)
                except (RedisError, OSError) as error:
                    refusals.append(error)
                if len(states) > len(asked) // 2:
                    break
            if not states and refusals:
                raise NoPrimary(Why.SILENT) from refusals[0]
            return primary_of(states)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def aclose(self) -> None:
        """Close the connections to the Sentinels."""
        if self._finding is not None:
            self._finding.cancel()
        for sentinel in self.sentinels:
            await sentinel.connection_pool.disconnect()


async def _state(sentinel: Any, service: str) -> Mapping[str, Any] | None:
    async with asyncio.timeout(ASK_S):
        states = await sentinel.sentinel_masters()
    return cast("Mapping[str, Any] | None", states.get(service))


class PrimaryConnection(SentinelManagedConnection):
    """A connection to the primary; redis-py's makes a ConnectionError of a refused write, so that it is tried again."""

    connection_pool: Primary

    async def connect(self) -> None:
        """Connect to where the primary is now; a connection to where it was before is given up."""
        if self.is_connected and (self.host, self.port) == self.connection_pool.latest:
            return
        await self.disconnect(nowait=True)
        try:
            async with asyncio.timeout(self.socket_connect_timeout):
                await self.retry.call_with_retry(self._connect_to_primary, _try_again)
        except TimeoutError:
            raise RedisTimeoutError("Timeout connecting to server") from None

    async def _connect_to_primary(self) -> None:
        self.host, self.port = await self.connection_pool.find()
        connect: Any = Connection.connect
        await connect(self)

    async def on_connect(self) -> None:
        """Sign in, and make sure that this is the primary: HELLO needs no right, and says so."""
        await super().on_connect()
        await self.send_command("HELLO", check_health=False)
        answer = iter(cast("Sequence[Any]", await self.read_response()))
        if dict(zip(answer, answer, strict=True)).get(b"role") != b"master":
            raise NoPrimary(Why.REPLICA)


class PrimaryTlsConnection(PrimaryConnection, SSLConnection):
    """The same over TLS."""


async def _try_again(error: RedisError) -> None:
    """Before the next attempt: there is none where it would hear the same."""
    if isinstance(error, NoPrimary) and error.why in (Why.SILENT, Why.UNKNOWN):
        raise error


class PrimaryPool(LivePool):
    """A pool of connections to the primary."""

    def __init__(self, primary: Primary, *, tls: bool, **arguments: Any) -> None:
        self._primary = primary
        super().__init__(
            connection_class=PrimaryTlsConnection if tls else PrimaryConnection, connection_pool=primary, **arguments
        )

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections, also those to the Sentinels, which are made again when they are needed."""
        await super().disconnect(inuse_connections)
        await self._primary.aclose()
