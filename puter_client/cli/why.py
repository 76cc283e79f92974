"""`puter why`: a tag's timeline, reasons and AWS request ids; with --log also its lines in the logs of this host."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option
from puter_client.cli.selection import not_known
from puter_client.cli.tails import last_lines
from puter_client.cli.terminal import Row, out, out_json, plain, say
from puter_client.cli.when import clock, rough_duration
from puter_client.config import ClientSettings
from puter_client.contract.key import check_tag
from puter_client.contract.record import Event, EventKind, Record
from puter_client.view import View, iso

if TYPE_CHECKING:
    from collections.abc import Sequence

# The text of each event; an event of a newer version of Puter is shown by its name.
WORDS = {
    EventKind.REQUEST_ACCEPTED: "a worker took the request",
    EventKind.REQUEST_REFUSED: "the request was refused",
    EventKind.REQUEST_DELAYED: "the request waits before EC2 is called",
    EventKind.REQUEST_CANCELLED: "the request was cancelled",
    EventKind.LAUNCH_AWAITED: "EC2 has no such machine yet",
    EventKind.LAUNCH_DELAYED: "the launch is delayed",
    EventKind.LAUNCH_BEGUN: "the launch began",
    EventKind.LAUNCH_PUT_OFF: "the launch was refused and will be tried again",
    EventKind.INTENT_LOST: "Redis lost the launch, checking in EC2 whether it took place",
    EventKind.INSTANCE_LAUNCHED: "EC2 launched the machine",
    EventKind.INSTANCE_FOUND: "found the machine in EC2",
    EventKind.INSTANCE_PENDING: "the machine is starting",
    EventKind.INSTANCE_RUNNING: "the machine is running",
    EventKind.INSTANCE_LABELLED: "the machine has its own name and tags",
    EventKind.INSTANCE_OVERDUE: "the machine still runs after its deadline",
    EventKind.INSTANCE_TERMINATED: "the machine ended",
    EventKind.ORDER_GIVEN: "the machine's owner gave an order",
    EventKind.ORDER_REFUSED: "the order was refused",
    EventKind.ORDER_SENT: "the order is in the machine's tags",
    EventKind.ORDER_CONFIRMED: "the machine has the order",
    EventKind.WORKLOAD_FINISHED: "the workload's end is known",
    EventKind.WORKLOAD_RETRIED: "the workload is run again",
    EventKind.INSTANCE_FAILED: "the machine failed",
    EventKind.PUTER_FAILED: "the launch failed",
}


@click.command(short_help=COMMANDS["why"][2])
@click.argument("tag")
@click.option("--log", "with_log", is_flag=True, help="Also print its lines in the logs of this computer.")
@namespace_option
@json_option
def why(tag: str, with_log: bool, namespace: str | None, as_json: bool) -> int:
    """Show a tag's timeline: what happened when, why it waits, how it ended.

    Request ids are those of AWS, for AWS support and CloudTrail.

    \b
    Examples:
      puter why build
      puter why build --log
    """
    from puter_client.cli.follow import run
    from puter_client.cli.session import settings_of

    check_tag(tag)
    settings = settings_of(namespace)
    return run(lambda: _why(settings, tag, with_log, as_json))


async def _why(settings: ClientSettings, tag: str, with_log: bool, as_json: bool) -> int:
    from puter_client.cli.session import connected

    async with connected(settings, looks_only=True) as client:
        untaken = await client.untaken()
        (view,) = await client.views([tag])
        events = await client.events(tag)
    if view.record is None and not events:
        raise not_known(client, [tag], untaken)
    if as_json:
        for event in events:
            out_json(_fields(event))
    else:
        for row in timeline(view, events, time.time(), whole=settings.command(f"logs {tag}")):
            out(row)
    if with_log:
        from puter_client.cli.loglines import lines_of

        found = lines_of(settings.paths.logs, view, events)
        if not as_json:
            out()
        for line in found:
            out(line)
        if not found:
            say(f"no line about {tag} in {settings.paths.logs} (a worker on another host logs there)")
    return 0


def timeline(view: View, events: Sequence[Event], now: float, *, whole: str = "puter logs TAG") -> list[Row]:
    """The lines of a timeline, oldest event first, then the present state.

    `whole`: the command that prints all that is known of the workload's output.
    """
    lines: list[Row] = []
    for event in events:
        words = WORDS[event.kind] if event.kind else plain(event.event)
        line = f"{clock(event.at, now)}  {words}"
        if event.reason:
            line += f": {plain(event.reason)}"
        lines.append(Row(line))
        facts = [f"{plain(name)} {plain(value)}" for name, value in event.detail.items() if value and name != "notice"]
        if event.request_id:
            facts.append(f"request id {plain(event.request_id)}")
        if event.generation > 1:
            facts.insert(0, f"generation {event.generation}")
        indent = " " * len(clock(event.at, now))
        if facts:
            lines.append(Row("", f"{indent}  {', '.join(facts)}", "dim"))
        lines += [Row(f"{indent}  note: {plain(notice)}") for notice in event.notices]
    if view.record is not None:
        lines += [Row(), *map(Row, _now(view.record, view, now, whole))]
    return lines


def _now(record: Record, view: View, now: float, whole: str) -> list[str]:
    since = rough_duration(now - record.changed_at)
    reason = f": {plain(view.reason)}" if view.reason else ""
    lines = [f"now {record.phase.value}, for {since}{reason}"]
    if record.result is not None:
        code = f", exit code {record.exit_code}" if record.exit_code is not None else ""
        lines.append(f"its workload: {record.result.value}{code}")
    if last := last_lines(record):
        lines += [f"the last that it printed ({whole} prints all that is known):", *(f"  {line}" for line in last)]
    if record.error is not None:
        request = f" (request id {plain(record.error.request_id)})" if record.error.request_id else ""
        lines.append(f"error {plain(record.error.code)}: {plain(record.error.message)}{request}")
    facts = [
        ("instance", record.instance_id),
        ("account", record.account_id),
        ("region", record.region),
        ("zone", record.availability_zone),
        ("image", record.ami_id),
        ("batch", record.batch_id),
        ("requested by", record.owner),
    ]
    shown = ", ".join(f"{name} {plain(value)}" for name, value in facts if value)
    return [*lines, shown] if shown else lines


def _fields(event: Event) -> dict[str, object]:
    return {
        "at": iso(event.at),
        "event": event.event,
        "generation": event.generation,
        "phase": event.phase.value,
        "reason": event.reason,
        "request_id": event.request_id,
        "detail": event.detail,
    }
