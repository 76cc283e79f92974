"""Requests: those that clients append to inboxes, and those parked until EC2 has confirmed their key's record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import structlog
from redis.exceptions import ResponseError

from puter_client.contract.inbox import LONGEST, Inbox
from puter_client.contract.key import PuterKey
from puter_client.contract.request import MAX_REQUEST_BYTES
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.database import Database, is_wrong_type
from puter_worker.store.due_items import DueItems
from puter_worker.store.txn import Txn

_log = structlog.get_logger("puter.store")
TAKE_REQUESTS = 500
TAKE_BYTES = 1_000_000
# Some 50,000 ordinary requests; 1/32 of the memory that deploy/redis.conf allows.
INBOX_BYTES = 32_000_000
# Each may have MAX_REQUEST_BYTES.
PARKED_AT_ONCE = 20
# A few ms of Redis's time. A host with more inboxes than this looks at the others in the next runs.
READY_AT_ONCE = 1_000
# Names of inboxes never reach it: it bounds what is copied of long names that are none.
READY_BYTES = 1_000_000
# Each SCAN takes some 0.5 ms of Redis's time, whatever it finds.
SCANS, SCANNED_AT_ONCE = 10, 1_000


class Ready(NamedTuple):
    """A part of the ready set.

    Attributes:
        names: those with requests. Clients write them: bytes that are not UTF-8 are surrogates.
        empty: how many names without requests were removed.
        too_long: how many names were removed that are longer than an inbox's can be.
        cursor: where the next part begins; 0: this was the last one.
    """

    names: Sequence[str] = ()
    empty: int = 0
    too_long: int = 0
    cursor: int = 0


class Requests:
    """Inboxes, the ready set, and parked requests.

    Attributes:
        parked_keys: keys with parked requests, by the time at which their job runs again.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.parked_keys = DueItems(db, names.PARKED, topic=None, longest_s=db.timings.unclaimed_s)

    async def ready(self, cursor: int = 0) -> Ready:
        """Read a part of the ready set, and remove names from it that nobody waits under.

        `cursor`: that of the part before; 0 begins anew.
        """
        try:
            raws, empty, too_long, after = await self._db.scripts.ready(
                public.READY,
                cursor,
                most=READY_AT_ONCE,
                most_bytes=READY_BYTES,
                longest=LONGEST,
                inbox_prefix=public.inbox(""),
            )
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            # A client made it a key of another type, which would stop every intake. The next request makes it again.
            _log.error("ready_set.removed", why="it was not a set")
            await self._db.redis.unlink(public.READY)
            return Ready()
        return Ready([raw.decode(errors="surrogateescape") for raw in raws], empty, too_long, after)

    async def inboxes(self, cursor: int = 0) -> tuple[list[str], int]:
        """Names of inboxes with requests, whether or not the ready set has them, and the cursor of the next part.

        A part is what SCAN finds under some 10,000 of all names in Redis; a cursor of 0 begins, and ends, the look.
        """
        found: dict[str, None] = {}
        prefix = public.inbox("")
        for _ in range(SCANS):
            cursor, raws = await self._db.redis.scan(
                cursor, match=public.inbox("*"), count=SCANNED_AT_ONCE, _type="list"
            )
            found |= dict.fromkeys(raw.decode(errors="surrogateescape").removeprefix(prefix) for raw in raws)
            if not cursor:
                break
        return list(found), int(cursor)

    async def drop_ready(self, name: str) -> None:
        """Remove a name from the ready set, whatever the inbox of that name holds."""
        await self._db.redis.srem(public.READY, name.encode(errors="surrogateescape"))

    async def take(self, inbox: Inbox, *, most: int = TAKE_REQUESTS) -> tuple[list[bytes], bytes | None]:
        """Read the head of an inbox and leave it there: so many requests, and their share of 1 MB, but at least one.

        Requests that are too large are empty.

        Returns the requests, and how often the inbox was taken from, which `put_taken` needs as its guard. There are
        no requests while another intake reads the inbox.
        """
        return await self._db.scripts.take(
            [public.inbox(str(inbox)), names.taking(str(inbox)), names.TAKEN],
            most=most,
            most_bytes=TAKE_BYTES * most // TAKE_REQUESTS,
            largest=MAX_REQUEST_BYTES,
            inbox=str(inbox),
            for_ms=int(self._db.timings.taking_s * 1000),
        )

    async def cut(self, inbox: Inbox) -> int:
        """Drop the newest requests of an inbox that takes more than INBOX_BYTES of memory; returns how many.

        For a Redis that is almost full: what one client appends must not keep all others from writing.
        """
        return await self._db.scripts.cut(public.inbox(str(inbox)), most_bytes=INBOX_BYTES)

    async def give_back(self, inbox: Inbox) -> None:
        """End the reading of an inbox: its requests stay there, and any intake may read them."""
        await self._db.redis.unlink(names.taking(str(inbox)))

    def put_taken(self, txn: Txn, inbox: Inbox, count: bytes | None, requests: int) -> None:
        """Trim the requests that were read; if two intakes have read the same ones, the second transaction fails."""
        txn.expect(names.TAKEN, str(inbox), count)
        txn.do("HINCRBY", names.TAKEN, str(inbox), 1)
        txn.keep(names.TAKEN, self._db.timings.keep_s)
        txn.do("LTRIM", public.inbox(str(inbox)), requests, -1)
        txn.do("UNLINK", names.taking(str(inbox)))

    def park(self, txn: Txn, key: PuterKey, request: bytes, now: float) -> None:
        """Keep a request with its key until EC2 has confirmed the key's record; later the key's job sees to that."""
        txn.do("RPUSH", names.parked(key), request)
        txn.keep(names.parked(key), self._db.timings.keep_s)
        self.parked_keys.add(txn, str(key), now + self._db.timings.restart_s)

    async def parked(self, key: PuterKey, *, most: int | None = None, after: int = 0) -> tuple[list[bytes], bool]:
        """The key's oldest parked requests, at most PARKED_AT_ONCE or `most`, and whether there are more.

        `after`: leave out so many of the oldest.
        """
        most = PARKED_AT_ONCE if most is None else min(most, PARKED_AT_ONCE)
        requests: list[bytes] = await self._db.redis.lrange(names.parked(key), after, after + most)
        return requests[:most], len(requests) > most

    async def parked_counts(self, keys: Sequence[PuterKey]) -> dict[PuterKey, int]:
        """How many requests each key has parked."""
        async with self._db.redis.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.llen(names.parked(key))
            return dict(zip(keys, await pipe.execute(), strict=True))

    def expect_none_parked(self, txn: Txn, key: PuterKey) -> None:
        """Guard: the key has no parked requests."""
        txn.expect_length(names.parked(key), 0)

    def remove_parked(self, txn: Txn, key: PuterKey, requests: Sequence[bytes], *, rest: bool) -> None:
        """Trim the key's parked requests that were decided, if no other worker has decided any of them.

        `rest`: whether more are parked.
        """
        if rest:
            txn.expect_head(names.parked(key), requests[0])
        else:
            txn.expect_length(names.parked(key), len(requests))
            self.parked_keys.remove(txn, str(key))
        txn.do("LTRIM", names.parked(key), len(requests), -1)
