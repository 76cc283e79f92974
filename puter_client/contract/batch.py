"""A batch: the requests of one submission, with one row for each tag."""

from __future__ import annotations

import msgspec

from puter_client.contract.outcome import Outcome


class BatchInfo(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A submission, written when a worker takes the first of its requests.

    Attributes:
        batch_id: id, made by the client.
        namespace: namespace of the inbox.
        size: number of its requests, as the client sent it.
        owner: user name that the client sent; not verified.
        created_at: when a worker took its first request, seconds of Redis TIME.
    """

    batch_id: str
    namespace: str
    size: int
    owner: str
    created_at: float


class BatchRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of one request of a batch.

    Attributes:
        outcome: the outcome; None while a worker compares the record with EC2.
        generation: generation of the instance that the outcome is about.
        request_number: which of the key's requests this one is.
        message: why the request launched nothing.
        applied: names of fields in which what existed already was changed as requested.
        not_applied: names of fields that were requested, and that the machine that exists has otherwise.
    """

    outcome: Outcome | None = None
    generation: int | None = None
    request_number: int | None = None
    message: str | None = None
    applied: tuple[str, ...] = ()
    not_applied: tuple[str, ...] = ()
