"""`puter status`: the state of every request, and why."""

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

MOST_OF_A_GROUP = 200  # on a terminal; a pipe gets all


@click.command(short_help=COMMANDS["status"][2])
@selection_options
@click.option("--all", "everything", is_flag=True, help="Also list what ended over 24 h ago.")
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option("--exit-status", is_flag=True, help="Exit code 1 if something failed.")
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
    """Show the state of every request, and why.

    Without tags: everything live or on its way, and what ended within 24 h, the
    newest last. AWS is not called: workers keep the state up to date.

    \b
    Examples:
      puter status
      puter status build train
      puter status --batch last --watch
      puter status --json | jq -r 'select(.phase == "running") | .public_ip'

    The exit code is 0 (1 if a named tag is not known, and with --exit-status
    also if something failed).
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
                await asyncio.sleep(client.timings.status_refresh_s)
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
    """Whether it counts for --exit-status: the machine or its workload failed, or its request launched nothing."""
    record = view.record
    if view.wait_state(WaitFor.QUEUED) is WaitState.FAILED:
        return True
    return record is not None and (record.phase is Phase.FAILED or record.result not in (None, Result.SUCCEEDED))


def nothing_in(settings: ClientSettings) -> str:
    """What to say if there is nothing to show; it may be in another namespace."""
    return f"nothing in namespace {settings.namespace}; start with: {settings.command('up --tag NAME')}"


def _show(
    views: list[View], before: list[str], *, nothing: list[str], more: list[str], most: int | None, watch: bool
) -> list[str]:
    """Print the table, with --watch over the one before, and return its lines."""
    from puter_client.cli.table import counted, view_lines

    terminal = sys.stdout.isatty()
    lines = view_lines(views, time.time(), columns(), most=most if terminal else None)
    if not views:
        lines = nothing
    elif len(views) > MOST_OF_A_GROUP or watch:
        lines.append(f"total {len(views):,}: {counted(views)}")
    lines += more
    if watch and terminal:
        height = shutil.get_terminal_size().lines - 1
        # Cursor home, clear each line to its end, then the rest of the screen: this does not flicker.
        sys.stdout.write("\x1b[H" + "".join(f"{line}\x1b[K\n" for line in lines[-height:]) + "\x1b[J")
    elif lines != before:
        if before:
            out()
        for line in lines:
            out(line)
    sys.stdout.flush()
    return lines
