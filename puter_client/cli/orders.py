"""What commands that order something share: of which machines, whether they have confirmed, which do not react."""

from __future__ import annotations

import asyncio
import math
import shlex
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from puter_client.cli.selection import batch_id_of, batch_name, not_known
from puter_client.cli.terminal import live, out, plain, say
from puter_client.contract.phase import ENDED, LIVE, Phase
from puter_client.ssh_commands import ssh_command
from puter_client.view import View

if TYPE_CHECKING:
    from puter_client.client import PuterClient

MOST_LISTED = 20


class Selected(msgspec.Struct, frozen=True):
    """The machines that a command is about.

    Attributes:
        tags: the tags that are known so far.
        batch_id: the batch that was named, if any.
        size: how many tags there are, or will be when workers have taken the whole batch.
        views: of the tags that are known so far.
    """

    tags: list[str]
    batch_id: str | None
    size: int
    views: list[View]


async def selected(client: PuterClient, tags: Sequence[str], batch: str | None) -> Selected:
    """The machines of these tags, of a batch, or (without both) all that have not ended, or may run again.

    Raises:
        NotKnown: there is no such batch.
    """
    if batch is not None:
        batch_id = await batch_id_of(client, batch)
        info, views = await client.batch(batch_id)
        if info is None:
            raise not_known(client, [batch_name(batch_id)], await client.untaken())
        return Selected([view.tag for view in views], batch_id, info.size, views)
    views = await client.views(tags) if tags else [v for v in await client.recent() if _goes_on(v)]
    return Selected([view.tag for view in views], None, len(views), views)


def _goes_on(view: View) -> bool:
    """Whether it has not ended, or it is not known yet how its workload did, which may thus be run again."""
    record = view.record
    if record is not None and view.phase is Phase.TERMINATED:
        return record.has_workload and record.result is None
    return view.phase not in ENDED


AGENT = "/usr/local/sbin/puter-agent"


async def until_confirmed(client: PuterClient, view: View, *, at_most_s: float) -> View:
    """The machine once its agent has said that it has its present order, or after `at_most_s`."""
    from puter_client.cli.follow import end_if_interrupted

    record, timings = view.record, client.timings
    order, limit, told_at = record.order if record else None, client.limit(at_most_s), -math.inf
    try:
        while record and order and record.phase in LIVE and order.confirmed_at is None:
            end_if_interrupted()
            if limit.is_over:
                break
            now = time.monotonic()
            if live.possible or now - told_at >= timings.progress_line_s:
                told_at = now
                (live.show if live.possible else say)(f"{view.tag}: waiting until the machine confirms its new end")
            await asyncio.sleep(timings.look_every_s)
            (read,) = await client.views([view.tag])
            record = read.record
            given_at, order = order.given_at, record.order if record else None
            if order is not None and order.given_at != given_at:
                break  # another order has come
    finally:
        live.clear()
    return msgspec.structs.replace(view, record=record)


def tell_unmoved(views: Sequence[View], what: str, order: Callable[[View], str | None]) -> None:
    """List machines that do not react, with what helps.

    Args:
        views: the machines.
        what: such as "do not stop".
        order: the words with which the machine's agent is given the same order by ssh; None if there are none.
    """
    out(f"{len(views):,} machine{'s' * (len(views) != 1)} {what}:")
    for view in views[:MOST_LISTED]:
        record = view.record
        problem = record.order.problem if record and record.order else None
        out(f"  {plain(view.tag)}: {plain(problem)}" if problem else f"  {plain(view.tag)}")
        if record is not None and (words := order(view)) and (ssh := ssh_command(record)):
            out(f"    {ssh} sudo {AGENT} {words}")
    if len(views) > MOST_LISTED:
        out(f"  +{len(views) - MOST_LISTED:,} more")


def aws_terminate(views: Sequence[View]) -> list[str]:
    """Commands of the AWS CLI that end these machines, one for each account and region, ready to paste."""
    by_place: dict[tuple[str, str], list[str]] = {}
    for view in views:
        if view.record is not None and view.record.instance_id:
            place = (view.record.region or "", view.record.profile or "")
            by_place.setdefault(place, []).append(view.record.instance_id)
    commands = []
    for (region, profile), ids in sorted(by_place.items()):
        where = ["--region", region] if region else []
        who = ["--profile", profile] if profile else []
        commands.append(shlex.join(["aws", "ec2", "terminate-instances", *where, *who, "--instance-ids", *ids]))
    return commands
