"""What is kept of refused requests: for a day, and of each namespace no more than its share.

Whoever requests what is refused pays nothing for it, so it must not fill Redis. The share is counted in the transaction
that writes what counts, and read before it: of transactions that run at the same time, one for each inbox, all but one
may go over it by what they write. It begins anew a day after its first refusal.
"""

from __future__ import annotations

from collections.abc import Iterable

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.request import MAX_BATCH
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.batches import Batches
from puter_worker.store.database import Database
from puter_worker.store.txn import Txn

KEPT_S = 86_400
# The unit is a row, of some 500 bytes in Redis. The largest batch has all its rows, and what else counts of it.
SHARE = MAX_BATCH + 20_000
# What the head of a batch takes, and a line in a timeline, more than they need. Only the first requests get a line: the
# rows of their batch say the same.
_BATCH, _LINE = 10, 3
_SHARE_OF_LINES = 15_000


class Share:
    """How much more is kept of the requests of one namespace that are refused."""

    def __init__(self, used: int, known: Iterable[str]) -> None:
        """`used`: so much of the share; `known`: ids of batches that are there already."""
        self._before = used
        self._used = used
        self._known = set(known)

    @property
    def more(self) -> int:
        """How much was taken of it."""
        return self._used - self._before

    def has_row(self, batch_id: str) -> bool:
        """Take the place of a row, if there is one."""
        needed = 1 if batch_id in self._known else 1 + _BATCH
        if self._used + needed > SHARE:
            return False
        self._known.add(batch_id)
        self._used += needed
        return True

    def has_line(self) -> bool:
        """Take the place of a line in a timeline, if there is one."""
        if self._used + _LINE > _SHARE_OF_LINES:
            return False
        self._used += _LINE
        return True


class RefusedRequests:
    """The rows of requests that were refused."""

    def __init__(self, db: Database, batches: Batches) -> None:
        self._db = db
        self._batches = batches

    async def share(self, namespace: str, batch_ids: Iterable[str]) -> Share:
        """What is left of the namespace's share; `batch_ids`: the batches of the requests that are refused now."""
        distinct = list(dict.fromkeys(batch_ids))
        async with self._db.redis.pipeline(transaction=False) as pipe:
            pipe.get(names.refused(namespace))
            for batch_id in distinct:
                pipe.hexists(public.batch(namespace, batch_id), public.BATCH_INFO)
            used, *known = await pipe.execute()
        return Share(int(used or 0), (one for one, is_known in zip(distinct, known, strict=True) if is_known))

    def put_row(self, txn: Txn, key: PuterKey, info: BatchInfo, row: BatchRow) -> None:
        """Keep the row of a refused request; its batch is kept for longer if anything else is in it."""
        self._batches.put(txn, info, only_for_s=KEPT_S)
        self._batches.put_row(txn, key, info.batch_id, row)

    def count(self, txn: Txn, namespace: str, share: Share) -> None:
        """Count what was taken of the share."""
        if share.more:
            txn.do("INCRBY", names.refused(namespace), share.more)
            txn.keep(names.refused(namespace), KEPT_S, only_new=True)
