"""`puter cancel`: cancel requests for which nothing has been asked of EC2 yet."""

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
from puter_client.cli.terminal import out, out_json, plain, say
from puter_client.config import ClientSettings
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.view import View

if TYPE_CHECKING:
    from puter_client.client import PuterClient

ANSWER_S = 10.0
UNKNOWN_S = 2.0  # a tag that no worker knows by then was never requested
LOOK_EVERY_S = 0.1
_MOST_LISTED = 20
_LOGGED_TAGS = 100


@click.command(short_help=COMMANDS["cancel"][2])
@selection_options
@namespace_option
@json_option
def cancel(tags: tuple[str, ...], batch: str | None, namespace: str | None, as_json: bool) -> int:
    """Withdraw requests before anything was asked of EC2 for them.

    A machine that EC2 was requested goes on, and ends itself after its --ttl:
    Puter deletes nothing. With --batch only what that submission requested is
    withdrawn.

    \b
    Examples:
      puter cancel build train
      puter cancel --batch last

    Exit code 1: for some it came too late.
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
    from puter_client.cli.session import connected, nobody_serves
    from puter_client.contract.errors import NoWorker

    async with connected(settings, looks_only=True) as client:
        nobody = await nobody_serves(client, settings)
        batch_id = None
        if batch is not None:
            batch_id = await batch_id_of(client, batch)
            info, views = await client.batch(batch_id)
            if info is None:
                raise not_known(client, [batch_name(batch_id)], await client.untaken())
            tags = [view.tag for view in views]
        log(
            settings,
            "cancel.asked",
            namespace=settings.namespace,
            batch=batch_id,
            count=len(tags),
            tags=tags[:_LOGGED_TAGS],
        )
        await client.cancel(tags, batch_id=batch_id)
        if nobody:
            raise NoWorker(f"{nobody}\nwhat is to be withdrawn waits for one as well")
        views = await _answered(client, tags)
    if as_json:
        for view in views:
            out_json(view.to_json())
    else:
        _tell(views)
    return 0 if all(view.phase is Phase.CANCELLED for view in views) else 1


async def _answered(client: PuterClient, tags: Sequence[str]) -> list[View]:
    """The tags once each is withdrawn or beyond it; what stays open when time is up is told as it stands."""
    from puter_client.cli.follow import end_if_interrupted

    began = time.monotonic()
    while True:
        end_if_interrupted()
        views = await client.views(tags)
        waited_s = time.monotonic() - began
        unknown_is_open = waited_s < UNKNOWN_S
        if waited_s >= ANSWER_S or not any(is_open(v) and (v.record or unknown_is_open) for v in views):
            return views
        await asyncio.sleep(LOOK_EVERY_S)


def is_open(view: View) -> bool:
    """Whether the request may still be withdrawn, so that no answer to the cancel can be told yet."""
    record = view.record
    return record is None or (record.phase in ON_ITS_WAY and record.intent is None)


def cancel_answer(view: View) -> str:
    """What became of the cancel of one tag."""
    record = view.record
    if record is None:
        return "is not known"
    if record.phase is Phase.CANCELLED:
        return "withdrawn"
    if record.phase in LIVE:
        return f"too late: {record.instance_id} lives, and ends itself after its ttl"
    if record.phase in ON_ITS_WAY:
        return (
            "too late: EC2 has been requested it"
            if record.intent
            else "not withdrawn (another batch's, or no answer yet)"
        )
    return f"has ended: {record.phase.value}"


def _tell(views: Sequence[View]) -> None:
    done = [view for view in views if view.phase is Phase.CANCELLED]
    rest = [view for view in views if view.phase is not Phase.CANCELLED]
    if done:
        names = done[0].tag if len(done) == 1 else f"{len(done):,} requests"
        out(f"withdrawn: {names}")
    for view in rest[:_MOST_LISTED]:
        say(f"{view.tag} {plain(cancel_answer(view))}")
    if len(rest) > _MOST_LISTED:
        say(f"+{len(rest) - _MOST_LISTED:,} more")
