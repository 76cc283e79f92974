"""What a wait looks at: the views of its tags, read again as they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.errors import WaitTimedOut
from puter_client.contract.key import tag_order
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import ENDED
from puter_client.contract.record import Record
from puter_client.freshness import is_stale, stage_reason
from puter_client.store.changes import Changes
from puter_client.store.clientstore import ClientStore
from puter_client.view import View, WaitFor, WaitState

NOTHING_KEPT = (
    "no worker has kept why: more was refused in this namespace within a day than is kept, or Redis was full or has "
    "lost data; whoever runs the workers finds the reasons of refusals in their log (requests.refused)"
)
"""What is said of a request that a worker has taken, or Redis has lost, and of which nothing is known."""


class Watch:
    """The views of a wait, kept up to date with as few reads as possible."""

    def __init__(
        self,
        store: ClientStore,
        namespace: str,
        batch_id: str | None,
        tags: list[str],
        size: int | None,
        *,
        is_own: bool = False,
    ) -> None:
        """`is_own`: whether this client has submitted the batch, all of it."""
        self._is_own = is_own
        self._rows_come = store.limit(store.timings.rows_within_s)
        self._rows_known = 0
        self._store = store
        self._namespace = namespace
        self._batch_id = batch_id
        self._size = len(tags) or size
        self._views = {
            tag: View(namespace=namespace, tag=tag, batch_id=batch_id) for tag in sorted(tags, key=tag_order)
        }

    @property
    def complete(self) -> bool:
        """Whether all tags are known."""
        if self._size is None:
            return self._batch_id is None
        return len(self._views) >= self._size

    @property
    def missing(self) -> int:
        """How many requests of the batch workers have taken, or Redis has lost, without anything being known of them.

        Another command of the same user may still be sending the batch, so it takes a while until they count.
        """
        return 0 if self._size is None or not self._rows_come.is_over else max(0, self._size - len(self._views))

    def in_order(self) -> list[View]:
        """The views, in the order of tags."""
        return list(self._views.values())

    async def looks(
        self, changes: Changes, deadline: float | None, meanwhile: Callable[[], Awaitable[None]] | None
    ) -> AsyncGenerator[list[View], None]:
        """The views at the beginning and after each look, until `deadline` on the event loop's clock."""
        clock = asyncio.get_running_loop().time
        again_s, read_at = self._store.timings.read_again_s, clock()
        while True:
            yield self.in_order()
            left_s = again_s if deadline is None else min(again_s, deadline - clock())
            if left_s <= 0:
                return
            changed = await changes.wait(left_s)
            if changed is None or clock() - read_at >= again_s:
                await self.read()
                if meanwhile is not None:
                    await meanwhile()
                read_at = clock()
            elif changed:
                await self.read_some(changed)

    async def read(self) -> None:
        """Read everything."""
        rows: dict[str, BatchRow] = {}
        # What is not in the inbox any more has its row, for one transaction takes it from there and writes the row.
        is_taken = self._batch_id is not None and await self._store.is_all_taken(self._namespace)
        if self._batch_id is not None:
            info, rows = await self._store.batch(self._namespace, self._batch_id)
            if info is not None and self._size is None:
                self._size = info.size
            self._note_rows(len(rows), may_be_missing=is_taken and self._is_of_this_user(info))
        tags = list({**self._views, **rows})
        if is_taken and self._is_own:
            nothing = BatchRow(outcome=Outcome.REFUSED, message=NOTHING_KEPT)
            before = {tag: view.row or nothing for tag, view in self._views.items()}
            rows = before | rows
        await self._read(tags, rows)

    def _is_of_this_user(self, info: BatchInfo | None) -> bool:
        """Whether the requests of the batch went through this client's inbox."""
        return info is not None and self._store.user in (None, info.owner)

    def _note_rows(self, count: int, *, may_be_missing: bool) -> None:
        if count != self._rows_known or not may_be_missing:
            self._rows_come.restart()
        self._rows_known = count

    async def read_some(self, changed: Iterable[str]) -> None:
        """Read tags that have changed, if the wait is for them."""
        if not self.complete:
            await self.read()
            return
        tags = [tag for tag in changed if tag in self._views]
        rows = await self._store.rows(self._namespace, self._batch_id, tags) if self._batch_id else {}
        await self._read(tags, rows)

    async def _read(self, tags: list[str], rows: dict[str, BatchRow]) -> None:
        records = await self._store.records(self._namespace, tags)
        reasons = await stage_reasons(self._store, self._namespace, records)
        known = len(self._views)
        for tag in tags:
            self._views[tag] = View(
                namespace=self._namespace,
                tag=tag,
                record=records.get(tag),
                row=rows.get(tag),
                batch_id=self._batch_id,
                stage_reason=reasons.get(tag),
            )
        if len(self._views) > known:
            self._views = dict(sorted(self._views.items(), key=lambda item: tag_order(item[0])))


async def stage_reasons(store: ClientStore, namespace: str, records: Mapping[str, Record]) -> dict[str, str]:
    """Why records are not fresher, by tag; what is fresh is missing."""
    if all(record.target is None or record.phase in ENDED for record in records.values()):
        return {}
    now = await store.now()
    stale = {tag: record for tag, record in records.items() if is_stale(record, now, store.timings.stale_after_s)}
    workers = await store.workers(namespace) if stale else []
    reasons = {tag: stage_reason(record, workers, now) for tag, record in stale.items()}
    return {tag: reason for tag, reason in reasons.items() if reason is not None}


@asynccontextmanager
async def in_time(timeout_s: float | None, late: Callable[[], WaitTimedOut]) -> AsyncIterator[asyncio.Timeout]:
    """End what is inside after so many seconds with the error `late`, also while Redis is away and is waited for.

    Yields the limit, which may be moved. None is no limit.
    """
    limit = asyncio.timeout(timeout_s)
    try:
        async with limit:
            yield limit
    except TimeoutError:
        if not limit.expired():
            raise
        raise late() from None


def still_waiting(views: Sequence[View], wait: WaitFor) -> WaitTimedOut:
    """The error of a wait whose time is up."""
    waiting = [view for view in views if view.wait_state(wait) is WaitState.WAITING]
    first = waiting[0] if waiting else None
    why = f"; {first.tag}: {first.reason or first.phase.value}" if first else ""
    return WaitTimedOut(
        f"timed out: {len(waiting):,} of {len(views):,} not {wait.value} yet, their requests continue{why}"
    )
