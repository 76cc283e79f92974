"""`puter cancel`: cancel requests that are not launched yet."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option, selection_options
from puter_client.cli.selection import batch_id_of, batch_name, check_selection, not_known
from puter_client.cli.sending import Sending
from puter_client.cli.terminal import out, out_json, plain, say
from puter_client.cli.when import minute
from puter_client.config import ClientSettings
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.view import View

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

    async with connected(settings, looks_only=True, waits=True) as client:
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
        cancelling = Sending(
            client,
            tags,
            batch_id,
            size,
            send=partial(client.cancel, batch_id=batch_id),
            is_open=is_open,
            says=lambda views: f"cancelling: {sum(not is_open(view) for view in views):,} of {size:,} answered",
            quiet_s=client.timings.cancel_answer_s,
        )
        await cancelling.send()
        if no_worker and (
            no_worker := await why_no_worker(client, settings, within_s=client.timings.worker_tells_within_s)
        ):
            raise NoWorker(f"{no_worker}\nthe cancel request stays queued until one starts")
        views = await cancelling.answered()
    if as_json:
        for view in views:
            out_json(view.to_json())
    else:
        _tell(views, time.time())
    return 0 if all(view.phase is Phase.CANCELLED for view in views) else 1


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
