"""What `up`, `submit`, `wait` and `demo` share: sending requests, following them, and reporting the end."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from puter_client.cli import INTERRUPTED, table
from puter_client.cli.groups import counted
from puter_client.cli.progress import Progress
from puter_client.cli.session import Served, why_no_worker
from puter_client.cli.terminal import Row, columns, out, plain, say
from puter_client.cli.when import minute
from puter_client.config import ClientSettings, login_name
from puter_client.contract.errors import NotPermitted, NoWorker, PuterError, StoreUnavailable, WaitTimedOut
from puter_client.contract.key import tag_order
from puter_client.contract.outcome import Outcome
from puter_client.contract.record import EventKind
from puter_client.contract.request import Origin
from puter_client.contract.spec import TTL, Spec, options_of, spec_digest
from puter_client.view import View, WaitFor, WaitState

if TYPE_CHECKING:
    from puter_client.client import MachineRequest, PuterClient

MOST_LISTED = 20
_LOGGED_TAGS = 100
_LOOKED_AT_FOR_NOTICES = 5


class InFlight:
    """The requests that continue if the command ends early: none, until they are sent or found.

    Attributes:
        settings: settings of the command.
        wait: how far the command waits for them.
        tags: the named tags; () for a batch, or for all.
        batch_id: the batch, from the moment when it begins to be sent.
        views: the state of the requests as last seen.
        as_json: whether the command writes their state as JSON: also if it ends before they are where it waits for.
    """

    def __init__(
        self,
        settings: ClientSettings,
        wait: WaitFor = WaitFor.RUNNING,
        tags: Sequence[str] = (),
        *,
        as_json: bool = False,
    ) -> None:
        self.settings = settings
        self.as_json = as_json
        self._sent = False
        self._sending = False
        self.wait = wait
        self.tags = tuple(tags)
        self.batch_id: str | None = None
        self.views: list[View] = []

    def is_sending(self, batch_id: str) -> None:
        """Note that Redis may have some of the requests from now on."""
        self.batch_id = batch_id
        self._sending = True

    def is_refused(self) -> None:
        """Note that Redis has taken none of what was just being sent."""
        self._sending = False

    def is_sent(self) -> None:
        """Note that the requests continue without the command from now on."""
        self._sent, self._sending = True, False

    def resume_hint(self) -> str | None:
        """How to resume, one command per line; None if no request continues."""
        command = self.settings.command
        if self._sending:
            if self.tags:
                return (
                    f"it is not known whether the request was sent; check with:\n  {command(f'status {self.tags[0]}')}"
                )
            check = command(f"status --batch {self.batch_id}")
            return (
                f"it is not known how many requests were sent; check with:\n  {check}\n"
                "submitting them again launches nothing twice"
            )
        if not self._sent:
            return None
        tell = "why" if len(self.tags) == 1 else "status"
        chosen = f" --batch {self.batch_id}" if self.batch_id else ""
        if self.tags:
            chosen = " " + " ".join(self.tags) if len(self.tags) <= MOST_LISTED else ""
        far = "" if self.wait is WaitFor.RUNNING else f" --for {self.wait.value}"
        return f"resume with:\n  {command(f'wait{chosen}{far}')}\n  {command(f'{tell}{chosen}')}"

    def interrupt_text(self) -> str | None:
        """What to say when the command ends on a Ctrl-C; None if no request continues."""
        way = self.resume_hint()
        if way is None or self._sending:
            return way
        if len(self.tags) == 1:
            return f"the request continues; {way}"
        return f"the batch continues; {way}" if self.batch_id and not self.tags else f"the requests continue; {way}"


def run(work: Callable[[], Awaitable[int]], in_flight: InFlight | None = None) -> int:
    """Run the asynchronous part of a command; Ctrl-C ends the command, but not its requests."""
    import asyncio

    async def main() -> int:
        try:
            return await work()
        except PuterError:
            end_if_interrupted()  # the error may come from a library that swallowed a Ctrl-C
            raise

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        if words := in_flight.interrupt_text() if in_flight else None:
            say(words)
        return INTERRUPTED
    except (WaitTimedOut, StoreUnavailable, NoWorker) as error:
        if in_flight and in_flight.as_json:
            tell_end(in_flight.views, in_flight.wait, as_json=True)
        say(str(error))
        if in_flight and isinstance(error, NotPermitted):
            in_flight.is_refused()
        if way := in_flight.resume_hint() if in_flight else None:
            say(way)
        return error.exit_code


def end_if_interrupted() -> None:
    """End the command if Ctrl-C was pressed and a library swallowed it; every loop of a command calls this.

    `asyncio.timeout(0)`, which redis-py uses, takes a cancellation that was requested just before for its own.
    """
    import asyncio

    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def request(
    client: PuterClient,
    settings: ClientSettings,
    requests: Sequence[MachineRequest],
    in_flight: InFlight,
    *,
    origin: Origin,
    again: bool = False,
    retry_failed: bool = False,
    max_parallel: int | None = None,
    max_fails: int | None = None,
    keep_running: bool = False,
) -> str:
    """Submit requests, log them, check that a worker takes them, and return the id of the batch.

    Raises:
        NoWorker: a shared Redis has no worker; the requests stay queued.
    """
    from puter_client.client import new_batch_id

    no_worker = await why_no_worker(client, settings)
    batch_id = new_batch_id()
    in_flight.is_sending(batch_id)
    await client.submit(
        requests,
        origin=origin,
        again=again,
        retry_failed=retry_failed,
        max_parallel=max_parallel,
        max_fails=max_fails,
        keep_running=keep_running,
        batch_id=batch_id,
    )
    in_flight.is_sent()
    in_flight.views = [View(namespace=settings.namespace, tag=one.tag, batch_id=batch_id) for one in requests]
    log(
        settings,
        "requests.submitted",
        namespace=settings.namespace,
        batch=batch_id,
        count=len(requests),
        tags=[one.tag for one in requests[:_LOGGED_TAGS]],
        spec_digests=sorted({spec_digest(one.spec) for one in requests[:_LOGGED_TAGS]}),
        origin=origin.value,
        again=again,
        retry_failed=retry_failed,
        max_parallel=max_parallel,
        max_fails=max_fails,
        keep_running=keep_running,
    )
    if no_worker and (
        no_worker := await why_no_worker(client, settings, within_s=client.timings.worker_starts_within_s)
    ):
        raise NoWorker(f"{no_worker}\nthe requests stay queued until one starts, as batch {batch_id}")
    return batch_id


def log(settings: ClientSettings, event: str, **facts: Any) -> None:
    """Write a line to the client's log; if that fails, warn and go on."""
    from puter_client.clientlog import log_action

    try:
        log_action(settings.paths, event, user=login_name(settings.environ), **facts)
    except (PuterError, OSError) as error:
        say(f"warning: the log in {settings.paths.logs} cannot be written: {error}")


async def follow(
    client: PuterClient,
    in_flight: InFlight,
    *,
    timeout_s: float | None,
    size: int | None = None,
    tags: Sequence[str] = (),
) -> list[View]:
    """Wait as far as `in_flight` says, and show the progress.

    Raises:
        WaitTimedOut: time is up; `in_flight.views` is the last state.
        NoWorker: no worker is running any more.
    """
    with Progress(in_flight.wait, client.timings) as progress:

        def changed(views: Sequence[View]) -> None:
            end_if_interrupted()
            in_flight.views = list(views)
            progress.update(views)

        return await client.wait(
            wait=in_flight.wait,
            batch_id=in_flight.batch_id,
            tags=tags,
            size=size,
            timeout_s=timeout_s,
            on_change=changed,
            meanwhile=Served(client, in_flight.settings).look,
        )


def failed(view: View, wait: WaitFor) -> bool:
    """Whether the tag cannot reach `wait` any more."""
    return view.wait_state(wait) is WaitState.FAILED


def outcomes(views: Sequence[View]) -> str:
    """The number of each outcome: `20 created, 5 existing`."""
    counts = Counter(view.outcome.value if view.outcome else "open" for view in views)
    order = [*(outcome.value for outcome in Outcome), "open"]
    return ", ".join(f"{counts[name]:,} {name}" for name in order if counts[name])


def summary(views: Sequence[View], wait: WaitFor) -> list[Row]:
    """The end of a batch: counts, and a table: of all tags if they are few, else of those that failed."""
    lines = []
    if any(view.outcome for view in views):
        lines.append(Row(f"{len(views):,} {'puter' if len(views) == 1 else 'puters'}: {outcomes(views)}"))
    if wait is not WaitFor.QUEUED:
        lines.append(Row(f"now: {counted(views)}"))
    # A batch that was cancelled must not hide what failed before.
    bad = sorted((view for view in views if failed(view, wait)), key=lambda view: not view.has_failed)
    listed = list(views) if len(views) <= MOST_LISTED and wait is not WaitFor.QUEUED else bad
    if listed:
        now = time.time()
        cells = [table.line_of(view, now) for view in listed[:MOST_LISTED]]
        lines += [Row(), *table.table(cells, columns())]
        if len(listed) > MOST_LISTED:
            lines.append(Row(f"… {len(listed) - MOST_LISTED:,} more"))
    return lines


def tell_end(views: Sequence[View], wait: WaitFor, *, as_json: bool) -> int:
    """Print how the requests ended, in the order of tags, and return the exit code."""
    views = sorted(views, key=lambda view: tag_order(view.tag))
    if as_json:
        from puter_client.cli.terminal import out_json

        for view in views:
            out_json(view.to_json())
    else:
        for line in summary(views, wait):
            out(line)
    return 1 if any(failed(view, wait) for view in views) else 0


def why_not(view: View) -> str:
    """Why a tag has no machine, with the error code and request id of AWS if there are any."""
    record = view.record
    if view.outcome is not None and view.wait_state(WaitFor.QUEUED) is WaitState.FAILED:
        return f"{view.tag}: {view.outcome.value}: {plain(view.reason or 'no reason given')}"
    if record is not None and record.error is not None:
        request = f" (request id {plain(record.error.request_id)})" if record.error.request_id else ""
        return f"{view.tag}: {plain(record.error.code)}: {plain(record.error.message)}{request}"
    return f"{view.tag}: {view.phase.value}: {plain(view.reason or 'no reason given')}"


def is_ordered(view: View) -> bool:
    """Whether the request has ordered its machine to end at another time."""
    order = view.record.order if view.record else None
    return bool(view.row and view.row.applied) and order is not None and order.of_ttl


def applied(views: Sequence[View], now: float) -> list[str]:
    """What requests have changed of machines that existed already; `now` is in seconds since 1970."""
    by_note: dict[str, list[str]] = defaultdict(list)
    for view in views:
        if not view.row or not view.row.applied or view.record is None:
            continue
        order = view.record.order
        if order is None:
            note = "its new --ttl counts from its launch"
        elif not is_ordered(view):
            continue  # its owner has ordered something else since
        else:
            at = order.expires_at
            end = "it never ends itself now" if at is None else f"it now ends itself at {minute(at, now)}"
            open_ = "" if order.confirmed_at else f" ({plain(order.problem or 'ordered, not confirmed by it yet')})"
            note = end + open_
        by_note[note].append(view.tag)
    return [f"{_named(tags)} existed already: {note}" for note, tags in by_note.items()]


def not_applied(views: Sequence[View], specs: Mapping[str, Spec]) -> list[str]:
    """What was requested for machines that existed already and have it otherwise; `specs`: the requests' by tag."""
    by_options: dict[tuple[str, ...], list[str]] = defaultdict(list)
    other_keys: list[View] = []
    by_settings: list[str] = []
    for view in views:
        names = view.row.not_applied if view.row and view.tag in specs else ()
        if TTL in names and not view.is_told_to_end:
            by_settings.append(view.tag)
            names = tuple(name for name in names if name != TTL)
        if options := options_of(names, specs[view.tag]) if names else []:
            by_options[tuple(options)].append(view.tag)
        if view.has_other_key:
            other_keys.append(view)
    remedy = "use another tag, or wait until it has ended"
    told = [
        f"{_named(tags)} existed already; not applied: {', '.join(options)} ({remedy})"
        for options, tags in by_options.items()
    ]
    if by_settings:
        told.append(
            f"{_named(by_settings)} existed already, with another ttl than that of your settings: --ttl sets it anew"
        )
    if other_keys:
        record = other_keys[0].record
        key = plain(record.key_name or "?") if record else "?"
        owner = plain(record.owner or "?") if record else "?"
        told.append(
            f"{_named([view.tag for view in other_keys])} existed already, with another key (key pair {key}, requested "
            f"by {owner}): the private key is on the computer that requested it"
        )
    return told


def _named(tags: Sequence[str]) -> str:
    return ", ".join(tags[:3]) + (f" and {len(tags) - 3:,} more" if len(tags) > 3 else "")


async def notices(client: PuterClient, views: Sequence[View]) -> list[str]:
    """The notes of workers about the launches of this batch, each once; a few of its tags have all of them."""
    found: dict[str, None] = {}
    launched = [view for view in views if view.outcome in (Outcome.CREATED, Outcome.EXISTING) and view.record]
    for view in launched[:_LOOKED_AT_FOR_NOTICES]:
        for event in await client.events(view.tag):
            # A note about a launch was shown to the request that caused the launch.
            told_now = view.outcome is Outcome.CREATED or event.kind is EventKind.INSTANCE_FOUND
            if told_now and view.record and event.at >= view.record.created_at:
                found |= dict.fromkeys(event.notices)
    return list(found)
