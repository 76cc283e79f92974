"""`puter wait`: wait until machines have come as far as is needed."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option, selection_options, timeout_option, wait_option
from puter_client.cli.selection import NotKnown, batch_id_of, check_selection, unknown_batch
from puter_client.cli.terminal import say
from puter_client.config import Settings
from puter_client.contract.errors import NoWorker, WaitTimedOut
from puter_client.contract.phase import ENDED
from puter_client.view import Verdict, WaitFor

if TYPE_CHECKING:
    from puter_client.cli.follow import Going
    from puter_client.client import PuterClient


@click.command(short_help=COMMANDS["wait"][2])
@selection_options
@click.option("--all", "everything", is_flag=True, help="All that has not ended (as without any tag).")
@wait_option("running", "--for")
@timeout_option(None)
@namespace_option
@json_option
def wait(
    tags: tuple[str, ...],
    batch: str | None,
    everything: bool,
    wait: str,
    timeout: float | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Wait until machines have come as far as you need.

    Without tags: for all that has not ended. Ctrl-C ends the waiting alone.

    \b
    Examples:
      puter wait build
      puter wait --batch last --timeout 10m
      puter wait --batch last --for terminated

    Exit code 0: all have come so far, or have ended; 1: some failed; 4: not
    in time.
    """
    from puter_client.cli.follow import Going, run
    from puter_client.cli.session import settings_of

    chosen = check_selection(tags, batch, everything)
    settings = settings_of(namespace)
    going = Going(settings, WaitFor(wait), chosen)
    return run(lambda: _wait(settings, going, batch, timeout, as_json), going)


async def _somebody_serves(
    client: PuterClient, settings: Settings, going: Going, tags: Sequence[str], size: int | None
) -> None:
    """What has not come yet comes only if there is a worker.

    Raises:
        NoWorker: there is none.
    """
    from puter_client.cli.session import nobody_serves

    nobody = await nobody_serves(client, settings)
    if nobody is None:
        return
    views = (await client.batch(going.batch_id))[1] if going.batch_id else await client.views(tags)
    if len(views) < (size or 0) or any(view.verdict(going.wait) is Verdict.WAITING for view in views):
        raise NoWorker(nobody)


async def _wait(settings: Settings, going: Going, batch: str | None, timeout_s: float | None, as_json: bool) -> int:
    from puter_client.cli import follow
    from puter_client.cli.session import connected

    async with connected(settings, looks_only=True) as client:
        tags: list[str] = []
        size: int | None = None
        if batch is not None:
            going.batch_id = await batch_id_of(client, batch)
            info, views = await client.batch(going.batch_id)
            if info is None:
                raise unknown_batch(client, going.batch_id)
            size = info.size
        elif going.tags:
            tags = list(going.tags)
            unknown = [view.tag for view in await client.views(tags) if view.record is None]
            if unknown:
                raise NotKnown("\n".join(f"{tag} is not known in namespace {client.namespace}" for tag in unknown))
        else:
            tags = [view.tag for view in await client.recent() if view.phase not in ENDED]
            if not tags:
                say("nothing to wait for: all has ended")
                return 0
        going.goes_on()
        await _somebody_serves(client, settings, going, tags, size)
        try:
            views = await follow.follow(client, going, timeout_s=timeout_s, size=size, tags=tags)
        except WaitTimedOut:
            follow.tell_end(going.views, going.wait, as_json=as_json)
            raise
    return follow.tell_end(views, going.wait, as_json=as_json)
