"""`puter status`: the state of every request, and why."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import click

from puter_client.cli.filters import Filters, filter_options
from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option, selection_options
from puter_client.cli.selection import batch_id_of, batch_name, check_selection, not_known, waiting_for_worker
from puter_client.cli.terminal import Row, Size, columns, out, out_json, say, size, wrapped
from puter_client.config import ClientSettings
from puter_client.contract.key import tag_order
from puter_client.contract.phase import Phase
from puter_client.contract.result import Result
from puter_client.view import View, WaitFor, WaitState

if TYPE_CHECKING:
    from puter_client.client import PuterClient
    from puter_client.freshness import Absence

MOST_OF_A_GROUP = 200  # on a terminal; a pipe gets all


@click.command(short_help=COMMANDS["status"][2])
@selection_options
@click.option("--all", "everything", is_flag=True, help="Also list what ended over 24 h ago.")
@filter_options
@click.option("--watch", is_flag=True, help="Refresh until Ctrl-C.")
@click.option("--exit-status", is_flag=True, help="Exit code 1 if something failed.")
@namespace_option
@json_option
def status(
    tags: tuple[str, ...],
    batch: str | None,
    everything: bool,
    failed: bool,
    phases: frozenset[Phase],
    results: frozenset[Result],
    watch: bool,
    exit_status: bool,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Show the state of every request, and why.

    Without tags: everything live or on its way, and what ended within 24 h.
    What failed comes first. AWS is not called: workers keep the state up to
    date.

    \b
    Examples:
      puter status
      puter status build train
      puter status --batch last --watch
      puter status --batch last --failed
      puter status --phase queued,launching
      puter status --json | jq -r 'select(.phase == "running") | .public_ip'

    The exit code is 0 (1 if a named tag is not known, and with --exit-status
    also if something failed).
    """
    from puter_client.cli.follow import run
    from puter_client.cli.session import settings_of

    chosen = check_selection(tags, batch, everything)
    settings = settings_of(namespace)
    what = _What(tuple(sorted(chosen, key=tag_order)), batch, everything, Filters(failed, phases, results))
    return run(lambda: _status(settings, what, watch, exit_status, as_json))


class _What(NamedTuple):
    """Which puters are looked at, and which of them are shown."""

    tags: tuple[str, ...]
    batch: str | None
    everything: bool
    filters: Filters


class _Seen(NamedTuple):
    """One look: what is shown, and what else there is to tell.

    Attributes:
        shown: in the order of tags.
        others: the number of those that the filters leave out.
        missing: named tags that are not known.
        untaken: the number of requests that no worker has taken.
        absence: since when no worker has been there.
    """

    shown: list[View]
    others: int
    missing: list[str]
    untaken: int
    absence: Absence | None

    def notes(self, settings: ClientSettings, what: _What, now: float) -> list[str]:
        """What is told beside the puters."""
        notes = []
        if not self.shown and self.others:
            notes.append(f"none of {self.others:,} matches the filters")
        elif self.others:
            notes.append(f"not shown, since the filters do not match: {self.others:,}")
        elif not self.shown and not what.tags and not self.untaken:
            notes.append(nothing_in(settings))
        if self.absence is not None:
            notes.append(absence_text(self.absence, self.shown, now))
        if self.untaken and not what.tags:
            notes.append(waiting_for_worker(self.untaken))
        return notes


async def _status(settings: ClientSettings, what: _What, watch: bool, exit_status: bool, as_json: bool) -> int:
    from puter_client.cli.session import NothingYet, connected

    try:
        async with connected(settings, looks_only=True, waits=watch) as client:
            seen = await _look(client, what, worker_tells_within_s=client.timings.worker_tells_within_s)
            if watch:
                await _watch(client, settings, what, seen, as_json=as_json)
            elif as_json:
                _tell_json(seen.shown)
            else:
                for row in _table(settings, what, seen):
                    out(row)
    except NothingYet:
        if not as_json:
            out(nothing_in(settings))
        return 1 if what.tags or what.batch else 0
    if as_json and seen.absence is not None:
        say(absence_text(seen.absence, seen.shown, time.time()))
    if seen.missing:
        say(str(not_known(client, seen.missing, seen.untaken)))
    elif as_json and seen.untaken:
        say(waiting_for_worker(seen.untaken))
    return 1 if seen.missing or (exit_status and any(is_bad(view) for view in seen.shown)) else 0


async def _look(client: PuterClient, what: _What, *, worker_tells_within_s: float = 0.0) -> _Seen:
    untaken = await client.untaken()
    views = await _views(client, what, untaken)
    known = [view for view in views if view.record is not None or view.row is not None]
    shown = [view for view in known if what.filters.let(view)]
    missing = [view.tag for view in views if view.record is None and view.row is None]
    kept_since = min((view.record.changed_at for view in known if view.record is not None), default=None)
    absence = await client.worker_absence(within_s=worker_tells_within_s, kept_since=kept_since)
    return _Seen(shown, len(known) - len(shown), missing, untaken, absence)


async def _views(client: PuterClient, what: _What, untaken: int) -> list[View]:
    if what.tags:
        return await client.views(what.tags)
    if what.batch is None:
        return await client.recent(everything=what.everything)
    batch_id = await batch_id_of(client, what.batch)
    info, views = await client.batch(batch_id)
    if info is None and not views:
        raise not_known(client, [batch_name(batch_id)], untaken)
    return views


async def _watch(client: PuterClient, settings: ClientSettings, what: _What, seen: _Seen, *, as_json: bool) -> None:
    """Look and show again and again; only Ctrl-C or an error ends it."""
    from puter_client.cli.follow import end_if_interrupted
    from puter_client.cli.screen import Screen, resizes

    screen, before, told = Screen(), list[str](), False
    with resizes() as resized:
        while True:
            until = time.monotonic() + client.timings.status_refresh_s
            if as_json:
                _tell_json(seen.shown)
                if seen.absence is not None and not told:
                    say(absence_text(seen.absence, seen.shown, time.time()))
                told = seen.absence is not None
            elif not screen.possible:
                before = _tell_again(_table(settings, what, seen, watched=True), before)
            else:
                screen.draw(partial(_overview, settings, what, seen))
            while (left_s := until - time.monotonic()) > 0:
                if await resized(left_s):
                    screen.redraw()
                end_if_interrupted()
            seen = await _look(client, what)


def _overview(settings: ClientSettings, what: _What, seen: _Seen, size: Size) -> list[Row]:
    from puter_client.cli.overview import overview

    now = time.time()
    return overview(seen.shown, now, size, notes=seen.notes(settings, what, now))


def _table(settings: ClientSettings, what: _What, seen: _Seen, *, watched: bool = False) -> list[Row]:
    """Everything that is shown, but of large groups on a terminal; the totals stand where they are seen: at the end."""
    from puter_client.cli.groups import totals
    from puter_client.cli.table import view_rows

    now, width = time.time(), columns()
    terminal = size()
    most = None if what.tags or terminal is None else MOST_OF_A_GROUP
    rows = view_rows(seen.shown, now, width, most=most) if seen.shown else []
    notes = seen.notes(settings, what, now)
    if watched or len(seen.shown) > MOST_OF_A_GROUP or (terminal and len(rows) >= terminal.lines):
        notes.insert(0, totals(seen.shown))
    for note in notes:
        rows += [Row(line) for line in (wrapped(note, width) if width else [note])]
    return rows


def _tell_again(rows: list[Row], before: list[str]) -> list[str]:
    """Print a table if it is another one than before, and return its lines."""
    lines = [row.text for row in rows]
    if lines != before:
        if before:
            out()
        for row in rows:
            out(row)
        sys.stdout.flush()
    return lines


def _tell_json(views: Sequence[View]) -> None:
    for view in views:
        out_json(view.to_json())
    sys.stdout.flush()


def is_bad(view: View) -> bool:
    """Whether it counts for --exit-status: the machine or its workload failed, or its request launched nothing."""
    return view.has_failed or view.wait_state(WaitFor.QUEUED) is WaitState.FAILED


def absence_text(absence: Absence, views: Sequence[View], now: float) -> str:
    """Since when no worker has been there; what is shown is as the last one left it."""
    from puter_client.cli.when import clock, rough_duration

    records = [view.record for view in views if view.record is not None]
    known = max((max(record.changed_at, record.observed_at or 0.0) for record in records), default=None)
    as_of = absence.seen_at or known
    since = "no worker is running" if absence.for_s is None else f"no worker for {rough_duration(absence.for_s)}"
    return since if as_of is None else f"{since}; state as of {clock(as_of, now)}"


def nothing_in(settings: ClientSettings) -> str:
    """What to say if there is nothing to show; it may be in another namespace."""
    return f"nothing in namespace {settings.namespace}; start with: {settings.command('up --tag NAME')}"
