"""The rows of one transaction's requests, in their batches: which are there, and what is kept of each that comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.request import UpRequest
from puter_worker.store.row_shares import BATCH, MOST_TAKEN, Share
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn

TOO_MANY = (
    f"requests: {MOST_TAKEN:,} are taken of a user in a namespace within a day (the first of a batch counts as "
    f"{1 + BATCH}), and this is one more: request it again a day after the first of them"
)
_MOST_TEXT = 400


class _Refused(msgspec.Struct, frozen=True):
    key: PuterKey
    info: BatchInfo
    why: str
    put_line: Callable[[Txn, str], None] | None


class Rows:
    """Rows of one namespace. What is refused waits until the transaction is written: it is decided for all at once."""

    def __init__(self, store: Store, namespace: str, user: str | None) -> None:
        """`user`: who sent the requests, if Redis vouches for it."""
        self._store = store
        self._namespace = namespace
        self._user = user
        self._known: set[tuple[str, str]] = set()  # batch id and tag of the requests that have come before
        self._taken: Share | None = None
        self._refused: list[_Refused] = []

    async def read(self, requests: Iterable[UpRequest]) -> None:
        """Read what is there of the batches of these requests."""
        known = await self._store.batches.known(self._namespace, [(one.batch, one.tag) for one in requests])
        self._known |= known.rows
        self._taken = await self._store.shares.taken(self._namespace, self._user, known)

    def is_there(self, batch_id: str, tag: str) -> bool:
        """Whether there is a row for this tag."""
        return (batch_id, tag) in self._known

    def note(self, batch_id: str, tag: str) -> None:
        """The request of this batch for this tag is decided: if it comes again, it is repeated."""
        self._known.add((batch_id, tag))

    def has_room(self, request: UpRequest) -> bool:
        """Take the place of the request's row, unless it has one; False: its user has made too many requests."""
        return self._taken is None or self._taken.has_row(request.batch, request.tag)

    def put(self, txn: Txn, key: PuterKey, info: BatchInfo, row: BatchRow) -> None:
        """Write the row of a request that is taken."""
        self.note(info.batch_id, key.tag)
        self._store.batches.put(txn, info)
        self._store.batches.put_row(txn, key, info.batch_id, row)

    def refuse(
        self, key: PuterKey, info: BatchInfo, why: str, *, put_line: Callable[[Txn, str], None] | None = None
    ) -> None:
        """Refuse a request of this batch; `put_line`: writes the reason into its key's timeline."""
        text = why if len(why) <= _MOST_TEXT else f"{why[: _MOST_TEXT - 1]}…"
        self._refused.append(_Refused(key, info, text, put_line))

    async def finish(self, txn: Txn) -> int:
        """Write the rows of what was refused, as far as the namespace's share allows; returns how many have none."""
        if self._taken is not None:
            self._taken.count(txn)
        if not self._refused:
            return 0
        shares = self._store.shares
        share = await shares.refused(self._namespace, [(one.info.batch_id, one.key.tag) for one in self._refused])
        left_out = 0
        for one in self._refused:
            if not share.has_row(one.info.batch_id, one.key.tag):
                left_out += 1
                continue
            shares.put_refused(txn, one.key, one.info, BatchRow(outcome=Outcome.REFUSED, message=one.why))
            if one.put_line is not None and share.has_line():
                one.put_line(txn, one.why)
        share.count(txn)
        return left_out
