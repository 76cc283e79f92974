"""Which tags a command speaks of: named ones, those of a batch, or all that is known."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from puter_client.contract.errors import PuterError
from puter_client.contract.key import check_tag, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from puter_client.client import PuterClient

LAST = "last"
TAKEN_WITHIN_S = 2.0  # workers that are at work take what was submitted just now
LOOK_EVERY_S = 0.05


class NotKnown(PuterError):
    """A tag or batch that nobody has requested, or that was forgotten 30 days after its end."""


def check_selection(tags: tuple[str, ...], batch: str | None, everything: bool = False) -> tuple[str, ...]:
    """The tags, each once; a command speaks of tags, of a batch or of all, and of one of these.

    Raises:
        InvalidInput: a tag is outside its alphabet.
    """
    if (bool(tags) + (batch is not None) + everything) > 1:
        raise click.UsageError("keep one: tags, --batch or --all")
    return tuple(dict.fromkeys(check_tag(tag) for tag in tags))


async def batch_id_of(client: PuterClient, written: str) -> str:
    """The id of the batch meant: as written, or the latest one for `last`.

    Raises:
        NotKnown: there is none yet, or which it is cannot be told: what no worker has taken may be a later one.
    """
    import asyncio

    if written != LAST:
        return written
    deadline = time.monotonic() + TAKEN_WITHIN_S
    while untaken := await client.untaken():
        if time.monotonic() > deadline:
            raise NotKnown(f"which batch is the last is not known: {waiting_for_worker(untaken)}; name it: --batch ID")
        await asyncio.sleep(LOOK_EVERY_S)
    latest = await client.batches(last=1)
    if not latest:
        raise NotKnown(f"no batch in namespace {client.namespace} yet")
    return latest[0].batch_id


def not_known(client: PuterClient, names: Sequence[str], untaken: int) -> NotKnown:
    """The error of tags, or of `batch ID`, that no worker has heard of."""
    if untaken:
        lines = [f"{name} is not known in namespace {client.namespace} yet" for name in names]
        return NotKnown("\n".join([*lines, waiting_for_worker(untaken)]))
    return NotKnown("\n".join(f"{name} is not known in namespace {client.namespace}" for name in names))


def batch_name(batch_id: str) -> str:
    """A batch as messages name it; its id comes from outside."""
    return f"batch {shown(batch_id)}"


def waiting_for_worker(untaken: int) -> str:
    """That requests lie in the inbox, which tells nobody whose they are."""
    if untaken == 1:
        return "1 request waits for a worker to take it"
    return f"{untaken:,} requests wait for a worker to take them"
