"""How much is kept of requests: each leaves a row in its batch for a month, and nobody pays for it.

A user's requests of a day have a limit in each namespace, and so have a namespace's rows of those that are refused: to
fill Redis with them takes days in which the metrics tell of it, not minutes. A share is counted in the transaction that
writes what counts, and read before it: of transactions that run at the same time, one for each inbox, all but one may
go over it by what they write. It begins anew a day after the first that counts.
"""

from __future__ import annotations

from collections.abc import Iterable

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.request import MAX_BATCH
from puter_worker.store import names
from puter_worker.store.batches import Batches, Known
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn

DAY_S = 86_400
# What the head of a batch takes, and a line in a timeline. Of refused requests only the first get a line: the rows of
# their batch say the same. The unit is a row: some 200 bytes in Redis, 600 if it says that all was requested otherwise.
BATCH, _LINE = 4, 3
_MOST_FOR_LINES = 15_000
# The largest batch has all its rows, and what else counts of it.
MOST_REFUSED = MAX_BATCH + 20_000
# Five of the largest batches, or 100,000 commands that request one machine each.
MOST_TAKEN = 5 * MAX_BATCH + 20_000


class Share:
    """How much more is kept of what is counted under one name."""

    def __init__(self, name: str, most: int, used: int, known: Known) -> None:
        """`name`: of the counter in Redis; `used`: what it says; `known`: what is there, which costs nothing."""
        self._name = name
        self._most = most
        self._before = used
        self._used = used
        self._rows = known.rows
        self._batches = set(known.batches)

    @property
    def more(self) -> int:
        """How much was taken of it."""
        return self._used - self._before

    def has_row(self, batch_id: str, tag: str) -> bool:
        """Take the place of a row, if there is one."""
        if (batch_id, tag) in self._rows:
            return True
        needed = 1 if batch_id in self._batches else 1 + BATCH
        if self._used + needed > self._most:
            return False
        self._batches.add(batch_id)
        self._used += needed
        return True

    def has_line(self) -> bool:
        """Take the place of a line in a timeline, if there is one."""
        if self._used + _LINE > _MOST_FOR_LINES:
            return False
        self._used += _LINE
        return True

    def count(self, txn: Txn) -> None:
        """Count what was taken of it."""
        if self.more:
            txn.do("INCRBY", self._name, self.more)
            txn.keep(self._name, DAY_S, only_new=True)


class RowShares:
    """Reads shares, and writes the rows of refused requests."""

    def __init__(self, db: Database, batches: Batches) -> None:
        self._db = db
        self._batches = batches

    async def taken(self, namespace: str, user: str | None, known: Known) -> Share:
        """What is left of a user's requests in a namespace; `user`: None if Redis vouches for nobody."""
        return await self._share(names.requested(namespace, user or ""), MOST_TAKEN, known)

    async def refused(self, namespace: str, rows: Iterable[tuple[str, str]]) -> Share:
        """What is left for requests that are refused; `rows`: batch ids and tags of those that are refused now."""
        known = await self._batches.known(namespace, rows)
        return await self._share(names.refused(namespace), MOST_REFUSED, known)

    async def _share(self, name: str, most: int, known: Known) -> Share:
        return Share(name, most, int(await self._db.redis.get(name) or 0), known)

    def put_refused(self, txn: Txn, key: PuterKey, info: BatchInfo, row: BatchRow) -> None:
        """Keep the row of a refused request for a day; its batch is kept for longer if anything else is in it."""
        self._batches.put(txn, info, only_for_s=DAY_S)
        self._batches.put_row(txn, key, info.batch_id, row)
