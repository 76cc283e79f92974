"""Messages that wake stages: they name the topics for which something was written.

A message is a hint to look, never the state itself: a stage that gets no message runs by itself every few seconds.
A transaction names the topics that it writes for; clients publish an empty message when they append requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.database import Database

# Topics that belong to no target.
REQUESTS = "requests"
JOBS = "jobs"
TARGETS = "targets"
MOVING = "moving"
INGRESS = "ingress"
FAILURES = "failures"
LABELS = "labels"
# Sent to all stages when the subscription begins, or begins again: messages may have been missed before.
EVERYTHING = ""
# How long one read of the subscription waits; between two reads, redis-py checks whether the connection works.
QUIET_S = 15.0
# How long the subscription to what clients publish is not made after a message, and after one that many followed.
APART_S, FLOOD_APART_S, FLOOD = 0.02, 0.25, 100


def look_ups(target: str) -> str:
    """Topic: keys of the target are to be looked up."""
    return f"look_ups {target}"


def launches(target: str) -> str:
    """Topic: keys of the target wait for launch, or may be launched sooner than planned."""
    return f"launches {target}"


def intents(target: str) -> str:
    """Topic: intents of the target were opened, or are due to be taken up."""
    return f"intents {target}"


def machines(target: str) -> str:
    """Topic: machines of the target have been launched."""
    return f"machines {target}"


def results(target: str) -> str:
    """Topic: consoles of the target's machines are to be read."""
    return f"results {target}"


def orders(target: str) -> str:
    """Topic: machines of the target have orders."""
    return f"orders {target}"


def consoles(target: str) -> str:
    """Topic: somebody wants to see consoles of the target's machines."""
    return f"consoles {target}"


class Wakeups:
    """The two subscriptions of a worker: to what workers say, and to what clients say.

    They have connections of their own: however much clients publish, no message of workers waits behind it.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def topics(self) -> AsyncIterator[str]:
        """Topics as workers name them, EVERYTHING first. Raises the database's errors when the connection is lost."""
        pubsub: Any = self._db.redis.pubsub()
        async with aclosing(pubsub):
            await pubsub.subscribe(names.WAKE)
            while True:
                message = await _next(pubsub)
                if message["type"] == "subscribe":
                    yield EVERYTHING  # also after redis-py has reconnected by itself
                else:
                    for topic in bytes(message["data"]).decode(errors="replace").split("\n"):
                        yield topic

    async def requests(self) -> AsyncIterator[str]:
        """REQUESTS whenever clients have published, and when the subscription begins. Raises the database's errors.

        Clients may publish without end, and each message costs time to read. So a message ends the subscription, which
        is made anew a moment later; what was published in between is found then.
        """
        pubsub: Any = self._db.redis.pubsub()
        async with aclosing(pubsub):
            while True:
                await pubsub.subscribe(public.READY)
                while (await _next(pubsub))["type"] == "subscribe":
                    yield REQUESTS
                yield REQUESTS
                await pubsub.unsubscribe(public.READY)
                unread = 0
                while (await _next(pubsub))["type"] != "unsubscribe":
                    unread += 1
                    if unread % 20 == 0:
                        await asyncio.sleep(0)  # reading what has come already does not yield to other tasks
                await asyncio.sleep(FLOOD_APART_S if unread > FLOOD else APART_S)


async def _next(pubsub: Any) -> Any:
    """The next message of a subscription."""
    while True:
        # Without a time-out here, the connection's own time-out would end a quiet subscription.
        message = await pubsub.get_message(timeout=QUIET_S)
        if message is not None:
            return message
        await pubsub.connect()  # does nothing, unless the primary is another one now
