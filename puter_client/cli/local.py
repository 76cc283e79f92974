"""`puter local`: control of the local engine; commands that need the engine start it themselves."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option
from puter_client.cli.terminal import Row, columns, live, out, out_json, plain, say
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.health import WorkerHealth

if TYPE_CHECKING:
    from puter_client.local import EngineStatus


@click.group(short_help=COMMANDS["local"][2], context_settings={"help_option_names": ["-h", "--help"]})
def local() -> None:
    """Start, stop or inspect the local engine: a Valkey server and one worker.

    Commands start the engine when they need it, unless PUTER_REDIS_URL is set.
    It ends itself when no machine is live or on its way, and no command has
    used it for 10 minutes.

    \b
    Examples:
      puter local status
      puter local stop
    """


@local.command()
def start() -> int:
    """Start the engine's server and worker if they are not running."""
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
@click.option("--force", is_flag=True, help="Stop it even if a command uses it or its server does not answer.")
def stop(force: bool) -> int:
    """Stop the engine; its queue stays on disk.

    Running machines keep running, and end themselves after their --ttl.
    """
    from puter_client.cli.follow import run
    from puter_client.cli.session import here

    _, paths = here()

    async def work() -> int:
        from puter_client.local import stop_engine

        stopped = await stop_engine(paths, say=live.show if live.possible else say, force=force)
        live.clear()
        out("stopped" if stopped else "the engine was not running")
        return 0

    return run(work)


@local.command()
@click.option("--stages", is_flag=True, help="Also list the stages of its worker.")
@json_option
def status(stages: bool, as_json: bool) -> int:
    """Show the engine's status; starts nothing.

    --stages lists when each stage of the worker last succeeded, and its last
    error. A stage that has been failing for over a minute is always shown.
    """
    from puter_client.cli.follow import run
    from puter_client.cli.session import here

    _, paths = here()

    async def work() -> int:
        from puter_client.local import engine_status

        found = await engine_status(paths)
        workers = await _workers(found)
        if as_json:
            from puter_client.cli.worker_stages import to_json

            out_json({**msgspec.to_builtins(found), "workers": [to_json(worker) for worker in workers]})
            return 0
        for line in [*_told(found), f"data    {found.folder}", f"logs    {paths.logs}"]:
            out(line)
        for row in _stage_rows(workers, stages=stages, now=time.time()):
            out(row)
        return 0

    return run(work)


async def _workers(found: EngineStatus) -> Sequence[WorkerHealth]:
    """What the engine's worker published; empty if its server does not answer."""
    if found.state != "running" or found.url is None:
        return []
    from puter_client.store.clientstore import ClientStore

    store = ClientStore.connect(found.url)
    try:
        return await store.workers()
    except StoreUnavailable:
        return []  # the engine ended meanwhile
    finally:
        await store.aclose()


def _stage_rows(workers: Sequence[WorkerHealth], *, stages: bool, now: float) -> list[Row]:
    from puter_client.cli.worker_stages import stage_table, warnings

    lines = [Row(f"warning {text}") for text in warnings(workers, now)]
    if not stages:
        return lines
    for worker in workers:
        lines += [Row(), Row(f"stages of worker {plain(worker.worker_id)}:"), *stage_table(worker, now, columns())]
    return lines if workers else [*lines, Row("no worker has reported its stages")]


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
        version = plain(found.worker_version or "unknown")
        pid = f"pid {found.worker_pid}  Puter {version}" if found.worker_pid else "pid unknown"
        told.append(f"worker  {pid}{'' if found.worker_ready else ', not ready'}")
    elif found.state == "running":
        told.append("worker  not running; the next command starts it")
    elif found.state == "silent":
        told.append("worker  not running")
    return told
