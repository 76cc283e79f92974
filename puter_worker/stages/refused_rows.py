"""The requests that one transaction refuses, until it is written: what is kept of each is decided for all at once."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn

_MOST_TEXT = 400


class _Refused(msgspec.Struct, frozen=True):
    key: PuterKey
    info: BatchInfo
    why: str
    put_line: Callable[[Txn, str], None] | None


class RefusedRows:
    """Refused requests of one namespace."""

    def __init__(self, store: Store, namespace: str) -> None:
        self._store = store
        self._namespace = namespace
        self._all: list[_Refused] = []

    def add(
        self, key: PuterKey, info: BatchInfo, why: str, *, put_line: Callable[[Txn, str], None] | None = None
    ) -> None:
        """Refuse a request of this batch; `put_line`: writes the reason into its key's timeline."""
        text = why if len(why) <= _MOST_TEXT else f"{why[: _MOST_TEXT - 1]}…"
        self._all.append(_Refused(key, info, text, put_line))

    async def put(self, txn: Txn) -> int:
        """Write their rows, as far as the namespace's share allows; returns how many leave none."""
        if not self._all:
            return 0
        refused = self._store.refused
        share = await refused.share(self._namespace, (one.info.batch_id for one in self._all))
        left_out = 0
        for one in self._all:
            if not share.has_row(one.info.batch_id):
                left_out += 1
                continue
            refused.put_row(txn, one.key, one.info, BatchRow(outcome=Outcome.REFUSED, message=one.why))
            if one.put_line is not None and share.has_line():
                one.put_line(txn, one.why)
        refused.count(txn, self._namespace, share)
        return left_out
