"""`puter batches`: the latest submissions."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import time

import click
import msgspec

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option
from puter_client.cli.selection import waiting_for_worker
from puter_client.cli.terminal import out, out_json, plain, say
from puter_client.config import ClientSettings
from puter_client.view import iso


@click.command(short_help=COMMANDS["batches"][2])
@click.option(
    "--last", type=click.IntRange(1, 1_000), metavar="N", default=20, show_default=True, help="Number of batches."
)
@namespace_option
@json_option
def batches(last: int, namespace: str | None, as_json: bool) -> int:
    """List the latest submissions, the newest last.

    \b
    Examples:
      puter batches
      puter status --batch "$(puter batches --last 1 --json | jq -r .batch_id)"
    """
    from puter_client.cli.follow import run
    from puter_client.cli.session import settings_of

    settings = settings_of(namespace)
    return run(lambda: _batches(settings, last, as_json))


async def _batches(settings: ClientSettings, last: int, as_json: bool) -> int:
    from puter_client.cli.session import NothingYet, connected
    from puter_client.cli.status import nothing_in
    from puter_client.cli.when import ago

    try:
        async with connected(settings, looks_only=True) as client:
            untaken = await client.untaken()
            found = await client.batches(last=last)
    except NothingYet:
        untaken, found = 0, []
    if as_json:
        for info in reversed(found):
            out_json({**msgspec.to_builtins(info), "created_at": iso(info.created_at)})
        return 0
    if untaken:
        say(waiting_for_worker(untaken))
    if not found:
        out(nothing_in(settings))
        return 0
    width = max(len(info.batch_id) for info in found)
    out(f"{'BATCH'.ljust(width)}  {'WHEN':<10}  {'SIZE':>6}  OWNER")
    for info in reversed(found):
        when = ago(info.created_at, time.time())
        out(f"{info.batch_id.ljust(width)}  {when:<10}  {info.size:>6,}  {plain(info.owner)}")
    return 0
