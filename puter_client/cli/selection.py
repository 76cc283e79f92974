"""Which tags a command speaks of: named ones, those of a batch, or all that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from puter_client.contract.errors import PuterError
from puter_client.contract.key import check_tag, shown

if TYPE_CHECKING:
    from puter_client.client import PuterClient

LAST = "last"


class NotKnown(PuterError):
    """A tag or batch that nobody has wished for, or that was forgotten 30 days after its end."""


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
        NotKnown: there is none yet.
    """
    if written != LAST:
        return written
    latest = await client.batches(last=1)
    if not latest:
        raise NotKnown(f"no batch in namespace {client.namespace} yet")
    return latest[0].batch_id


def unknown_batch(client: PuterClient, batch_id: str) -> NotKnown:
    """The error of a batch that no worker has heard of."""
    return NotKnown(
        f"batch {shown(batch_id)} is not known in namespace {client.namespace}; "
        "if it was submitted just now, no worker has taken it yet"
    )
