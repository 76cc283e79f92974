"""`puter logs`: what workloads have printed: of ended ones by their end frames, of running ones by ssh or console."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option, selection_options
from puter_client.cli.selection import check_selection, not_known
from puter_client.cli.terminal import out_json, plain, say
from puter_client.config import ClientSettings
from puter_client.contract.key import shown
from puter_client.contract.phase import LIVE
from puter_client.view import View

if TYPE_CHECKING:
    from puter_client.cli.log_read import Found, Lines
    from puter_client.cli.orders import Selected
    from puter_client.cli.printer import Printer
    from puter_client.client import PuterClient

MOST_NOTES = 20
_WIDEST = 40
_ALL = "all"
_MOST_DIGITS = 9


def _lines(_ctx: click.Context, _param: click.Parameter, value: str | None) -> Lines:
    from puter_client.cli.log_read import Lines

    if value is None:
        return Lines()
    if value == _ALL:
        return Lines(None, None)
    if not (value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS):
        raise click.BadParameter(f"{shown(value)}: write a number of lines, or {_ALL}")
    return Lines(int(value), int(value))


@click.command(short_help=COMMANDS["logs"][2])
@selection_options
@click.option("--failed", is_flag=True, help="Only of workloads that did not succeed.")
@click.option("-f", "--follow", is_flag=True, help="Print what comes, until the workload has ended.")
@click.option(
    "--tail",
    metavar="N|all",
    callback=_lines,
    help="Begin with so many of the last lines.  [100 while it runs, all that is known when it has ended]",
)
@click.option("--console", is_flag=True, help="Print the console of a machine that lives, for its boot.")
@namespace_option
@json_option
def logs(
    tags: tuple[str, ...],
    batch: str | None,
    failed: bool,
    follow: bool,
    tail: Lines,
    console: bool,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Print the output of workloads: their stdout and stderr.

    Of a workload that has ended, its last 8 KB are known, which its machine said
    at the end. Of one that runs, its log is read by ssh; if that does not work,
    the machine's console is shown. Of several tags, each line begins with the tag.

    \b
    Examples:
      puter logs build
      puter logs build -f --tail 20
      puter logs --batch last --failed
      puter logs --batch last --json | jq -r .output

    Exit code 1: a tag is not known, or nothing is known of what it has printed.
    """
    chosen = check_selection(tags, batch)
    if not chosen and batch is None:
        raise click.UsageError("name tags, or --batch ID")
    if follow and as_json:
        raise click.UsageError("--json is for what is known now: leave --follow out")
    if console and (follow or failed or len(chosen) != 1):
        raise click.UsageError("--console goes with one tag, and with neither --follow nor --failed")
    from puter_client.cli.follow import run
    from puter_client.cli.session import settings_of

    settings = settings_of(namespace)
    how = _How(batch, failed, follow, tail, console, as_json)
    return run(lambda: _logs(settings, list(chosen), how))


class _How(NamedTuple):
    """What is shown, and how; see the options."""

    batch: str | None
    failed: bool
    follow: bool
    lines: Lines
    console: bool
    as_json: bool


class _Notes:
    """What people should know of many tags: what is the same is told once."""

    def __init__(self) -> None:
        self._tags: dict[str, list[str]] = defaultdict(list)

    def add(self, tag: str, text: str) -> None:
        """Note what is to be told of a tag."""
        self._tags[text].append(tag)

    def tell(self) -> None:
        """Print it all."""
        from puter_client.cli.log_text import named

        for text, tags in list(self._tags.items())[:MOST_NOTES]:
            say(f"{named(tags)}: {text}")
        if (more := len(self._tags) - MOST_NOTES) > 0:
            say(f"… and of {more:,} more kinds")


def _tell(tag: str, text: str) -> None:
    say(f"{tag}: {text}")


async def _logs(settings: ClientSettings, tags: list[str], how: _How) -> int:
    from puter_client.cli.orders import selected
    from puter_client.cli.session import connected

    async with connected(settings, looks_only=True, waits=how.follow) as client:
        chosen = await selected(client, tags, how.batch)
        unknown = [view.tag for view in chosen.views if view.record is None and view.row is None]
        if unknown:
            error = not_known(client, unknown, await client.untaken())
            if len(unknown) == len(chosen.views):
                raise error
            say(str(error))
        known = [view for view in chosen.views if view.tag not in unknown]
        alone = len(chosen.views) == 1 and how.batch is None
        if how.follow:
            found = await _follow(client, settings, known, chosen, how, alone=alone)
        else:
            views = [view for view in known if view.has_failed] if how.failed else known
            if not views:
                say("nothing has failed" if how.failed else "no machine of the batch is known yet")
                found = how.failed
            elif alone:
                await _one(client, settings, views[0], how)
                found = True
            else:
                found = await _several(client, settings, views, how, _printers(views))
    return 0 if found and not unknown else 1


async def _one(client: PuterClient, settings: ClientSettings, view: View, how: _How) -> None:
    """Print what is known now of one tag's output.

    Raises:
        NoOutput: nothing is.
    """
    from puter_client.cli.log_read import NoOutput, by_console, by_end, by_ssh
    from puter_client.cli.log_text import is_over, part_of, why_nothing
    from puter_client.cli.machine_log import LOG
    from puter_client.cli.printer import Printer

    record, collected = view.record, bytearray()
    printer = None if how.as_json else Printer()
    write = collected.extend if printer is None else printer.write
    if is_over(view) and not how.console:
        known = (await by_end(client, [view], how.lines)).get(view.tag)
        if known is None:
            raise NoOutput(f"{view.tag}: {why_nothing(view)}")
        found, text = known
        write(text.encode(errors="replace"))
        if found.is_part:
            kept = record is not None and record.phase in LIVE
            whole = settings.command(f"ssh {view.tag} -- cat {LOG}")
            told = part_of(found.known_bytes or 0, found.total_bytes or 0)
            _tell(view.tag, f"{told}; all of it is on its machine: {whole}" if kept else told)
        elif not found.total_bytes:
            _tell(view.tag, "it has printed nothing")
    elif record is None or record.phase not in LIVE:
        then = "" if how.console else f"; wait for its output with: {settings.command(f'logs {view.tag} -f')}"
        raise NoOutput(f"{view.tag} is {view.phase.value}: {plain(view.reason or 'it has no machine')}{then}")
    else:
        by_log = None if how.console else await by_ssh(settings, record, how.lines, write, _tell)
        if by_log is None:
            if not how.console:
                say(f"{view.tag}: its console:")
            by_log, text = await by_console(client, settings, record, how.lines, _tell)
            write(text.encode(errors="replace"))
        found = by_log
    if printer is None:
        _tell_json(view, found, bytes(collected))
    else:
        printer.end()


async def _several(
    client: PuterClient, settings: ClientSettings, views: Sequence[View], how: _How, printers: Callable[[str], Printer]
) -> bool:
    """Print what is known now of several tags' outputs, in the order of tags; returns whether anything is."""
    from puter_client.cli.log_read import by_end, each_by_ssh
    from puter_client.cli.log_text import is_over, named, why_nothing

    notes = _Notes()
    read = await each_by_ssh(settings, views, how.lines, notes.add)
    ended = await by_end(client, views, how.lines)
    read |= {tag: (found, text.encode(errors="replace")) for tag, (found, text) in ended.items()}
    for view in views:
        if view.tag in read:
            found, data = read[view.tag]
            if how.as_json:
                _tell_json(view, found, data)
            else:
                printer = printers(view.tag)
                printer.write(data)
                printer.end()
        elif is_over(view):
            notes.add(view.tag, why_nothing(view))
        elif view.phase not in LIVE:
            notes.add(view.tag, f"{view.phase.value}: {plain(view.reason or 'waiting')}")
    parts = [tag for tag, (found, _) in ended.items() if found.is_part]
    if parts:
        say(f"{named(parts)}: only the last part of the output is known")
    notes.tell()
    return bool(read)


def _printers(views: Sequence[View]) -> Callable[[str], Printer]:
    """What makes the printer of each of several tags, all with the same column for the tag."""
    from puter_client.cli.printer import Printer

    width = min(_WIDEST, max((len(view.tag) for view in views), default=0))
    return lambda tag: Printer(tag, width=width)


async def _follow(
    client: PuterClient, settings: ClientSettings, views: Sequence[View], chosen: Selected, how: _How, *, alone: bool
) -> bool:
    """Print what is known, then what comes until all have ended; returns whether there was anything."""
    from puter_client.cli.log_follow import Follow, follow
    from puter_client.cli.log_text import is_over
    from puter_client.cli.printer import Printer

    over = [view for view in views if is_over(view)]
    shown = [view for view in over if view.has_failed or not how.failed]
    if alone and shown:
        await _one(client, settings, shown[0], how)
        return True
    printers = _printers(views)
    found = bool(shown) and await _several(client, settings, shown, how, printers)
    followed = Follow(
        tags=[] if chosen.batch_id else [view.tag for view in views],
        batch_id=chosen.batch_id,
        size=chosen.size if chosen.batch_id else None,
        shown=frozenset(view.tag for view in over),
        lines=how.lines,
        failed=how.failed,
        alone=alone,
    )
    printed = await follow(
        client,
        settings,
        followed,
        printer=(lambda _: Printer()) if alone else printers,
        tell=_tell,
    )
    return found or printed > 0 or how.failed


def _tell_json(view: View, found: Found, data: bytes) -> None:
    record = view.record
    out_json(
        {
            "namespace": view.namespace,
            "tag": view.tag,
            "phase": view.phase.value,
            "generation": record.generation if record else None,
            "result": record.result.value if record and record.result else None,
            "exit_code": record.exit_code if record else None,
            "source": found.source,
            "output": data.decode(errors="replace"),
            "known_bytes": found.known_bytes,
            "total_bytes": found.total_bytes,
        }
    )
    sys.stdout.flush()
