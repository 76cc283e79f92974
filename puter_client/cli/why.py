"""`puter why`: one tag's timeline, reasons and request ids; with --log every line of it in the logs of this host."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option
from puter_client.cli.selection import not_known
from puter_client.cli.terminal import out, out_json, plain, say, styled
from puter_client.cli.when import clock, rough_duration
from puter_client.config import ClientSettings
from puter_client.contract.key import check_tag
from puter_client.contract.record import Event, Record
from puter_client.view import View, iso

if TYPE_CHECKING:
    from collections.abc import Sequence

# What workers note, in plain words; an event that is not here is shown as it is called.
WORDS = {
    "request.accepted": "a worker has taken the request",
    "request.cancelled": "the request was withdrawn",
    "request.delayed": "it has to wait before EC2 can be asked",
    "intent.lost": "Redis lost its launch; EC2 is asked whether it took place",
    "launch.awaited": "EC2 has no such machine",
    "launch.begun": "its launch has begun",
    "launch.delayed": "its launch is delayed",
    "launch.put_off": "its launch was put off",
    "instance.found": "EC2 has the machine already",
    "instance.launched": "EC2 launched the machine",
    "instance.pending": "the machine is starting",
    "instance.running": "the machine runs",
    "instance.labelled": "the machine bears its own name and tags",
    "instance.overdue": "the machine outlived its deadline",
    "instance.terminated": "the machine has ended",
    "instance.failed": "the machine failed",
    "puter.failed": "it failed",
}


@click.command(short_help=COMMANDS["why"][2])
@click.argument("tag")
@click.option("--log", "with_log", is_flag=True, help="Also every line of it in this host's logs.")
@namespace_option
@json_option
def why(tag: str, with_log: bool, namespace: str | None, as_json: bool) -> int:
    """One tag's timeline: what happened when, why it waits or how it ended.

    Request ids are AWS's, for its support and for CloudTrail.

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
        for line in timeline(view, events, time.time()):
            out(line)
    if with_log:
        from puter_client.cli.loglines import lines_of

        found = lines_of(settings.paths.logs, view, events)
        if not as_json:
            out()
        for line in found:
            out(line)
        if not found:
            say(f"no line of it in {settings.paths.logs} (a worker on another host has its log there)")
    return 0


def timeline(view: View, events: Sequence[Event], now: float) -> list[str]:
    """What happened, oldest first, and where it stands."""
    lines = []
    for event in events:
        words = WORDS.get(event.event, plain(event.event))
        line = f"{clock(event.at, now)}  {words}"
        if event.reason:
            line += f": {plain(event.reason)}"
        lines.append(line)
        facts = [f"{name} {plain(value)}" for name, value in event.detail.items() if value]
        if event.request_id:
            facts.append(f"request id {plain(event.request_id)}")
        if event.generation > 1:
            facts.insert(0, f"generation {event.generation}")
        if facts:
            lines.append(styled(f"{' ' * len(clock(event.at, now))}  {', '.join(facts)}", "dim"))
    if view.record is not None:
        lines += ["", *_now(view.record, view, now)]
    return lines


def _now(record: Record, view: View, now: float) -> list[str]:
    since = rough_duration(now - record.changed_at)
    reason = f": {plain(view.reason)}" if view.reason else ""
    lines = [f"now {record.phase.value}, for {since}{reason}"]
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
        ("asked by", record.owner),
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
