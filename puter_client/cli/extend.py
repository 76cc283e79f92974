"""`puter extend`: let machines end themselves at another time."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import click
import msgspec

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option
from puter_client.cli.orders import selected, tell_unmoved
from puter_client.cli.selection import check_selection
from puter_client.cli.sending import Sending
from puter_client.cli.terminal import out, out_json, plain, say
from puter_client.cli.when import minute
from puter_client.config import ClientSettings
from puter_client.contract.duration import parse_duration_s
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown
from puter_client.contract.order import Order, OrderKind, OrderRefusal
from puter_client.contract.phase import LIVE
from puter_client.contract.request import LONGEST_EXTENSION_S
from puter_client.view import View

NEVER = "never"
_MOST_LISTED = 20
_LOGGED_TAGS = 100


class When(msgspec.Struct, frozen=True):
    """When machines end themselves: at a time, so much later than planned, or (both None) never."""

    expires_at: float | None = None
    add_s: int | None = None


@click.command(short_help=COMMANDS["extend"][2])
@click.argument("words", nargs=-1, metavar="[TAG]... [+TIME|never]")
@click.option("--batch", metavar="ID|last", help="All machines of one submission that run.")
@click.option("--until", metavar="TIME", help="At this local time: 22:00, or 2026-11-27T22:00; with Z in UTC.")
@namespace_option
@json_option
def extend(words: tuple[str, ...], batch: str | None, until: str | None, namespace: str | None, as_json: bool) -> int:
    """Let machines end themselves later, at another time, or never.

    The order is a tag that the machine's agent reads. The command waits until
    each agent has confirmed it, up to 60 s.

    \b
    Examples:
      puter extend build +2h
      puter extend --batch last --until 22:00
      puter extend build never

    Exit code 1: some machine has not confirmed it, or does not run.
    """
    tags, when = read_words(words, until, time.time())
    chosen = check_selection(tags, batch)
    if not chosen and batch is None:
        raise click.UsageError("name tags, or --batch ID")
    from puter_client.cli.follow import run
    from puter_client.cli.session import settings_of

    settings = settings_of(namespace)
    return run(lambda: _extend(settings, list(chosen), batch, when, as_json=as_json))


def read_words(words: Sequence[str], until: str | None, now: float) -> tuple[tuple[str, ...], When]:
    """The tags, and when their machines end: by `+2h` or `never` among the words, or by `--until`.

    Raises:
        click.UsageError: none or several of these are written.
        InvalidInput: one cannot be read, or is in the past or over a year away.
    """
    tags = [word for word in words if word != NEVER and not word.startswith("+")]
    said = [word for word in words if word == NEVER or word.startswith("+")]
    if len(said) + (until is not None) != 1:
        raise click.UsageError("say when, once: +2h, --until 22:00 or never")
    if until is not None:
        return tuple(tags), When(expires_at=read_time(until, now))
    if said[0] == NEVER:
        return tuple(tags), When()
    seconds = parse_duration_s(said[0][1:], what="+TIME")
    if seconds > LONGEST_EXTENSION_S:
        raise InvalidInput(f"{shown(said[0])}: is over 365d", subject="+TIME")
    return tuple(tags), When(add_s=seconds)


def read_time(text: str, now: float) -> float:
    """A time of day, which is the next one, or a date with a time; local unless it ends with Z. In seconds since 1970.

    Raises:
        InvalidInput: it is no time, is in the past, or over a year away.
    """
    here = datetime.fromtimestamp(now).astimezone()
    try:
        if "T" in text:
            at = datetime.fromisoformat(text)
            at = at if at.tzinfo else at.astimezone()
        else:
            clock = datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - a time of day of this computer
            at = here.replace(hour=clock.hour, minute=clock.minute, second=0, microsecond=0)
            at = at if at > here else at + timedelta(days=1)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{shown(text)}: write a time like 22:00 or 2026-11-27T22:00", subject="--until") from None
    if not 0 < at.timestamp() - now <= LONGEST_EXTENSION_S:
        raise InvalidInput(f"{shown(text)}: must be in the future, at most 365d from now", subject="--until")
    return at.timestamp()


async def _extend(settings: ClientSettings, tags: list[str], batch: str | None, when: When, *, as_json: bool) -> int:
    from puter_client.cli.follow import log
    from puter_client.cli.session import connected, why_no_worker
    from puter_client.contract.errors import NoWorker

    async with connected(settings, looks_only=True, waits=True) as client:
        chosen = await selected(client, tags, batch)
        views = [view for view in chosen.views if view.phase in LIVE] if batch is not None else chosen.views
        before = {view.tag: view.record.order if view.record else None for view in views}
        refused_before = {view.tag: _refused(view, {}) for view in views}
        log(
            settings,
            "extend.requested",
            namespace=settings.namespace,
            batch=chosen.batch_id,
            count=len(views),
            tags=[view.tag for view in views][:_LOGGED_TAGS],
        )
        no_worker = await why_no_worker(client, settings)

        def is_open(view: View) -> bool:
            if view.record is None or view.phase not in LIVE:
                return False
            return not _is_confirmed(view, before) and _refused(view, refused_before) is None

        sending = Sending(
            client,
            [view.tag for view in views],
            None,
            len(views),
            send=lambda some: client.extend(
                some, batch_id=chosen.batch_id, expires_at=when.expires_at, add_s=when.add_s
            ),
            is_open=is_open,
            says=lambda seen: f"extending: {sum(not is_open(view) for view in seen):,} of {len(seen):,} have confirmed",
            quiet_s=client.timings.order_quiet_s,
        )
        await sending.send()
        if no_worker and (
            no_worker := await why_no_worker(client, settings, within_s=client.timings.worker_tells_within_s)
        ):
            raise NoWorker(f"{no_worker}\nthe requests stay queued until one starts")
        views = await sending.answered()
    done = [view for view in views if _is_confirmed(view, before)]
    if as_json:
        for view in views:
            out_json(view.to_json())
    else:
        found = {view.tag: _refused(view, refused_before) for view in views}
        refused = {tag: refusal.why for tag, refusal in found.items() if refusal is not None}
        _tell(views, done, before, time.time(), refused)
    return 0 if len(done) == len(views) else 1


def _is_confirmed(view: View, before: Mapping[str, Order | None]) -> bool:
    order = _taken(view, before)
    return order is not None and order.confirmed_at is not None


def _taken(view: View, before: Mapping[str, Order | None]) -> Order | None:
    """The order that a worker made of this command; None if there is none: the record's may be an earlier one."""
    order, earlier = view.record.order if view.record else None, before.get(view.tag)
    if order is None or order.kind is not OrderKind.EXTEND:
        return None
    return order if earlier is None or order.given_at > earlier.given_at else None


def _refused(view: View, before: Mapping[str, OrderRefusal | None]) -> OrderRefusal | None:
    """Why the workers' policy does not allow this command's order; None if it does, or no worker has taken it."""
    refusal = view.record.order_refusal if view.record else None
    return None if refusal == before.get(view.tag) else refusal


def _tell(
    views: Sequence[View],
    done: Sequence[View],
    before: Mapping[str, Order | None],
    now: float,
    refused: Mapping[str, str] = MappingProxyType({}),
) -> None:
    for view in done[:_MOST_LISTED]:
        expires_at = view.record.expires_at if view.record else None
        until = "never ends itself" if expires_at is None else f"ends itself at {minute(expires_at, now)}"
        out(f"{view.tag}: {until}")
    if len(done) > _MOST_LISTED:
        out(f"+{len(done) - _MOST_LISTED:,} more")
    for view in views:
        if view.record is None:
            say(f"{view.tag}: not known")
        elif view.phase not in LIVE:
            say(f"{view.tag}: does not run ({view.phase.value})")
        elif view.tag in refused:
            say(f"{view.tag}: {plain(refused[view.tag])}")
    unmoved = [view for view in views if view.phase in LIVE and view not in done and view.tag not in refused]
    if unmoved:
        by_tag = {view.tag: by_ssh(_taken(view, before)) for view in unmoved}
        remedy = "; give the order by ssh" if any(by_tag.values()) else ""
        tell_unmoved(unmoved, f"did not confirm within 60 s{remedy}", lambda view: by_tag[view.tag])


def by_ssh(order: Order | None) -> str | None:
    """The words that give a machine's agent this order; None without an order, or if its time is none."""
    if order is None:
        return None
    try:
        at = None if order.expires_at is None else datetime.fromtimestamp(order.expires_at, UTC)
    except (OverflowError, ValueError, OSError):  # what Redis holds may be anything
        return None
    return f"expires-at {NEVER if at is None else at.strftime('%Y-%m-%dT%H:%M:%SZ')}"
