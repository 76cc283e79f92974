"""A batch: the requests of one submission, a row a tag."""

from __future__ import annotations

import msgspec

from puter_client.contract.outcome import Outcome


class BatchInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A submission as intake first saw it.

    Attributes:
        batch_id: made by the client.
        namespace: its inbox's.
        size: how many requests it said to have.
        owner: who said to be asking.
        created_at: when intake took its first request, seconds of Redis TIME.
    """

    batch_id: str
    namespace: str
    size: int
    owner: str
    created_at: float


class BatchRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one request of a batch.

    Attributes:
        outcome: None while a worker checks in EC2 what the record says.
        generation: of which instance the outcome speaks.
        request_number: of which of the key's requests.
        message: why, where it was not granted.
    """

    outcome: Outcome | None = None
    generation: int | None = None
    request_number: int | None = None
    message: str | None = None
