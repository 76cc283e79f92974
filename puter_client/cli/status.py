"""`puter status`: where every request stands, and why."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option, selection_options
from puter_client.cli.selection import batch_id_of, batch_name, check_selection, not_known, waiting_for_worker
from puter_client.cli.terminal import columns, out, out_json, say
from puter_client.config import ClientSettings
from puter_client.contract.phase import Phase
from puter_client.contract.result import Result
from puter_client.view import View, WaitFor, WaitState

if TYPE_CHECKING:
    from puter_client.client import PuterClient

REFRESH_S = 2.0
MOST_OF_A_GROUP = 200  # on a terminal; a pipe gets all


@click.command(short_help=COMMANDS["status"][2])
@selection_options
@click.option("--all", "everything", is_flag=True, help="Also what ended over 24 h ago.")
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--exit-status", is_flag=True, help="Exit with 1 if something failed.")
@namespace_option
@json_option
def status(
    tags: tuple[str, ...],
    batch: str | None,
    everything: bool,
    watch: bool,
    exit_status: bool,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Where every request stands, and why.

    Without tags: what lives or is on its way, and what ended within 24 h, the
    newest last. Nothing is asked of AWS: workers keep it up to date.

    \b
    Examples:
      puter status
      puter status build train
      puter status --batch last --watch
      puter status --json | jq -r 'select(.phase == "running") | .public_ip'

    Exit code 0, whatever stands there (1: a tag named is not known; with
    --exit-status also if something failed).
    """
    from puter_client.cli.follow import run
    from puter_client.cli.session import settings_of

    chosen = check_selection(tags, batch, everything)
    settings = settings_of(namespace)
    return run(lambda: _status(settings, chosen, batch, everything, watch, exit_status, as_json))


async def _status(
    settings: ClientSettings,
    tags: tuple[str, ...],
    batch: str | None,
    everything: bool,
    watch: bool,
    exit_status: bool,
    as_json: bool,
) -> int:
    import asyncio

    from puter_client.cli.follow import end_if_interrupted
    from puter_client.cli.session import NothingYet, connected

    try:
        async with connected(settings, looks_only=True) as client:
            shown: list[str] = []
            while True:
                untaken = await client.untaken()
                views = await _views(client, tags, batch, everything, untaken)
                missing = [view for view in views if view.record is None and view.row is None]
                found = [view for view in views if view.record is not None or view.row is not None]
                if as_json:
                    for view in found:
                        out_json(view.to_json())
                    sys.stdout.flush()
                else:
                    nothing = [] if tags or untaken else [nothing_in(settings)]
                    more = [waiting_for_worker(untaken)] if untaken and not tags else []
                    most = None if tags else MOST_OF_A_GROUP
                    shown = _show(found, shown, nothing=nothing, more=more, most=most, watch=watch)
                if not watch:
                    break
                end_if_interrupted()
                await asyncio.sleep(REFRESH_S)
    except NothingYet:
        if not as_json:
            out(nothing_in(settings))
        return 1 if tags or batch else 0
    if missing:
        say(str(not_known(client, [view.tag for view in missing], untaken)))
    elif as_json and untaken:
        say(waiting_for_worker(untaken))
    return 1 if missing or (exit_status and any(is_bad(view) for view in found)) else 0


async def _views(
    client: PuterClient, tags: tuple[str, ...], batch: str | None, everything: bool, untaken: int
) -> list[View]:
    if tags:
        return await client.views(tags)
    if batch is None:
        return await client.recent(everything=everything)
    batch_id = await batch_id_of(client, batch)
    info, views = await client.batch(batch_id)
    if info is None and not views:
        raise not_known(client, [batch_name(batch_id)], untaken)
    return views


def is_bad(view: View) -> bool:
    """Whether --exit-status has to say so: it failed, its workload did, or the batch's request was not granted."""
    record = view.record
    if view.wait_state(WaitFor.QUEUED) is WaitState.FAILED:
        return True
    return record is not None and (record.phase is Phase.FAILED or record.result not in (None, Result.SUCCEEDED))


def nothing_in(settings: ClientSettings) -> str:
    """What to say where nothing is shown: it may be there, in another namespace."""
    return f"nothing in namespace {settings.namespace}: {settings.command('up --tag NAME')}"


def _show(
    views: list[View], before: list[str], *, nothing: list[str], more: list[str], most: int | None, watch: bool
) -> list[str]:
    """Print the table, over the one before it if that is watched; what was printed."""
    from puter_client.cli.table import counted, view_lines

    terminal = sys.stdout.isatty()
    lines = view_lines(views, time.time(), columns(), most=most if terminal else None)
    if not views:
        lines = nothing
    elif len(views) > MOST_OF_A_GROUP or watch:
        lines.append(f"{len(views):,} in all: {counted(views)}")
    lines += more
    if watch and terminal:
        height = shutil.get_terminal_size().lines - 1
        # Home, each line to its end, then the rest of the screen: nothing flickers.
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines[-height:]) + "\x1b[J")
    elif lines != before:
        if before:
            out()
        for line in lines:
            out(line)
    sys.stdout.flush()
    return lines
