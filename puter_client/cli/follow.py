"""What `up`, `submit`, `wait` and `demo` share: requesting, following what comes of it, and telling how it ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from puter_client.cli import INTERRUPTED, table
from puter_client.cli.progress import Progress
from puter_client.cli.session import STARTING_S, Served, nobody_serves
from puter_client.cli.terminal import columns, out, plain, say
from puter_client.config import ClientSettings, login_name
from puter_client.contract.errors import NoWorker, PuterError, StoreUnavailable, WaitTimedOut
from puter_client.contract.outcome import Outcome
from puter_client.contract.record import EventKind
from puter_client.contract.request import Origin
from puter_client.contract.spec import spec_digest
from puter_client.view import View, WaitFor, WaitState

if TYPE_CHECKING:
    from puter_client.client import MachineRequest, PuterClient

MOST_LISTED = 20
_LOGGED_TAGS = 100
_LOOKED_AT_FOR_NOTICES = 5


class Going:
    """What goes on should the command end before its requests do: nothing, until they are sent or found.

    Attributes:
        settings: of the command.
        wait: how far they are waited for.
        tags: those that were named; () is a batch, or else all.
        batch_id: of the submission, once it begins to be sent.
        views: as last seen.
    """

    def __init__(self, settings: ClientSettings, wait: WaitFor = WaitFor.RUNNING, tags: Sequence[str] = ()) -> None:
        self.settings = settings
        self._on = False
        self._sending = False
        self.wait = wait
        self.tags = tuple(tags)
        self.batch_id: str | None = None
        self.views: list[View] = []

    def sends(self, batch_id: str) -> None:
        """From here on Redis may have some of the requests."""
        self.batch_id = batch_id
        self._sending = True

    def goes_on(self) -> None:
        """From here on it goes on without the command."""
        self._on, self._sending = True, False

    def come_back(self) -> str | None:
        """How to come back to it; None if nothing goes on."""
        command = self.settings.command
        if self._sending:
            if self.tags:
                return f"whether the request was sent is not known; look with: {command(f'status {self.tags[0]}')}"
            look = command(f"status --batch {self.batch_id}")
            return f"how many of the requests were sent is not known; look with: {look}; submitting again doubles none"
        if not self._on:
            return None
        tell = "why" if len(self.tags) == 1 else "status"
        chosen = f" --batch {self.batch_id}" if self.batch_id else ""
        if self.tags:
            chosen = " " + " ".join(self.tags) if len(self.tags) <= MOST_LISTED else ""
        far = "" if self.wait is WaitFor.RUNNING else f" --for {self.wait.value}"
        return f"come back with: {command(f'wait{chosen}{far}')}   {command(f'{tell}{chosen}')}"

    def last_words(self) -> str | None:
        """What to say as the command ends on a Ctrl-C; None if nothing goes on."""
        way = self.come_back()
        if way is None or self._sending:
            return way
        if len(self.tags) == 1:
            return f"the request goes on; {way}"
        return f"the batch goes on; {way}" if self.batch_id and not self.tags else f"the requests go on; {way}"


def run(work: Callable[[], Awaitable[int]], going: Going | None = None) -> int:
    """Run a command's asynchronous part; Ctrl-C ends the command, not its requests."""
    import asyncio

    async def main() -> int:
        try:
            return await work()
        except PuterError:
            end_if_interrupted()  # what a library made of a Ctrl-C
            raise

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        if words := going.last_words() if going else None:
            say(words)
        return INTERRUPTED
    except (WaitTimedOut, StoreUnavailable, NoWorker) as error:
        say(str(error))
        if way := going.come_back() if going else None:
            say(way)
        return error.exit_code


def end_if_interrupted() -> None:
    """End here if Ctrl-C was pressed and a library swallowed it; loops of commands call it.

    `asyncio.timeout(0)` takes a cancellation that was requested just before for its own, and redis-py uses it.
    """
    import asyncio

    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def request(
    client: PuterClient,
    settings: ClientSettings,
    asked: Sequence[MachineRequest],
    going: Going,
    *,
    origin: Origin,
    again: bool = False,
    retry_failed: bool = False,
    max_parallel: int | None = None,
) -> str:
    """Submit, note it in the client's log, and be sure that somebody takes it; the batch's id.

    Raises:
        NoWorker: nobody does, on a shared Redis; the requests stay.
    """
    from puter_client.client import new_batch_id

    nobody = await nobody_serves(client, settings)
    batch_id = new_batch_id()
    going.sends(batch_id)
    await client.submit(
        asked, origin=origin, again=again, retry_failed=retry_failed, max_parallel=max_parallel, batch_id=batch_id
    )
    going.goes_on()
    log(
        settings,
        "requests.submitted",
        namespace=settings.namespace,
        batch=batch_id,
        count=len(asked),
        tags=[one.tag for one in asked[:_LOGGED_TAGS]],
        spec_digests=sorted({spec_digest(one.spec) for one in asked[:_LOGGED_TAGS]}),
        origin=origin.value,
        again=again,
        retry_failed=retry_failed,
        max_parallel=max_parallel,
    )
    if nobody and (nobody := await nobody_serves(client, settings, within_s=STARTING_S)):
        raise NoWorker(f"{nobody}\nthe requests wait for one, as batch {batch_id}")
    return batch_id


def log(settings: ClientSettings, event: str, **facts: object) -> None:
    """Note in the client's log what was requested; a log that cannot be written holds up nothing."""
    from puter_client.clientlog import log_action

    try:
        log_action(settings.paths, event, user=login_name(settings.environ), **facts)
    except (PuterError, OSError) as error:
        say(f"warning: the log in {settings.paths.logs} cannot be written: {error}")


async def follow(
    client: PuterClient,
    going: Going,
    *,
    timeout_s: float | None,
    size: int | None = None,
    tags: Sequence[str] = (),
) -> list[View]:
    """Wait as far as `going` says, showing how far it is.

    Raises:
        WaitTimedOut: it took too long; `going.views` are the last ones.
        NoWorker: there is none any more.
    """
    with Progress(going.wait) as progress:

        def changed(views: Sequence[View]) -> None:
            end_if_interrupted()
            going.views = list(views)
            progress.update(views)

        return await client.wait(
            wait=going.wait,
            batch_id=going.batch_id,
            tags=tags,
            size=size,
            timeout_s=timeout_s,
            on_change=changed,
            meanwhile=Served(client, going.settings).look,
        )


def failed(view: View, wait: WaitFor) -> bool:
    """Whether what was waited for cannot come any more."""
    return view.wait_state(wait) is WaitState.FAILED


def outcomes(views: Sequence[View]) -> str:
    """`20 created, 5 existing`."""
    counts = Counter(view.outcome.value if view.outcome else "open" for view in views)
    order = [*(outcome.value for outcome in Outcome), "open"]
    return ", ".join(f"{counts[name]:,} {name}" for name in order if counts[name])


def summary(views: Sequence[View], wait: WaitFor) -> list[str]:
    """The end of a batch: counts, and a table of all of a few tags, else of those that did not come."""
    lines = []
    if any(view.outcome for view in views):
        lines.append(f"{len(views):,} {'puter' if len(views) == 1 else 'puters'}: {outcomes(views)}")
    if wait is not WaitFor.QUEUED:
        lines.append(f"now: {table.counted(views)}")
    bad = [view for view in views if failed(view, wait)]
    listed = list(views) if len(views) <= MOST_LISTED and wait is not WaitFor.QUEUED else bad
    if listed:
        now = time.time()
        cells = [table.line_of(view, now) for view in listed[:MOST_LISTED]]
        lines += ["", *table.table(cells, columns())]
        if len(listed) > MOST_LISTED:
            lines.append(f"+{len(listed) - MOST_LISTED:,} more")
    return lines


def tell_end(views: Sequence[View], wait: WaitFor, *, as_json: bool) -> int:
    """Print how it ended; the exit code."""
    if as_json:
        from puter_client.cli.terminal import out_json

        for view in views:
            out_json(view.to_json())
    else:
        for line in summary(views, wait):
            out(line)
    return 1 if any(failed(view, wait) for view in views) else 0


def why_not(view: View) -> str:
    """Why a tag has no machine, with AWS's code and request id if there are any."""
    record = view.record
    if view.outcome is not None and view.wait_state(WaitFor.QUEUED) is WaitState.FAILED:
        return f"{view.tag}: {view.outcome.value}: {plain(view.reason or 'no reason was given')}"
    if record is not None and record.error is not None:
        request = f" (request id {plain(record.error.request_id)})" if record.error.request_id else ""
        return f"{view.tag}: {plain(record.error.code)}: {plain(record.error.message)}{request}"
    return f"{view.tag}: {view.phase.value}: {plain(view.reason or 'no reason was given')}"


async def notices(client: PuterClient, views: Sequence[View]) -> list[str]:
    """What workers noted on the launches of this batch, each once; a few tags of it tell all there is."""
    found: dict[str, None] = {}
    launched = [view for view in views if view.outcome in (Outcome.CREATED, Outcome.EXISTING) and view.record]
    for view in launched[:_LOOKED_AT_FOR_NOTICES]:
        for event in await client.events(view.tag):
            # Of a launch it was told to whoever requested it.
            told_now = view.outcome is Outcome.CREATED or event.kind is EventKind.INSTANCE_FOUND
            if told_now and view.record and event.at >= view.record.created_at:
                found |= {notice: None for notice in [event.detail.get("notice")] if notice}
    return list(found)
