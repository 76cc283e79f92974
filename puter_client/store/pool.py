"""The pool of connections of clients and workers, which goes on with those that it has if Redis accepts no others."""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import BlockingConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

# What redis-py tells of a connection that the server has closed at once, as it does beyond its maxclients: its reason,
# or, if the connection was closed before the first command was sent, that the command could not be.
_REFUSED = ("max number of clients", "while writing to socket", "closed by server")


class LivePool(BlockingConnectionPool):
    """A pool that uses first what is connected, and waits for it if Redis accepts no further connection.

    redis-py hands out first what was given back last, also a connection that could not be made: with as many clients
    as Redis takes, every command would try that one, and those that live would be closed as idle.
    """

    async def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> AbstractConnection:
        """A connection that can be used.

        Raises:
            RedisError: none can be made, and none of those that live was given back within the pool's `timeout`.
        """
        until = None if self.timeout is None else asyncio.get_running_loop().time() + self.timeout
        while True:
            try:
                connection: AbstractConnection = await super().get_connection()
                return connection
            except RedisConnectionError as error:
                if not any(words in str(error) for words in _REFUSED) or not await self._is_given_back(until):
                    raise

    async def release(self, connection: AbstractConnection) -> None:
        """Give a connection back; one that is not connected is used last."""
        await super().release(connection)
        if not connection.is_connected:
            self._available_connections.remove(connection)
            self._available_connections.insert(0, connection)

    async def _is_given_back(self, until: float | None) -> bool:
        """Wait until a connection that lives can be had; False: none does, or not by then."""
        try:
            async with asyncio.timeout_at(until), self._condition:
                await self._condition.wait_for(lambda: self._is_one_free() or not self._is_one_in_use())
        except TimeoutError:
            return False
        return self._is_one_free()

    def _is_one_free(self) -> bool:
        return any(one.is_connected for one in self._available_connections)

    def _is_one_in_use(self) -> bool:
        return any(one.is_connected for one in self._in_use_connections)
