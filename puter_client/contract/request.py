"""What a client appends to its namespace's inbox."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

import msgspec

from puter_client.contract.spec import Spec

# A spec holds at most 16 KB each of user data, workload and env; JSON's escapes make up to six of one byte.
MAX_REQUEST_BYTES = 524_288
MAX_BATCH_ID = 40


class Origin(StrEnum):
    """Which command made a request: `up` wants a machine now, `submit` a workload done once."""

    UP = "up"
    SUBMIT = "submit"


class UpRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag="up"):
    """There shall be a machine under this tag. The namespace is the inbox's.

    Attributes:
        v: schema version.
        tag: as written; intake checks it.
        spec: what is requested.
        batch: id of the submission, made by the client.
        size: how many requests the submission has.
        user: who says to be asking; a claim, good for a tag.
        origin: up wants a machine now, submit a workload done once.
        max_parallel: with submit: at most so many machines of the batch at a time.
        again: make a next generation of an ended key whatever its result.
        retry_failed: with submit: make a next generation of a workload that did not succeed.
    """

    v: Literal[1] = 1
    tag: str
    spec: Spec
    batch: str
    size: int
    user: str
    origin: Origin
    max_parallel: int | None = None
    again: bool = False
    retry_failed: bool = False


class CancelRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag="cancel"
):
    """The request for this tag is withdrawn if nothing has been asked of EC2 for it.

    Attributes:
        v: schema version.
        tag: as written; intake checks it.
        user: who says to be asking.
        batch: withdraw only what this submission requested; None: whoever did.
    """

    v: Literal[1] = 1
    tag: str
    user: str
    batch: str | None = None


Request = UpRequest | CancelRequest
