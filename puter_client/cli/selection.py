"""Which tags a command is about: named ones, those of a batch, or all known ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from puter_client.contract.errors import PuterError
from puter_client.contract.key import check_tag, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from puter_client.client import PuterClient

LAST = "last"


class NotKnown(PuterError):
    """A tag or batch that was never requested, or ended over 30 days ago and is forgotten."""


def check_selection(tags: tuple[str, ...], batch: str | None, everything: bool = False) -> tuple[str, ...]:
    """The tags, each once, after checking that only one of tags, batch and all is given.

    Raises:
        InvalidInput: a tag is not valid.
    """
    if (bool(tags) + (batch is not None) + everything) > 1:
        raise click.UsageError("choose one: tags, --batch or --all")
    return tuple(dict.fromkeys(check_tag(tag) for tag in tags))


async def batch_id_of(client: PuterClient, written: str) -> str:
    """The id of a batch: as written, or that of the latest one for `last`.

    Raises:
        NotKnown: there is no batch yet, or requests that no worker has taken may belong to a later one.
    """
    import asyncio

    if written != LAST:
        return written
    limit = client.limit(client.timings.taken_within_s)
    while untaken := await client.untaken():
        if limit.is_over:
            raise NotKnown(f"the last batch is not known yet: {waiting_for_worker(untaken)}; name it with --batch ID")
        await asyncio.sleep(client.timings.look_every_s)
    latest = await client.batches(last=1)
    if not latest:
        raise NotKnown(f"namespace {client.namespace} has no batch yet")
    return latest[0].batch_id


def not_known(client: PuterClient, names: Sequence[str], untaken: int) -> NotKnown:
    """The error of tags, or of `batch ID`, that no worker knows."""
    if untaken:
        lines = [f"{name} is not known in namespace {client.namespace} yet" for name in names]
        return NotKnown("\n".join([*lines, waiting_for_worker(untaken)]))
    return NotKnown("\n".join(f"{name} is not known in namespace {client.namespace}" for name in names))


def batch_name(batch_id: str) -> str:
    """The name of a batch in messages; its id comes from outside."""
    return f"batch {shown(batch_id)}"


def waiting_for_worker(untaken: int) -> str:
    """That requests are in the inbox, where their tags cannot be seen."""
    if untaken == 1:
        return "1 request is waiting for a worker to take it"
    return f"{untaken:,} requests are waiting for a worker to take them"
