"""PuterClient: the Python API. The command line is built on it and can do nothing more."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from puter_client.contract.batch import BatchInfo
from puter_client.contract.console import Console
from puter_client.contract.errors import InvalidInput, NoWorker, RequestsGone, WaitTimedOut
from puter_client.contract.health import WorkerHealth
from puter_client.contract.key import PuterKey, check_namespace, check_tag, shown, tag_order
from puter_client.contract.output import Output
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Event, Record
from puter_client.contract.request import (
    MAX_BATCH,
    CancelRequest,
    ConsoleRequest,
    ExtendRequest,
    Origin,
    StopRequest,
    UpRequest,
)
from puter_client.contract.spec import Spec
from puter_client.freshness import Absence, absence
from puter_client.store.clientstore import ClientStore
from puter_client.store.outage import Limit
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings
from puter_client.view import View, WaitFor, WaitState
from puter_client.watch import NOTHING_KEPT, Watch, in_time, stage_reasons, still_waiting


class MachineRequest(NamedTuple):
    """One machine to request.

    Attributes:
        tag: its name.
        spec: what it is.
        given: names of fields that the user gave, such as `ttl`: if the machine exists with another value, the user is
            told so, and another ttl is applied to it.
    """

    tag: str
    spec: Spec
    given: tuple[str, ...] = ()


class PuterClient:
    """Requests for machines in one namespace, and their results.

    Use it as an async context manager:

        async with PuterClient.connect("redis://localhost", namespace="betty") as puter:
            batch = await puter.submit([MachineRequest("sweep-1", Spec(run="make"))])
            views = await puter.wait(batch_id=batch, wait=WaitFor.RUNNING)

    Every method raises StoreUnavailable if Redis does not answer.

    Attributes:
        namespace: of all its machines.
        user: name that is sent with each request. Workers go by the name of the Redis user, if the URL names one.
        timings: intervals and limits of its waits.
    """

    def __init__(
        self, store: ClientStore, *, namespace: str, user: str, timings: ClientTimings = DEFAULT_TIMINGS
    ) -> None:
        self._store = store
        self.timings = timings
        self.namespace = check_namespace(namespace)
        self.user = user
        self._submitted: set[str] = set()

    @classmethod
    def connect(
        cls,
        url: str,
        *,
        namespace: str,
        user: str | None = None,
        timings: ClientTimings = DEFAULT_TIMINGS,
        url_from: str = "the Redis URL",
        tell: Callable[[str], None] | None = None,
    ) -> PuterClient:
        """A client of the Redis at `url`.

        `user` is sent with each request, the login name by default; where the URL names a Redis user, that one is.
        `url_from`: what errors call the URL, such as the setting that holds it. `tell`: wait up to 30 s for a Redis
        that has answered before and is away, and tell so in a line; None raises StoreUnavailable at once.

        Raises:
            InvalidInput: the URL or the namespace cannot be used.
        """
        import getpass

        store = ClientStore.connect(url, timings=timings, url_from=url_from, tell=tell)
        return cls(store, namespace=namespace, user=(store.user or user or getpass.getuser())[:64], timings=timings)

    async def __aenter__(self) -> PuterClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._store.aclose()

    # -- requests -------------------------------------------------------------------------------------------------

    async def submit(
        self,
        machines: Sequence[MachineRequest],
        *,
        origin: Origin = Origin.SUBMIT,
        again: bool = False,
        retry_failed: bool = False,
        max_parallel: int | None = None,
        max_fails: int | None = None,
        keep_running: bool = False,
        batch_id: str | None = None,
    ) -> str:
        """Request machines and return the id of the batch, as soon as Redis has the requests.

        Args:
            machines: the machines.
            origin: `up` wants a machine now, `submit` wants a workload done once.
            again: launch a next generation of each key that has ended.
            retry_failed: launch a next generation of each key whose workload did not succeed.
            max_parallel: limit of machines of the batch that run at the same time.
            max_fails: as soon as so many of the batch have failed, what is not launched is cancelled, and what runs is
                stopped. Workers see to it, also when this client is gone.
            keep_running: what runs then is left running.
            batch_id: from `new_batch_id`, if the caller must know it before the call returns; None makes one.

        Raises:
            InvalidInput: no machine, too many, or a tag that is given twice or is not valid.
        """
        if not machines:
            raise InvalidInput("nothing to submit: name at least one tag")
        if len(machines) > MAX_BATCH:
            raise InvalidInput(f"{len(machines):,} tags: submit at most {MAX_BATCH:,} at once")
        seen: set[str] = set()
        for one in machines:
            if check_tag(one.tag) in seen:
                raise InvalidInput(f"duplicate tag {shown(one.tag)}: each tag is one machine")
            seen.add(one.tag)
        batch_id = batch_id or new_batch_id()
        requests = [
            UpRequest(
                tag=one.tag,
                spec=one.spec,
                batch=batch_id,
                size=len(machines),
                user=self.user,
                origin=origin,
                again=again,
                retry_failed=retry_failed,
                max_parallel=max_parallel,
                max_fails=max_fails,
                keep_running=keep_running,
                given=one.given,
            )
            for one in machines
        ]
        await self._store.append(self.namespace, requests)
        self._submitted.add(batch_id)
        return batch_id

    async def cancel(self, tags: Sequence[str], *, batch_id: str | None = None) -> None:
        """Cancel requests whose launch has not begun; the records show the result.

        `batch_id`: cancel only requests of this batch.
        """
        requests = [CancelRequest(tag=check_tag(tag), user=self.user, batch=batch_id) for tag in tags]
        if requests:
            await self._store.append(self.namespace, requests)

    async def stop(self, tags: Sequence[str], *, batch_id: str | None = None) -> None:
        """End machines now, and cancel requests that are not launched; the records show the result.

        `batch_id`: only what this batch requested.
        """
        requests = [StopRequest(tag=check_tag(tag), user=self.user, batch=batch_id) for tag in tags]
        if requests:
            await self._store.append(self.namespace, requests)

    async def extend(
        self,
        tags: Sequence[str],
        *,
        batch_id: str | None = None,
        expires_at: float | None = None,
        add_s: int | None = None,
    ) -> None:
        """Let machines end themselves at another time, or never; the records show the result.

        `batch_id`: only what this batch requested. `expires_at`: in seconds since 1970 by Redis TIME; `add_s`: so much
        later than it is planned now. Without both the machines never end themselves.
        """
        request_id = os.urandom(6).hex()
        requests = [
            ExtendRequest(
                tag=check_tag(tag),
                user=self.user,
                batch=batch_id,
                expires_at=expires_at,
                add_s=add_s,
                request_id=request_id,
            )
            for tag in tags
        ]
        if requests:
            await self._store.append(self.namespace, requests)

    # -- reading ------------------------------------------------------------------------------------------------

    async def views(self, tags: Sequence[str]) -> list[View]:
        """The present state of these tags, in their order; a tag that was never requested has no record."""
        records = await self._store.records(self.namespace, [check_tag(tag) for tag in tags])
        reasons = await stage_reasons(self._store, self.namespace, records)
        return [
            View(namespace=self.namespace, tag=tag, record=records.get(tag), stage_reason=reasons.get(tag))
            for tag in tags
        ]

    async def recent(self, *, everything: bool = False) -> list[View]:
        """What is live or on its way, and what ended within 24 h (with `everything`: all that is still known).

        In the order of tags (`tag_order`).
        """
        since = None if everything else await self._store.now() - self.timings.recent_s
        tags = await self._store.tags(self.namespace, ended_since=since)
        return [view for view in await self.views(sorted(tags, key=tag_order)) if view.record is not None]

    async def batch(self, batch_id: str) -> tuple[BatchInfo | None, list[View]]:
        """A batch and its tags, in their order; None if it is unknown, or no worker has taken any of its requests."""
        info, rows = await self._store.batch(self.namespace, batch_id)
        records = await self._store.records(self.namespace, list(rows))
        reasons = await stage_reasons(self._store, self.namespace, records)
        return info, [
            View(
                namespace=self.namespace,
                tag=tag,
                record=records.get(tag),
                row=row,
                batch_id=batch_id,
                stage_reason=reasons.get(tag),
            )
            for tag, row in sorted(rows.items(), key=lambda item: tag_order(item[0]))
        ]

    async def batches(self, *, last: int = 20) -> list[BatchInfo]:
        """The latest batches, newest first."""
        return await self._store.batches(self.namespace, last=last)

    async def events(self, tag: str) -> list[Event]:
        """A tag's timeline, oldest first."""
        return await self._store.events(PuterKey(self.namespace, check_tag(tag)))

    async def outputs(self, views: Sequence[View]) -> dict[str, Output]:
        """The last of what workloads printed, by tag, as the machines said at their ends.

        It is missing where it is not known, and where it is another machine's than that of the view's record.
        """
        records = {view.tag: view.record for view in views if view.record is not None}
        found = await self._store.outputs(self.namespace, list(records))
        return {tag: output for tag, output in found.items() if output.generation == records[tag].generation}

    async def console(self, record: Record, *, after: float | None = None) -> Console:
        """What the console of a living machine shows, as a worker reads it for this call or has read it just before.

        `after`: a reading after this time (`Console.read_at`). A worker reads one console at most every 10 s.

        Raises:
            WaitTimedOut: no worker has read it in time.
        """
        least = max(after or 0.0, await self._store.now() - self.timings.console_fresh_s)
        limit = self.limit(self.timings.console_answer_s)
        asked = False
        while True:
            console = await self._store.console(record.key)
            if console is not None and console.generation == record.generation and console.read_at > least:
                return console
            if not asked:
                request = ConsoleRequest(tag=record.tag, user=self.user, batch=record.batch_id)
                await self._store.append(self.namespace, [request])
                asked = True
            if limit.is_over:
                raise WaitTimedOut(
                    f"no worker has read the console of {record.tag} within {self.timings.console_answer_s:.0f} s"
                )
            await asyncio.sleep(self.timings.look_every_s)

    async def untaken(self) -> int:
        """Number of requests of this client that no worker has taken yet; 0 if its Redis user may not request any.

        Where Redis knows its users, each has an inbox of its own, and sees no other's.

        As soon as a request is no longer counted here, `views` and `batch` show it.
        """
        return await self._store.waiting(self.namespace)

    async def workers(self) -> list[WorkerHealth]:
        """Workers that announced themselves in the last 30 s."""
        return await self._store.workers(self.namespace)

    async def call_workers(self) -> None:
        """Have workers look whether they are still announced, as they are not where Redis was emptied."""
        await self._store.call_workers()

    async def worker_absence(self, *, within_s: float = 0.0, kept_since: float | None = None) -> Absence | None:
        """Since when no worker has been there, so that nothing of what is shown has changed; None if one is there.

        `within_s`: how long a Redis that knows of none may have been emptied a moment ago: then workers are called.
        `kept_since`: what Redis has was written then (its TIME), so that it was not emptied later.
        """
        seen_at, now = await self._store.worker_seen_at(), await self._store.now()
        if kept_since is not None:
            within_s = max(0.0, within_s - max(0.0, now - kept_since))
        limit = self.limit(within_s)
        if seen_at is None and within_s:
            await self.call_workers()
        while seen_at is None and not limit.is_over:
            await asyncio.sleep(self.timings.look_every_s)
            seen_at, now = await self._store.worker_seen_at(), await self._store.now()
        return absence(seen_at, now, self.timings.worker_silent_after_s)

    async def need_worker(self) -> None:
        """Check that a worker takes requests.

        Raises:
            NoWorker: no worker does.
        """
        if not [worker for worker in await self.workers() if not worker.draining]:
            raise NoWorker(
                "no worker is running on this Redis, so no request is processed: start one with `puter worker`"
            )

    async def reconciled(self, *, timeout_s: float) -> bool:
        """Wait until a worker that has just started has compared every live machine with EC2; whether it has.

        Returns at once if the worker has run for some time, since it compares them again and again. Meant for an
        engine with one worker: of several, the one that started last counts.
        """
        deadline = time.monotonic() + timeout_s
        began = max((worker.started_at for worker in await self.workers()), default=0.0)
        if await self._store.now() - began > self.timings.observed_within_s:
            return began > 0
        tags = await self._store.tags(self.namespace, ended_since=math.inf)
        while True:
            records = await self._store.records(self.namespace, tags)
            tags = [
                tag for tag, record in records.items() if record.phase in LIVE and (record.observed_at or 0) < began
            ]
            if not tags or time.monotonic() > deadline:
                return not tags
            await asyncio.sleep(self.timings.look_every_s)

    def limit(self, seconds: float) -> Limit:
        """A time limit for something that cannot happen while Redis is away: it begins anew when Redis is back."""
        return self._store.limit(seconds)

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
        """Wait until every tag has reached `wait`, or cannot reach it any more.

        Args:
            wait: how far to wait.
            batch_id: the batch to wait for; its rows decide. Of one that this client has submitted, a request counts
                as refused of which workers have kept nothing.
            tags: the tags to wait for; with a batch: its tags, if the caller knows them.
            size: number of requests of the batch, if the caller knows it but not the tags.
            timeout_s: limit of the wait, whatever holds it up; None is no limit. One look is taken in any case.
            on_change: called with all views, at the beginning and after each change.
            meanwhile: awaited about every 2 s; an exception that it raises ends the wait.

        Raises:
            WaitTimedOut: time is up; `on_change` was called with the last state that Redis has told.
            RequestsGone: of other requests of the batch nothing is kept.
        """
        deadline = None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s
        first_look_s = None if timeout_s is None else max(timeout_s, self.timings.answer_s)
        watch = Watch(self._store, self.namespace, batch_id, list(tags), size, is_own=batch_id in self._submitted)
        async with (
            in_time(first_look_s, lambda: still_waiting(watch.in_order(), wait)) as limit,
            self._store.changes(self.namespace) as changes,
        ):
            await watch.read()
            limit.reschedule(deadline)
            async with aclosing(watch.looks(changes, deadline, meanwhile)) as watched:
                async for views in watched:
                    on_change(views)
                    if all(view.wait_state(wait) is not WaitState.WAITING for view in views):
                        if watch.complete:
                            return views
                        if watch.missing:
                            raise RequestsGone(f"{watch.missing:,} requests of batch {batch_id}: {NOTHING_KEPT}")
        raise still_waiting(watch.in_order(), wait)


def new_batch_id() -> str:
    """A unique id that sorts by time: `b20260131-142233-5f3a9c`."""
    return time.strftime("b%Y%m%d-%H%M%S-", time.gmtime()) + os.urandom(3).hex()
