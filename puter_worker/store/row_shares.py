"""How much is kept of the requests of one namespace: each leaves a row in its batch, and nobody pays for it.

A day's requests have a limit, and so have the rows of those that are refused: neither fills Redis. A share is counted
in the transaction that writes what counts, and read before it: of transactions that run at the same time, one for each
inbox, all but one may go over it by what they write. It begins anew a day after the first that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.request import MAX_BATCH
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.batches import Batches
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn

DAY_S = 86_400
# What the head of a batch takes, and a line in a timeline, more than they need. Of refused requests only the first get
# a line: the rows of their batch say the same.
BATCH, _LINE = 10, 3
_MOST_FOR_LINES = 15_000


class Kind(msgspec.Struct, frozen=True):
    """What is counted for a day.

    Attributes:
        name: of the key in Redis that counts it for a namespace.
        most: the share. The unit is a row, of some 150 bytes in Redis, at most 500.
    """

    name: Callable[[str], str]
    most: int


# The largest batch has all its rows, and what else counts of it.
REFUSED = Kind(names.refused, MAX_BATCH + 20_000)
# Five of the largest batches, or 45,000 commands that request one machine each.
TAKEN = Kind(names.requested, 5 * MAX_BATCH)


class Share:
    """How much more of one kind is kept of one namespace."""

    def __init__(self, kind: Kind, used: int, known: Iterable[str]) -> None:
        """`used`: so much of the share; `known`: ids of batches that are there already."""
        self._kind = kind
        self._before = used
        self._used = used
        self._known = set(known)

    @property
    def more(self) -> int:
        """How much was taken of it."""
        return self._used - self._before

    def has_row(self, batch_id: str) -> bool:
        """Take the place of a row, if there is one."""
        needed = 1 if batch_id in self._known else 1 + BATCH
        if self._used + needed > self._kind.most:
            return False
        self._known.add(batch_id)
        self._used += needed
        return True

    def has_line(self) -> bool:
        """Take the place of a line in a timeline, if there is one."""
        if self._used + _LINE > _MOST_FOR_LINES:
            return False
        self._used += _LINE
        return True

    def count(self, txn: Txn, namespace: str) -> None:
        """Count what was taken of it."""
        if self.more:
            name = self._kind.name(namespace)
            txn.do("INCRBY", name, self.more)
            txn.keep(name, DAY_S, only_new=True)


class RowShares:
    """Reads shares, and writes the rows of refused requests."""

    def __init__(self, db: Database, batches: Batches) -> None:
        self._db = db
        self._batches = batches

    async def taken(self, namespace: str, known: Iterable[str]) -> Share:
        """What is left of the requests that are taken; `known`: ids of batches that are there already."""
        return Share(TAKEN, int(await self._db.redis.get(names.requested(namespace)) or 0), known)

    async def refused(self, namespace: str, batch_ids: Iterable[str]) -> Share:
        """What is left for requests that are refused; `batch_ids`: the batches of those that are refused now."""
        distinct = list(dict.fromkeys(batch_ids))
        async with self._db.redis.pipeline(transaction=False) as pipe:
            pipe.get(names.refused(namespace))
            for batch_id in distinct:
                pipe.hexists(public.batch(namespace, batch_id), public.BATCH_INFO)
            used, *known = await pipe.execute()
        there = (one for one, is_known in zip(distinct, known, strict=True) if is_known)
        return Share(REFUSED, int(used or 0), there)

    def put_refused(self, txn: Txn, key: PuterKey, info: BatchInfo, row: BatchRow) -> None:
        """Keep the row of a refused request for a day; its batch is kept for longer if anything else is in it."""
        self._batches.put(txn, info, only_for_s=DAY_S)
        self._batches.put_row(txn, key, info.batch_id, row)
