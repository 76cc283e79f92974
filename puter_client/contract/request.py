"""What a client appends to its inbox."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from puter_client.contract.spec import Spec

# A spec holds at most 16 KB each of user data, workload and env, and JSON's escapes make up to six of one byte; all its
# other fields have less than 90 KB.
MAX_REQUEST_BYTES = 393_216
MAX_BATCH = 100_000
"""How many requests a submission has at most."""
MAX_BATCH_ID = 40
BATCH_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9-]{{0,{MAX_BATCH_ID - 1}}}")


class Origin(StrEnum):
    """Which command made a request: `up` wants a machine now, `submit` a workload done once."""

    UP = "up"
    SUBMIT = "submit"


class UpRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag="up"):
    """Ensure that a machine exists under this tag. The namespace is that of the inbox.

    Attributes:
        v: schema version.
        tag: as the client sent it; workers check it.
        spec: what is requested.
        batch: id of the submission, made by the client.
        size: number of requests of the submission.
        user: who the client says to be; workers take it from the inbox's name instead, if that names a user.
        origin: the command that made the request.
        max_parallel: with submit: limit of machines of the batch that run at the same time.
        max_fails: with submit: as soon as so many of the batch have failed, the rest of it is cancelled.
        keep_running: with `max_fails`: what runs then is not stopped.
        again: launch a next generation of an ended key whatever its result.
        retry_failed: with submit: launch a next generation if the workload did not succeed.
        given: names of fields, of those that may differ for one machine, that the user gave: in a file or as options.
    """

    v: Literal[1] = 1
    tag: str
    spec: Spec
    batch: str
    size: int
    user: str
    origin: Origin
    max_parallel: int | None = None
    max_fails: int | None = None
    keep_running: bool = False
    again: bool = False
    retry_failed: bool = False
    given: Annotated[tuple[Annotated[str, msgspec.Meta(max_length=40)], ...], msgspec.Meta(max_length=100)] = ()


class CancelRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag="cancel"
):
    """Cancel the request for this tag if its launch has not begun.

    Attributes:
        v: schema version.
        tag: as the client sent it; workers check it.
        user: who the client says to be; see UpRequest.
        batch: cancel only a request of this submission; None cancels any.
    """

    v: Literal[1] = 1
    tag: str
    user: str
    batch: str | None = None


class StopRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag="stop"
):
    """End this tag's machine now, or cancel its request if nothing is launched for it.

    Attributes:
        v: schema version.
        tag: as the client sent it; workers check it.
        user: who the client says to be; see UpRequest.
        batch: only for a request of this submission; None is for any.
    """

    v: Literal[1] = 1
    tag: str
    user: str
    batch: str | None = None


LONGEST_EXTENSION_S = 365 * 86_400
"""By how much one request may put a machine's end off, and how far from now it may set it: as long as a ttl."""


class ExtendRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag="extend"
):
    """Let this tag's machine end itself at another time.

    Attributes:
        v: schema version.
        tag: as the client sent it; workers check it.
        user: who the client says to be; see UpRequest.
        batch: only for a machine of this submission; None is for any.
        expires_at: when it ends itself, in seconds of Redis TIME; None is never, if `add_s` is None too.
        add_s: so much later than it would have ended itself.
        request_id: random; the same request that comes again, because a connection broke, adds nothing more.
    """

    v: Literal[1] = 1
    tag: str
    user: str
    batch: str | None = None
    expires_at: float | None = None
    add_s: int | None = None
    request_id: str | None = None


class ConsoleRequest(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True, tag="console"
):
    """Publish once what the console of this tag's machine shows now; without a machine it has no effect.

    Attributes:
        v: schema version.
        tag: as the client sent it; workers check it.
        user: who the client says to be; see UpRequest.
        batch: only for a machine of this submission; None is for any.
    """

    v: Literal[1] = 1
    tag: str
    user: str
    batch: str | None = None


Request = UpRequest | CancelRequest | StopRequest | ExtendRequest | ConsoleRequest
