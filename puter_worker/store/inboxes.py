"""Inboxes: what clients append, and what of it waits for EC2's word."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from redis.exceptions import ResponseError

from puter_client.contract.key import PuterKey
from puter_client.contract.request import MAX_REQUEST_BYTES
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.base import KEEP_S
from puter_worker.store.queue import RESTART_AFTER_S, Queue
from puter_worker.store.txn import Txn

_log = structlog.get_logger("puter.store")
TAKE_REQUESTS = 500
TAKE_BYTES = 1_000_000
TAKING_MS = 2_000


class Inboxes(Queue):
    """Inboxes, their ready set, and parked requests."""

    async def ready_namespaces(self) -> list[str]:
        """Namespaces whose inbox may hold something; clients write them: what is no UTF-8 is in surrogates."""
        try:
            raws = await self.redis.smembers(public.READY)
        except ResponseError:
            # Somebody made it another type of key, which would stop all; inboxes ring again with the next request.
            _log.error("ready_set.removed", why="it was no set")
            await self.redis.unlink(public.READY)
            return []
        return [raw.decode(errors="surrogateescape") for raw in raws]

    async def drop_ready(self, namespace: str) -> None:
        """Take a namespace off the ready set, whatever its inbox holds."""
        await self.redis.srem(public.READY, namespace.encode(errors="surrogateescape"))

    async def leave_ready(self, namespace: str) -> None:
        """Take a namespace off the ready set if its inbox is empty."""
        await self.scripts.leave_ready(keys=[public.inbox(namespace), public.READY], args=[namespace])

    async def take(self, namespace: str) -> tuple[list[bytes], bytes | None]:
        """The head of an inbox, left where it is: at most 500 requests and about 1 MB; too large ones are empty.

        Returns them with the count of takings on which `put_taken` must rest; nothing while another
        intake is at it.
        """
        count, *requests = await self.scripts.take(
            keys=[public.inbox(namespace), names.taking(namespace), names.TAKEN],
            args=[TAKE_REQUESTS, TAKE_BYTES, MAX_REQUEST_BYTES, namespace, TAKING_MS],
        )
        return requests, count or None

    async def give_back(self, namespace: str) -> None:
        """What was taken stays in the inbox, for anyone to take."""
        await self.redis.unlink(names.taking(namespace))

    def put_taken(self, txn: Txn, namespace: str, count: bytes | None, requests: int) -> None:
        """Trim what was taken; of two intakes that read the same requests, the second one's transaction fails."""
        txn.expect(names.TAKEN, namespace, count)
        txn.do("HINCRBY", names.TAKEN, namespace, 1)
        txn.keep(names.TAKEN, KEEP_S)
        txn.do("LTRIM", public.inbox(namespace), requests, -1)
        txn.do("UNLINK", names.taking(namespace))

    def park(self, txn: Txn, key: PuterKey, request: bytes, now: float) -> None:
        """Keep a request with its key until EC2 has confirmed the key's record; its stage runs now."""
        txn.do("RPUSH", names.parked(key), request)
        txn.keep(names.parked(key), KEEP_S)
        txn.do("ZADD", names.PARKED, now + RESTART_AFTER_S, str(key))
        txn.keep(names.PARKED, KEEP_S)
        self.enqueue(txn, key)

    def put_unparked(self, txn: Txn, key: PuterKey, requests: Sequence[bytes], *, rest: bool) -> None:
        """Trim what was settled of the key's parked requests, if none was settled by somebody else.

        `rest`: whether there are more.
        """
        if rest:
            txn.expect_head(names.parked(key), requests[0])
        else:
            txn.expect_length(names.parked(key), len(requests))
            txn.do("ZREM", names.PARKED, str(key))
        txn.do("LTRIM", names.parked(key), len(requests), -1)

    async def parked(self, key: PuterKey) -> tuple[list[bytes], bool]:
        """Requests that wait until EC2 has confirmed the key's record, some at a time; and whether there are more."""
        requests: list[bytes] = await self.redis.lrange(names.parked(key), 0, TAKE_REQUESTS)
        return requests[:TAKE_REQUESTS], len(requests) > TAKE_REQUESTS
