"""Cuts large inboxes while Redis is almost full: what one client appends must not keep all others from writing.

A client need not put its inbox into the ready set, and cannot while Redis is full. So a worker looks for inboxes by
itself then, a bounded part of all names at a time. May run twice, in any number of workers: an inbox that was cut is
not large any more.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from math import inf

import structlog

from puter_client.contract.errors import InvalidInput
from puter_client.contract.inbox import Inbox
from puter_worker.stages.refused import Refused
from puter_worker.store.requests import INBOX_BYTES
from puter_worker.store.store import Store
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.intake")
# Clients can fill the rest between two looks only with gigabytes a second.
ALMOST_FULL = 0.75
_CUT = f"Redis is almost full, and an inbox takes over {INBOX_BYTES // 1_000_000} MB"


class Cuts:
    """Sees to it that inboxes do not fill Redis."""

    def __init__(self, store: Store, timings: Timings, refused: Refused) -> None:
        """`refused`: is told how many requests were dropped."""
        self._store = store
        self._timings = timings
        self._refused = refused
        self._watched: dict[Inbox, float] = {}  # inboxes that were cut → when last
        self._cursor = 0  # of a look through all names; 0: none is under way
        self._round_at = self._due_at = -inf

    async def run_due(self, ready: Iterable[Inbox]) -> float:
        """Cut these inboxes, those that were cut before, and a part of all others, if Redis is almost full.

        Whether it is, is asked whenever there are inboxes in the ready set, and else from time to time. Returns the
        seconds until then.
        """
        now, timings = self._store.db.clock.monotonic(), self._timings
        known = dict.fromkeys(ready)
        if not known and now < self._due_at:
            return self._due_at - now
        self._watched = {inbox: at for inbox, at in self._watched.items() if now - at < timings.watched_s}
        if await self._store.db.fullness() <= ALMOST_FULL:
            self._cursor = 0
        elif not await self._cut(known | self._watched, now) and (self._cursor or self._is_round_due(now)):
            await self._look_on(now)
        pause_s = 0.0 if self._cursor else timings.watch_s if self._watched else timings.sweep_s
        self._due_at = now + pause_s
        return pause_s

    def _is_round_due(self, now: float) -> bool:
        return now - self._round_at >= self._timings.look_through_s

    async def _look_on(self, now: float) -> None:
        """Look through the next part of all names."""
        if not self._cursor:
            self._round_at = now
        names, self._cursor = await self._store.requests.inboxes(self._cursor)
        found: list[Inbox] = []
        for name in names:
            with suppress(InvalidInput):  # no client can write to it
                found.append(Inbox.parse(name))
        await self._cut(found, now)

    async def _cut(self, inboxes: Iterable[Inbox], now: float) -> bool:
        """Drop what these inboxes hold beyond their limit; returns whether any did."""
        any_dropped = False
        for inbox in inboxes:
            with suppress(*self._store.refusals):  # it is no list: whoever takes from it sees to that
                if dropped := await self._store.requests.cut(inbox):
                    _log.error("inbox.cut", namespace=inbox.namespace, user=inbox.user, dropped=dropped)
                    self._refused.add(inbox.namespace, {_CUT: dropped})
                    self._watched[inbox] = now
                    any_dropped = True
        return any_dropped
