"""A client's subscription to what changes in its namespace."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from puter_client.store import names
from puter_client.store.answer_limit import answer_limit
from puter_client.store.outage import Outages

if TYPE_CHECKING:
    from redis.asyncio import Redis


class Changes:
    """A subscription to a namespace's channel: a hint to read again, never the state itself."""

    def __init__(self, redis: Redis, namespace: str, outages: Outages) -> None:
        self._redis = redis
        self._channel = names.channel(namespace)
        self._outages = outages
        self._pubsub: Any = None

    async def wait(self, timeout_s: float) -> set[str] | None:
        """Tags that have changed, as soon as there is one; an empty set after `timeout_s`.

        None: the subscription was lost and made anew, so anything may have changed meanwhile.
        """
        from redis.exceptions import RedisError

        try:
            async with answer_limit(timeout_s + self._outages.answer_s):  # it may have to connect again
                return await self._read(timeout_s)
        except (RedisError, OSError) as error:
            await self.close()
            await self._outages.pause(error)
            await self.subscribe()
            return None

    async def _read(self, timeout_s: float) -> set[str] | None:
        changed: set[str] = set()
        await self._pubsub.connect()  # does nothing, unless the primary is another one now
        message = await self._pubsub.get_message(timeout=timeout_s)
        while message is not None:
            if message["type"] == "subscribe":  # redis-py has connected again
                return None
            changed.add(bytes(message["data"]).decode(errors="replace"))
            message = await self._pubsub.get_message(timeout=0.0)
        return changed

    async def subscribe(self) -> None:
        """Subscribe; what changes from now on is not missed."""
        await self._outages.ask(self._subscribe)

    async def _subscribe(self) -> None:
        await self.close()  # of an attempt before
        self._pubsub = self._redis.pubsub()
        await self._pubsub.subscribe(self._channel)
        while (await self._pubsub.get_message(timeout=None))["type"] != "subscribe":
            pass

    async def close(self) -> None:
        """End the subscription."""
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is None:
            return
        if pubsub.connection is not None:
            await pubsub.connection.disconnect(nowait=True)  # a server that hangs would not close it
        await pubsub.aclose()


@asynccontextmanager
async def changes(redis: Redis, namespace: str, outages: Outages) -> AsyncIterator[Changes]:
    """A subscription, open while inside."""
    subscription = Changes(redis, namespace, outages)
    try:
        await subscription.subscribe()
        yield subscription
    finally:
        await subscription.close()
