"""`puter cancel`: cancel requests that are not launched yet."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option, selection_options
from puter_client.cli.selection import batch_id_of, batch_name, check_selection, not_known
from puter_client.cli.terminal import live, out, out_json, plain, say
from puter_client.cli.when import minute
from puter_client.config import ClientSettings
from puter_client.contract.key import tag_order
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.view import View

if TYPE_CHECKING:
    from puter_client.client import PuterClient

_MOST_LISTED = 20
_LOGGED_TAGS = 100


@click.command(short_help=COMMANDS["cancel"][2])
@selection_options
@namespace_option
@json_option
def cancel(tags: tuple[str, ...], batch: str | None, namespace: str | None, as_json: bool) -> int:
    """Cancel requests that are not launched yet.

    A machine that is launched already keeps running, and ends itself after its
    --ttl: Puter deletes nothing. With --batch, only requests of that submission
    are cancelled.

    \b
    Examples:
      puter cancel build train
      puter cancel --batch last

    Exit code 1: not all could be cancelled.
    """
    chosen = check_selection(tags, batch)
    if not chosen and batch is None:
        raise click.UsageError("name tags, or --batch ID")
    from puter_client.cli.follow import run
    from puter_client.cli.session import settings_of

    settings = settings_of(namespace)
    return run(lambda: _cancel(settings, list(chosen), batch, as_json))


async def _cancel(settings: ClientSettings, tags: list[str], batch: str | None, as_json: bool) -> int:
    from puter_client.cli.follow import log
    from puter_client.cli.session import connected, why_no_worker
    from puter_client.contract.errors import NoWorker

    async with connected(settings, looks_only=True) as client:
        no_worker = await why_no_worker(client, settings)
        batch_id, size = None, len(tags)
        if batch is not None:
            batch_id = await batch_id_of(client, batch)
            info, _ = await client.batch(batch_id)
            if info is None:
                raise not_known(client, [batch_name(batch_id)], await client.untaken())
            size = info.size
        log(
            settings,
            "cancel.requested",
            namespace=settings.namespace,
            batch=batch_id,
            count=size,
            tags=tags[:_LOGGED_TAGS],
        )
        cancelling = _Cancelling(client, tags, batch_id, size)
        await cancelling.send()
        if no_worker:
            raise NoWorker(f"{no_worker}\nthe cancel request stays queued until one starts")
        views = await cancelling.answered()
    if as_json:
        for view in views:
            out_json(view.to_json())
    else:
        _tell(views, time.time())
    return 0 if all(view.phase is Phase.CANCELLED for view in views) else 1


class _Cancelling:
    """Cancel requests on their way. Workers may still be taking a batch: its tags come to be known one by one."""

    def __init__(self, client: PuterClient, tags: Sequence[str], batch_id: str | None, size: int) -> None:
        self._client = client
        self._batch_id = batch_id
        self._size = size
        self._open = list(tags)
        self._views: dict[str, View] = {tag: View(namespace=client.namespace, tag=tag) for tag in tags}
        self._sent: set[str] = set()

    async def send(self) -> None:
        """Cancel what is known and not cancelled yet."""
        if self._batch_id is not None and len(self._views) < self._size:
            _, views = await self._client.batch(self._batch_id)
            self._open += [view.tag for view in views if view.tag not in self._views]
            self._views |= {view.tag: view for view in views if view.tag not in self._views}
        new = [tag for tag in self._views if tag not in self._sent]
        await self._client.cancel(new, batch_id=self._batch_id)
        self._sent.update(new)

    async def answered(self) -> list[View]:
        """The tags, once each is cancelled or cannot be any more, or when nothing has changed for long."""
        from puter_client.cli.follow import end_if_interrupted

        timings, began = self._client.timings, time.monotonic()
        changed_at, before, told_at = began, (0, 0), began
        try:
            while True:
                end_if_interrupted()
                await self.send()
                await self._read(unknown_is_open=time.monotonic() - began < timings.cancel_unknown_s)
                now, state = time.monotonic(), (len(self._views), len(self._open))
                if state != before:
                    changed_at, before = now, state
                if not self._open and len(self._views) >= self._size:
                    break
                if now - changed_at >= timings.cancel_answer_s:
                    break
                if live.possible or now - told_at >= timings.progress_line_s:
                    told_at = now
                    self._tell_progress()
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
        self._open = [view.tag for view in views if is_open(view) and (view.record or unknown_is_open)]

    def _tell_progress(self) -> None:
        answered = len(self._views) - len(self._open)
        text = f"cancelling: {answered:,} of {self._size:,} answered"
        if live.possible:
            live.show(text)
        else:
            say(text)


def is_open(view: View) -> bool:
    """Whether the request may still be cancelled, so that the result is not known yet."""
    record = view.record
    return record is None or (record.phase in ON_ITS_WAY and record.intent is None)


def cancel_answer(view: View, now: float) -> str:
    """The result of cancelling one tag; `now` is in seconds since 1970."""
    record = view.record
    if record is None:
        return "not known"
    if record.phase is Phase.CANCELLED:
        return "cancelled"
    if record.phase in LIVE:
        return f"already launched ({record.instance_id}): {_runs_until(record.expires_at, now)}"
    if record.phase in ON_ITS_WAY and record.intent:
        return "too late: its launch has begun"
    if record.phase in ON_ITS_WAY:
        return "not cancelled: it belongs to another batch, or no worker has answered yet"
    return f"already ended ({record.phase.value})"


def _runs_until(expires_at: float | None, now: float) -> str:
    if expires_at is None:
        return "runs until it is stopped"
    return f"{'runs until' if expires_at > now else 'should have ended at'} {minute(expires_at, now)}"


def _tell(views: Sequence[View], now: float) -> None:
    done = [view for view in views if view.phase is Phase.CANCELLED]
    rest = [view for view in views if view.phase is not Phase.CANCELLED]
    if done:
        names = done[0].tag if len(done) == 1 else f"{len(done):,} requests"
        out(f"cancelled: {names}")
    for view in rest[:_MOST_LISTED]:
        say(f"{view.tag}: {plain(cancel_answer(view, now))}")
    if len(rest) > _MOST_LISTED:
        say(f"… {len(rest) - _MOST_LISTED:,} more")
