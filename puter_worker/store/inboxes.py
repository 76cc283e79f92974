"""Inboxes: what clients append, and what of it waits for EC2's word."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from redis.exceptions import ResponseError

from puter_client.contract.key import PuterKey
from puter_client.contract.wish import MAX_WISH_BYTES
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.base import KEEP_S
from puter_worker.store.queue import RESTART_AFTER_S, Queue
from puter_worker.store.txn import Txn

_log = structlog.get_logger("puter.store")
TAKE_WISHES = 500
TAKE_BYTES = 1_000_000
TAKING_MS = 2_000


class Inboxes(Queue):
    """Inboxes, their bell, and parked wishes."""

    async def rung(self) -> list[str]:
        """Namespaces whose inbox may hold something; clients write them: what is no UTF-8 is in surrogates."""
        try:
            raws = await self.redis.smembers(public.BELL)
        except ResponseError:
            # Somebody made it another type of key, which would stop all; inboxes ring again with the next wish.
            _log.error("bell.removed", why="it was no set")
            await self.redis.unlink(public.BELL)
            return []
        return [raw.decode(errors="surrogateescape") for raw in raws]

    async def silence(self, namespace: str) -> None:
        """Take a namespace off the bell, whatever its inbox holds."""
        await self.redis.srem(public.BELL, namespace.encode(errors="surrogateescape"))

    async def unring(self, namespace: str) -> None:
        """Take a namespace off the bell if its inbox is empty."""
        await self.scripts.unring(keys=[public.inbox(namespace), public.BELL], args=[namespace])

    async def take(self, namespace: str) -> tuple[list[bytes], bytes | None]:
        """The head of an inbox, left where it is: at most 500 wishes and about 1 MB; too large ones are empty.

        Returns them with the count of takings on which `put_taken` must rest; nothing while another
        intake is at it.
        """
        count, *wishes = await self.scripts.take(
            keys=[public.inbox(namespace), names.taking(namespace), names.TAKEN],
            args=[TAKE_WISHES, TAKE_BYTES, MAX_WISH_BYTES, namespace, TAKING_MS],
        )
        return wishes, count or None

    async def give_back(self, namespace: str) -> None:
        """What was taken stays in the inbox, for anyone to take."""
        await self.redis.unlink(names.taking(namespace))

    def put_taken(self, txn: Txn, namespace: str, count: bytes | None, wishes: int) -> None:
        """Trim what was taken; of two intakes that read the same wishes, the second one's transaction fails."""
        txn.expect(names.TAKEN, namespace, count)
        txn.do("HINCRBY", names.TAKEN, namespace, 1)
        txn.keep(names.TAKEN, KEEP_S)
        txn.do("LTRIM", public.inbox(namespace), wishes, -1)
        txn.do("UNLINK", names.taking(namespace))

    def park(self, txn: Txn, key: PuterKey, wish: bytes, now: float) -> None:
        """Keep a wish with its key until EC2 has confirmed the key's record; its station runs now."""
        txn.do("RPUSH", names.parked(key), wish)
        txn.keep(names.parked(key), KEEP_S)
        txn.do("ZADD", names.PARKED, now + RESTART_AFTER_S, str(key))
        txn.keep(names.PARKED, KEEP_S)
        self.enqueue(txn, key)

    def put_unparked(self, txn: Txn, key: PuterKey, wishes: Sequence[bytes], *, rest: bool) -> None:
        """Trim what was settled of the key's parked wishes, if none was settled by somebody else.

        `rest`: whether there are more.
        """
        if rest:
            txn.expect_head(names.parked(key), wishes[0])
        else:
            txn.expect_length(names.parked(key), len(wishes))
            txn.do("ZREM", names.PARKED, str(key))
        txn.do("LTRIM", names.parked(key), len(wishes), -1)

    async def parked(self, key: PuterKey) -> tuple[list[bytes], bool]:
        """Wishes that wait until EC2 has confirmed the key's record, some at a time; and whether there are more."""
        wishes: list[bytes] = await self.redis.lrange(names.parked(key), 0, TAKE_WISHES)
        return wishes[:TAKE_WISHES], len(wishes) > TAKE_WISHES
