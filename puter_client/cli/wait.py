"""`puter wait`: wait until machines have reached a phase."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import json_option, namespace_option, selection_options, timeout_option, wait_option
from puter_client.cli.selection import batch_id_of, batch_name, check_selection, not_known, waiting_for_worker
from puter_client.cli.terminal import live, say
from puter_client.config import ClientSettings
from puter_client.contract.errors import NoWorker, WaitTimedOut
from puter_client.contract.phase import ENDED
from puter_client.view import WaitFor, WaitState

if TYPE_CHECKING:
    from puter_client.cli.follow import InFlight
    from puter_client.client import PuterClient


@click.command(short_help=COMMANDS["wait"][2])
@selection_options
@click.option("--all", "everything", is_flag=True, help="All that have not ended (the default).")
@wait_option("running", "--for")
@timeout_option(None)
@namespace_option
@json_option
def wait(
    tags: tuple[str, ...],
    batch: str | None,
    everything: bool,
    wait: str,
    timeout: float | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Wait until machines have reached a phase.

    Without tags: all that have not ended. Ctrl-C ends only the waiting.

    \b
    Examples:
      puter wait build
      puter wait --batch last --timeout 10m
      puter wait --batch last --for terminated

    Exit code 0: all have reached the phase, or have ended; 1: some failed;
    4: timed out.
    """
    from puter_client.cli.follow import InFlight, run
    from puter_client.cli.session import settings_of

    chosen = check_selection(tags, batch, everything)
    settings = settings_of(namespace)
    in_flight = InFlight(settings, WaitFor(wait), chosen, as_json=as_json)
    return run(lambda: _wait(settings, in_flight, batch, timeout, as_json), in_flight)


class _Selected:
    """What is to be waited for, found out before the wait begins.

    Attributes:
        tags: the tags; [] for a batch.
        size: number of requests of the batch, once known.
        late: what to say if time is up meanwhile.
    """

    def __init__(self, client: PuterClient, settings: ClientSettings, in_flight: InFlight) -> None:
        self._client = client
        self._settings = settings
        self._in_flight = in_flight
        self.tags = list(in_flight.tags)
        self.size: int | None = None
        self.late = "timed out: Redis has not answered yet"

    async def find(self, batch: str | None) -> bool:
        """Whether there is anything to wait for: these tags, this batch, or all that has not ended."""
        client, in_flight = self._client, self._in_flight
        if batch is not None:
            in_flight.batch_id = await batch_id_of(client, batch)
        if batch is not None or self.tags:
            in_flight.is_sent()
            await self._until_known()
        else:
            untaken = await client.untaken()
            self.tags = [view.tag for view in await client.recent() if view.phase not in ENDED]
            if untaken:
                say(f"{waiting_for_worker(untaken)}; name their tags or batch to wait for them")
            if not self.tags:
                say("nothing to wait for: everything has ended")
                return False
            in_flight.is_sent()
        await self._somebody_serves()
        return True

    async def _until_known(self) -> None:
        """Wait until the tags or the batch are known, while some requests are not taken yet.

        Raises:
            NotKnown: they are unknown, although workers have taken all requests.
            NoWorker: no worker takes the rest of the requests.
        """
        from puter_client.cli.follow import end_if_interrupted
        from puter_client.cli.session import why_no_worker

        client, in_flight = self._client, self._in_flight
        try:
            while True:
                end_if_interrupted()
                untaken = await client.untaken()
                if in_flight.batch_id is not None:
                    info, _ = await client.batch(in_flight.batch_id)
                    if info is not None:
                        self.size = info.size
                        return
                    unknown = [batch_name(in_flight.batch_id)]
                else:
                    in_flight.views = await client.views(in_flight.tags)
                    unknown = [view.tag for view in in_flight.views if view.record is None]
                if not unknown:
                    return
                if not untaken:
                    raise not_known(client, unknown, 0)
                waiting = waiting_for_worker(untaken)
                within_s = client.timings.worker_starts_within_s
                if no_worker := await why_no_worker(client, self._settings, within_s=within_s):
                    raise NoWorker(f"{no_worker}\n{waiting}")
                self.late = f"timed out: {', '.join(unknown)} not known yet; {waiting}"
                live.show(f"{waiting} …")
                await asyncio.sleep(client.timings.look_every_s)
        finally:
            live.clear()

    async def _somebody_serves(self) -> None:
        """Check that there is a worker, unless all tags have reached the phase already.

        Raises:
            NoWorker: there is no worker.
        """
        from puter_client.cli.session import why_no_worker

        client, in_flight = self._client, self._in_flight
        if await why_no_worker(client, self._settings) is None:
            return
        batch_id = in_flight.batch_id
        views = await client.views(self.tags) if batch_id is None else (await client.batch(batch_id))[1]
        reached = all(view.wait_state(in_flight.wait) is not WaitState.WAITING for view in views)
        if reached and len(views) >= (self.size or 0):
            return
        within_s = client.timings.worker_starts_within_s
        if no_worker := await why_no_worker(client, self._settings, within_s=within_s):
            raise NoWorker(no_worker)


async def _wait(
    settings: ClientSettings, in_flight: InFlight, batch: str | None, timeout_s: float | None, as_json: bool
) -> int:
    from puter_client.cli import follow
    from puter_client.cli.session import connected
    from puter_client.watch import in_time

    began = time.monotonic()
    async with connected(settings, looks_only=True, waits=True) as client:
        selected = _Selected(client, settings, in_flight)
        async with in_time(timeout_s, lambda: WaitTimedOut(selected.late)):
            if not await selected.find(batch):
                return 0
        left_s = None if timeout_s is None else max(0.0, began + timeout_s - time.monotonic())
        try:
            views = await follow.follow(client, in_flight, timeout_s=left_s, size=selected.size, tags=selected.tags)
        except WaitTimedOut:
            if not as_json:
                follow.tell_end(in_flight.views, in_flight.wait, as_json=False)
            raise
    return follow.tell_end(views, in_flight.wait, as_json=as_json)
