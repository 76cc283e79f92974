"""What a wait looks at: the views of its tags, read again as they change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

from puter_client.contract.batch import BatchRow
from puter_client.contract.errors import WaitTimedOut
from puter_client.contract.key import tag_order
from puter_client.contract.phase import ENDED
from puter_client.contract.record import Record
from puter_client.freshness import is_stale, stage_reason
from puter_client.store.changes import Changes
from puter_client.store.clientstore import ClientStore
from puter_client.view import View, WaitFor, WaitState


class Watch:
    """The views of a wait, kept up to date with as few reads as possible."""

    def __init__(
        self, store: ClientStore, namespace: str, batch_id: str | None, tags: list[str], size: int | None
    ) -> None:
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
        if self._batch_id is not None:
            info, rows = await self._store.batch(self._namespace, self._batch_id)
            if info is not None and self._size is None:
                self._size = info.size
        tags = list({**self._views, **rows})
        await self._read(tags, rows)

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
