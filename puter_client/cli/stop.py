"""`puter stop`: end machines now, and cancel what is not launched."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option, selection_options
from puter_client.cli.orders import aws_terminate, selected, tell_unmoved
from puter_client.cli.selection import check_selection
from puter_client.cli.sending import Sending
from puter_client.cli.terminal import out, out_json, say
from puter_client.config import ClientSettings
from puter_client.contract.order import OrderKind
from puter_client.contract.phase import ENDED, LIVE, Phase
from puter_client.view import View

_ASKS_ABOVE = 10
_LOGGED_TAGS = 100


@click.command(short_help=COMMANDS["stop"][2])
@selection_options
@click.option("--all", "everything", is_flag=True, help="Everything of the namespace that has not ended.")
@click.option("--yes", is_flag=True, help="Do not ask, however many machines run.")
@namespace_option
@json_option
def stop(
    tags: tuple[str, ...], batch: str | None, everything: bool, yes: bool, namespace: str | None, as_json: bool
) -> int:
    """End machines now, and cancel what is not launched.

    A workload that runs gets SIGTERM and, 30 s later, SIGKILL; then its machine
    says how it ended, and ends itself. Puter deletes nothing: the order is a tag
    that the machine's agent reads.

    \b
    Examples:
      puter stop build train
      puter stop --batch last
      puter stop --all --yes

    Exit code 1: some machine did not react within 60 s.
    """
    chosen = check_selection(tags, batch, everything)
    if not chosen and batch is None and not everything:
        raise click.UsageError("name tags, --batch ID, or --all")
    from puter_client.cli.follow import run
    from puter_client.cli.session import settings_of

    settings = settings_of(namespace)
    return run(lambda: _stop(settings, list(chosen), batch, yes=yes, as_json=as_json))


async def _stop(settings: ClientSettings, tags: list[str], batch: str | None, *, yes: bool, as_json: bool) -> int:
    from puter_client.cli.follow import log
    from puter_client.cli.session import connected, why_no_worker
    from puter_client.contract.errors import NoWorker

    async with connected(settings, looks_only=True, waits=True) as client:
        chosen = await selected(client, tags, batch)
        running = [view for view in chosen.views if view.phase in LIVE]
        if len(running) > _ASKS_ABOVE and not yes and sys.stdin.isatty():
            question = f"stop {len(running):,} machines that run in namespace {settings.namespace}?"
            if not click.confirm(question, err=True):
                say("nothing was stopped")
                return 1
        log(
            settings,
            "stop.requested",
            namespace=settings.namespace,
            batch=chosen.batch_id,
            count=chosen.size,
            tags=chosen.tags[:_LOGGED_TAGS],
        )
        no_worker = await why_no_worker(client, settings)
        sending = Sending(
            client,
            chosen.tags,
            chosen.batch_id,
            chosen.size,
            send=partial(client.stop, batch_id=chosen.batch_id),
            is_open=lambda view: view.record is None or view.phase not in ENDED,
            says=_progress,
            quiet_s=client.timings.order_quiet_s,
        )
        await sending.send()
        if no_worker and (
            no_worker := await why_no_worker(client, settings, within_s=client.timings.worker_tells_within_s)
        ):
            raise NoWorker(f"{no_worker}\nthe requests stay queued until one starts")
        views = await sending.answered()
    if as_json:
        for view in views:
            out_json(view.to_json())
    else:
        _tell(views)
    return 0 if all(view.phase in ENDED or _is_ending(view) for view in views if view.record) else 1


def _is_ending(view: View) -> bool:
    """Whether the machine's agent has said that it has the order."""
    order = view.record.order if view.record else None
    return order is not None and order.kind is OrderKind.STOP and order.confirmed_at is not None


def _progress(views: Sequence[View]) -> str:
    ended = sum(view.phase in ENDED for view in views)
    ending = sum(_is_ending(view) and view.phase not in ENDED for view in views)
    return f"stopping: {ended:,} of {len(views):,} have ended" + (f", {ending:,} are ending" if ending else "")


def _tell(views: Sequence[View]) -> None:
    unknown = [view.tag for view in views if view.record is None]
    for tag in unknown[:_ASKS_ABOVE]:
        say(f"{tag}: not known")
    counts = {
        "cancelled": sum(view.phase is Phase.CANCELLED for view in views),
        "ended": sum(view.phase in ENDED - {Phase.CANCELLED} for view in views if view.record),
        "ending": sum(_is_ending(view) and view.phase not in ENDED for view in views),
    }
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
    out(told or "nothing to stop")
    unmoved = [view for view in views if view.record and view.phase not in ENDED and not _is_ending(view)]
    if unmoved:
        tell_unmoved(
            unmoved,
            "did not react within 60 s; give the order by ssh, or end them in EC2",
            lambda _: OrderKind.STOP.value,
        )
        for command in aws_terminate(unmoved):
            out(command)
