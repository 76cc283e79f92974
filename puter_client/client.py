"""PuterClient: the Python API. The command line is built on it, and does nothing that it cannot."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import NamedTuple

from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.errors import InvalidInput, NoWorker, WaitTimedOut
from puter_client.contract.health import WorkerHealth
from puter_client.contract.key import PuterKey, check_namespace, check_tag, shown
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Event
from puter_client.contract.request import CancelRequest, Origin, UpRequest
from puter_client.contract.spec import Spec
from puter_client.store.clientstore import ClientStore
from puter_client.view import View, WaitFor, WaitState

# The channel tells what changed; should a message be lost, everything is read again this often.
READ_AGAIN_S = 2.0
RECENT_S = 86_400.0
MAX_BATCH = 100_000
# A worker looks at every living machine as soon as it leads, and again at least this often.
SWEPT_AFTER_S = 60.0
LOOK_AGAIN_S = 0.1


class MachineRequest(NamedTuple):
    """One machine to be requested."""

    tag: str
    spec: Spec


class PuterClient:
    """Requests for machines in one namespace, and what became of them.

    Use it as an async context manager:

        async with PuterClient.connect("redis://localhost", namespace="betty") as puter:
            batch = await puter.submit([MachineRequest("sweep-1", Spec(run="make"))])
            views = await puter.wait(batch_id=batch, wait=WaitFor.RUNNING)

    Every method raises StoreUnavailable if Redis does not answer.
    """

    def __init__(self, store: ClientStore, *, namespace: str, user: str) -> None:
        self._store = store
        self.namespace = check_namespace(namespace)
        self.user = user

    @classmethod
    def connect(cls, url: str, *, namespace: str, user: str | None = None) -> PuterClient:
        """A client of the Redis at `url`; `user` is who says to be asking, the login name if left out.

        Raises:
            InvalidInput: the URL or the namespace cannot be used.
        """
        import getpass

        return cls(ClientStore.connect(url), namespace=namespace, user=(user or getpass.getuser())[:64])

    async def __aenter__(self) -> PuterClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the connections back."""
        await self._store.aclose()

    # -- requests -------------------------------------------------------------------------------------------------

    async def submit(
        self,
        asked: Sequence[MachineRequest],
        *,
        origin: Origin = Origin.SUBMIT,
        again: bool = False,
        retry_failed: bool = False,
        max_parallel: int | None = None,
        batch_id: str | None = None,
    ) -> str:
        """Request machines; the id of the batch. Returns once Redis has the requests.

        Args:
            asked: the machines.
            origin: up wants a machine now, submit a workload done once.
            again: a next generation of each key that has ended.
            retry_failed: a next generation of each key whose workload did not succeed.
            max_parallel: at most so many machines of the batch live at a time.
            batch_id: a new one of `new_batch_id`, for who has to know it should this be interrupted; None makes one.

        Raises:
            InvalidInput: no machine, too many, a tag twice or outside its alphabet.
        """
        if not asked:
            raise InvalidInput("nothing to submit: name at least one tag")
        if len(asked) > MAX_BATCH:
            raise InvalidInput(f"{len(asked):,} tags: submit at most {MAX_BATCH:,} at once")
        seen: set[str] = set()
        for one in asked:
            if check_tag(one.tag) in seen:
                raise InvalidInput(f"tag {shown(one.tag)} stands twice: each tag is one machine")
            seen.add(one.tag)
        batch_id = batch_id or new_batch_id()
        requests = [
            UpRequest(
                tag=one.tag,
                spec=one.spec,
                batch=batch_id,
                size=len(asked),
                user=self.user,
                origin=origin,
                again=again,
                retry_failed=retry_failed,
                max_parallel=max_parallel,
            )
            for one in asked
        ]
        await self._store.append(self.namespace, requests)
        return batch_id

    async def cancel(self, tags: Sequence[str], *, batch_id: str | None = None) -> None:
        """Cancel requests for which nothing has been asked of EC2 yet.

        `batch_id`: only what this submission requested. What became of it is told by the records.
        """
        requests = [CancelRequest(tag=check_tag(tag), user=self.user, batch=batch_id) for tag in tags]
        if requests:
            await self._store.append(self.namespace, requests)

    # -- reading ------------------------------------------------------------------------------------------------

    async def views(self, tags: Sequence[str]) -> list[View]:
        """These tags as they stand, in their order; a tag that nobody requested has no record."""
        records = await self._store.records(self.namespace, [check_tag(tag) for tag in tags])
        return [View(namespace=self.namespace, tag=tag, record=records.get(tag)) for tag in tags]

    async def recent(self, *, everything: bool = False) -> list[View]:
        """What lives or is on its way, and what ended within 24 h (or `everything` that is still known)."""
        since = None if everything else await self._store.now() - RECENT_S
        tags = await self._store.tags(self.namespace, ended_since=since)
        return [view for view in await self.views(tags) if view.record is not None]

    async def batch(self, batch_id: str) -> tuple[BatchInfo | None, list[View]]:
        """A batch and its tags; None if no worker has taken any of its requests yet, or it is unknown."""
        info, rows = await self._store.batch(self.namespace, batch_id)
        records = await self._store.records(self.namespace, list(rows))
        return info, [
            View(namespace=self.namespace, tag=tag, record=records.get(tag), row=row, batch_id=batch_id)
            for tag, row in rows.items()
        ]

    async def batches(self, *, last: int = 20) -> list[BatchInfo]:
        """The latest batches, newest first."""
        return await self._store.batches(self.namespace, last=last)

    async def events(self, tag: str) -> list[Event]:
        """A tag's timeline, oldest first."""
        return await self._store.events(PuterKey(self.namespace, check_tag(tag)))

    async def untaken(self) -> int:
        """How many requests of the namespace no worker has taken yet; 0 where that may not be seen.

        What a worker takes is known to `views` and `batch` as soon as it is no longer counted here.
        """
        return await self._store.waiting(self.namespace)

    async def workers(self) -> list[WorkerHealth]:
        """Workers heard of in the last 30 s."""
        return await self._store.workers()

    async def need_worker(self) -> None:
        """Be sure that somebody takes the requests.

        Raises:
            NoWorker: nobody does.
        """
        if not [worker for worker in await self.workers() if not worker.draining]:
            raise NoWorker(
                "no worker is running on this Redis, nobody takes the requests: start one with `puter worker`"
            )

    async def reconciled(self, *, timeout_s: float) -> bool:
        """Wait until a worker that has only just begun has compared every living machine with EC2.

        Whether it has; at once if it has long been at work, for it does so all the time. Meant for an engine with
        one worker: of several, it goes by the one that began last.
        """
        deadline = time.monotonic() + timeout_s
        began = max((worker.started_at for worker in await self.workers()), default=0.0)
        if await self._store.now() - began > SWEPT_AFTER_S:
            return began > 0
        tags = await self._store.tags(self.namespace, ended_since=math.inf)
        while True:
            records = await self._store.records(self.namespace, tags)
            tags = [
                tag for tag, record in records.items() if record.phase in LIVE and (record.observed_at or 0) < began
            ]
            if not tags or time.monotonic() > deadline:
                return not tags
            await asyncio.sleep(LOOK_AGAIN_S)

    # -- waiting ------------------------------------------------------------------------------------------------

    async def wait(
        self,
        *,
        wait: WaitFor = WaitFor.RUNNING,
        batch_id: str | None = None,
        tags: Iterable[str] = (),
        size: int | None = None,
        timeout_s: float | None = None,
        on_change: Callable[[Sequence[View]], None] = lambda _: None,
        meanwhile: Callable[[], Awaitable[None]] | None = None,
    ) -> list[View]:
        """Wait until every tag has come as far as `wait`, or cannot any more.

        Args:
            wait: how far.
            batch_id: the submission to wait for; its rows decide.
            tags: with a batch: the tags it requested, if the caller knows them; else what to wait for.
            size: how many requests the batch has, if the caller knows it but not the tags.
            timeout_s: None is for ever.
            on_change: called with all views, at the beginning and after each change.
            meanwhile: awaited about every 2 s; what it raises ends the wait.

        Raises:
            WaitTimedOut: what was seen last has been told to `on_change`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        watch = _Watch(self._store, self.namespace, batch_id, list(tags), size)
        async with self._store.changes(self.namespace) as changes:
            await watch.read()
            read_at = time.monotonic()
            while True:
                views = watch.in_order()
                on_change(views)
                if watch.complete and all(view.wait_state(wait) is not WaitState.WAITING for view in views):
                    return views
                left = READ_AGAIN_S if deadline is None else min(READ_AGAIN_S, deadline - time.monotonic())
                if left <= 0:
                    raise still_waiting(views, wait)
                changed = await changes.wait(left)
                if time.monotonic() - read_at >= READ_AGAIN_S:
                    await watch.read()
                    if meanwhile is not None:
                        await meanwhile()
                    read_at = time.monotonic()
                elif changed:
                    await watch.read_some(changed)


class _Watch:
    """The views of what is waited for, kept up to date with as few reads as possible."""

    def __init__(
        self, store: ClientStore, namespace: str, batch_id: str | None, tags: list[str], size: int | None
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._batch_id = batch_id
        self._size = len(tags) or size
        self._views = {tag: View(namespace=namespace, tag=tag, batch_id=batch_id) for tag in tags}

    @property
    def complete(self) -> bool:
        """Whether all tags are known."""
        if self._size is None:
            return self._batch_id is None
        return len(self._views) >= self._size

    def in_order(self) -> list[View]:
        """The views."""
        return list(self._views.values())

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
        """Read what has changed, if it belongs to what is waited for."""
        if not self.complete:
            await self.read()
            return
        tags = [tag for tag in changed if tag in self._views]
        rows = await self._store.rows(self._namespace, self._batch_id, tags) if self._batch_id else {}
        await self._read(tags, rows)

    async def _read(self, tags: list[str], rows: dict[str, BatchRow]) -> None:
        records = await self._store.records(self._namespace, tags)
        for tag in tags:
            self._views[tag] = View(
                namespace=self._namespace,
                tag=tag,
                record=records.get(tag),
                row=rows.get(tag),
                batch_id=self._batch_id,
            )


def still_waiting(views: Sequence[View], wait: WaitFor) -> WaitTimedOut:
    """The error of a wait that took too long."""
    waiting = [view for view in views if view.wait_state(wait) is WaitState.WAITING]
    first = waiting[0] if waiting else None
    why = f"; {first.tag}: {first.reason or first.phase.value}" if first else ""
    return WaitTimedOut(f"{len(waiting):,} of {len(views):,} not {wait.value} in time, the requests go on{why}")


def new_batch_id() -> str:
    """An id that sorts by time and is nobody else's: `b20260131-142233-5f3a9c`."""
    return time.strftime("b%Y%m%d-%H%M%S-", time.gmtime()) + os.urandom(3).hex()
