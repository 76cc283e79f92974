"""Requests about tags that exist: sent to all tags of a selection, and followed until they have their effect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from puter_client.cli.terminal import live, say
from puter_client.contract.key import tag_order
from puter_client.view import View

if TYPE_CHECKING:
    from puter_client.client import PuterClient


class Sending:
    """Workers may still be taking a batch: its tags come to be known one by one, and get the request then."""

    def __init__(
        self,
        client: PuterClient,
        tags: Sequence[str],
        batch_id: str | None,
        size: int,
        *,
        send: Callable[[list[str]], Awaitable[None]],
        is_open: Callable[[View], bool],
        says: Callable[[Sequence[View]], str],
        quiet_s: float,
    ) -> None:
        """Prepare to send to these tags, or to those of a batch with `size` requests.

        `send` sends the request for some tags; `is_open`: whether it may still have its effect on a tag; `says`: the
        line of progress; `quiet_s`: how long nothing may change before what is open counts as without an effect.
        """
        self._client = client
        self._batch_id = batch_id
        self._size = size
        self._send = send
        self._is_open = is_open
        self._says = says
        self._quiet_s = quiet_s
        self._open = list(tags)
        self._views: dict[str, View] = {tag: View(namespace=client.namespace, tag=tag) for tag in tags}
        self._sent: set[str] = set()
        self._told = ""

    async def send(self) -> None:
        """Send the request for tags that are known and have not got it yet."""
        if self._batch_id is not None and len(self._views) < self._size:
            _, views = await self._client.batch(self._batch_id)
            self._open += [view.tag for view in views if view.tag not in self._views]
            self._views |= {view.tag: view for view in views if view.tag not in self._views}
        new = [tag for tag in self._views if tag not in self._sent]
        await self._send(new)
        self._sent.update(new)

    async def answered(self) -> list[View]:
        """The tags, once each has had the effect or cannot have it any more, or when nothing changes for long."""
        from puter_client.cli.follow import end_if_interrupted

        timings, before, told_at = self._client.timings, "", time.monotonic()
        quiet, unknown = self._client.limit(self._quiet_s), self._client.limit(timings.cancel_unknown_s)
        try:
            while True:
                end_if_interrupted()
                await self.send()
                await self._read(unknown_is_open=not unknown.is_over)
                views = list(self._views.values())
                state = f"{len(views)} {len(self._open)} {self._says(views)}"
                if state != before:
                    before = state
                    quiet.restart()
                if not self._open and len(self._views) >= self._size:
                    break
                if quiet.is_over:
                    break
                now = time.monotonic()
                if live.possible or now - told_at >= timings.progress_line_s:
                    told_at = now
                    self._tell_progress(self._says(views))
                await asyncio.sleep(timings.look_every_s)
        finally:
            live.clear()
        return sorted(self._views.values(), key=lambda view: tag_order(view.tag))

    async def _read(self, *, unknown_is_open: bool) -> None:
        views = await self._client.views(self._open)
        self._views |= {view.tag: view for view in views}
        if not unknown_is_open and any(view.record is None for view in views):
            # Requests that no worker has taken yet have no record either.
            unknown_is_open = await self._client.untaken() > 0
        self._open = [view.tag for view in views if self._is_open(view) and (view.record or unknown_is_open)]

    def _tell_progress(self, text: str) -> None:
        if live.possible:
            live.show(text)
        elif text != self._told:
            self._told = text
            say(text)
