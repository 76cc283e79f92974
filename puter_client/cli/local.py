"""`puter local`: the local engine by hand; commands that need it start it themselves."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
import msgspec

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option
from puter_client.cli.terminal import live, out, out_json, say

if TYPE_CHECKING:
    from puter_client.local import EngineStatus


@click.group(short_help=COMMANDS["local"][2], context_settings={"help_option_names": ["-h", "--help"]})
def local() -> None:
    """Start, stop or look at the local engine: a Valkey and one worker.

    Commands start it when they need it, unless PUTER_REDIS_URL names a Redis;
    it ends itself when nothing is alive or on its way, and nobody uses it.

    \b
    Examples:
      puter local status
      puter local stop
    """


@local.command()
def start() -> int:
    """Start what is missing of it."""
    from puter_client.cli.follow import run
    from puter_client.cli.session import here

    _, paths = here()

    async def work() -> int:
        from puter_client.local import ensure_engine

        async with await ensure_engine(paths, os.environ, say=say) as engine:
            out(f"running at {engine.url}")
        return 0

    return run(work)


@local.command()
@click.option("--force", is_flag=True, help="Although a command (a wait, a watch) works with it, or it is silent.")
def stop(force: bool) -> int:
    """End it in order; what is queued stays on disk for its next start.

    Machines that run go on, and end themselves after their --ttl.
    """
    from puter_client.cli.follow import run
    from puter_client.cli.session import here

    _, paths = here()

    async def work() -> int:
        from puter_client.local import stop_engine

        stopped = await stop_engine(paths, say=live.show if live.possible else say, force=force)
        live.clear()
        out("stopped" if stopped else "it was not running")
        return 0

    return run(work)


@local.command()
@json_option
def status(as_json: bool) -> int:
    """How it fares; starts nothing."""
    from puter_client.cli.follow import run
    from puter_client.cli.session import here

    _, paths = here()

    async def work() -> int:
        from puter_client.local import engine_status

        found = await engine_status(paths)
        if as_json:
            out_json(msgspec.to_builtins(found))
            return 0
        for line in _told(found):
            out(line)
        out(f"data    {found.folder}")
        out(f"logs    {paths.logs}")
        return 0

    return run(work)


def _told(found: EngineStatus) -> list[str]:
    told = [f"engine  {found.state}{', in use' if found.in_use else ''}"]
    if found.state == "silent":
        remedy = (
            "`puter local stop --force` ends it, and nothing queued is lost" if found.server_pid else "see its logs"
        )
        told.append(f"        its server does not answer: {remedy}")
    if found.server_pid:
        told.append(f"server  pid {found.server_pid}  {found.url or ''}")
    if found.worker_running:
        pid = f"pid {found.worker_pid}  Puter {found.worker_version}" if found.worker_pid else "pid unknown"
        told.append(f"worker  {pid}{'' if found.worker_ready else ', not ready'}")
    elif found.state == "running":
        told.append("worker  not running; the next command starts it")
    elif found.state == "silent":
        told.append("worker  not running")
    return told
