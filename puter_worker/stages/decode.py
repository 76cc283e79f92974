"""Reads and checks requests as clients appended them. Pure: no I/O, no clock.

Whatever is in a request, this costs some 2 ms at most: what grows with its content has a cap, which is checked before
the content is looked into. `python -m tests.hostile.dearest` shows the dearest ones.
"""

from __future__ import annotations

import re

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import recheck_spec
from puter_client.contract.key import check_tag
from puter_client.contract.request import BATCH_ID, LONGEST_EXTENSION_S, MAX_BATCH, ExtendRequest, Request, UpRequest

MAX_STRINGS = 3_000
"""How many keys and texts a request has at most: 500 variables are a thousand, all else has less than another one."""
_SMALL_BYTES = 16_384  # has no more strings than that
# Three texts of 16 KB and 20 tags, of commas alone, have 56,812.
_MAX_COMMAS = 60_000
_USER = re.compile(r"[^\x00-\x1f\x7f]{1,64}")
_encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Request)


class Addressee(msgspec.Struct):
    """The parts of a refused request that are needed to report the refusal to its sender.

    Attributes:
        type: the request's kind.
        tag: its tag.
        batch: id of its submission.
        size: number of requests of the submission; 0 if what it says cannot be one.
        user: user name that the client sent; `?` if there is none.
    """

    type: str = ""
    tag: str = ""
    batch: str = ""
    size: int = 0
    user: str = ""


# They name the batch of what they are about: its row has the outcome of another request.
_WITHOUT_A_ROW = frozenset({"cancel", "stop", "extend", "console"})
_addressee = msgspec.json.Decoder(Addressee)


def decode_request(raw: bytes, *, user: str | None = None) -> Request:
    """The request that a client appended. It is checked again here, because a client is not trusted.

    `user`: who has sent it, if Redis vouches for it, whatever the request says.

    Raises:
        InvalidInput: it is not a request of this version, or one of its values cannot be used.
    """
    # A quote within a text is written with a backslash, so every text has at least one of those that are counted.
    most = 2 * MAX_STRINGS
    if len(raw) > _SMALL_BYTES and (quotes := raw.count(b'"')) > most and quotes - raw.count(b'\\"') > most:
        raise InvalidInput(f"has over {MAX_STRINGS:,} keys and texts: a request needs less")
    if len(raw) > _MAX_COMMAS and raw.count(b",") > _MAX_COMMAS:
        raise InvalidInput("has more values than a request needs")
    try:
        request = _decoder.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise InvalidInput("not a request that this worker's version can read") from None
    if user is not None:
        request = msgspec.structs.replace(request, user=user)
    check_tag(request.tag)
    if isinstance(request, UpRequest):
        recheck_spec(request.spec)
        counts = {"size": request.size, "max_parallel": request.max_parallel, "max_fails": request.max_fails}
        for name, count in counts.items():
            if count is not None and not 1 <= count <= MAX_BATCH:
                raise InvalidInput(f"{name} {_number(count)}: must be 1 to {MAX_BATCH}")
    if isinstance(request, ExtendRequest) and request.add_s is not None and abs(request.add_s) > LONGEST_EXTENSION_S:
        raise InvalidInput(f"add_s {_number(request.add_s)}: must be at most {LONGEST_EXTENSION_S}")
    named = [("batch", request.batch, BATCH_ID), ("user", request.user, _USER)]
    if isinstance(request, ExtendRequest):
        named.append(("request_id", request.request_id, BATCH_ID))
    for name, text, pattern in named:
        if text is not None and not pattern.fullmatch(text):
            raise InvalidInput(f"{name}: not a name that a client of Puter makes")
    return request


class Parked(msgspec.Struct, frozen=True, array_like=True):
    """A request that waits for EC2's word on its key.

    Attributes:
        user: who has sent it, if Redis vouched for it.
        request: the request, with that user in it.
    """

    user: str | None
    request: msgspec.Raw


_parked = msgspec.json.Decoder(Parked)


def parked(request: Request, user: str | None) -> bytes:
    """A request as it is parked; `user`: see Parked."""
    return _encode(Parked(user, msgspec.Raw(_encode(request))))


def read_parked(raw: bytes) -> Parked:
    """What was parked; its request is still to be decoded. Another version may have parked the request alone."""
    try:
        return _parked.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Parked(None, msgspec.Raw(raw))


def addressee_of(raw: bytes) -> Addressee | None:
    """Whom to tell that a request is refused; None if that cannot be read, or nobody waits for a row."""
    try:
        to = _addressee.decode(raw)
        check_tag(to.tag)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidInput):
        return None
    if to.type in _WITHOUT_A_ROW or not BATCH_ID.fullmatch(to.batch):
        return None
    size = to.size if 1 <= to.size <= MAX_BATCH else 0
    return Addressee(
        type=to.type, tag=to.tag, batch=to.batch, size=size, user=to.user if _USER.fullmatch(to.user) else "?"
    )


def _number(value: int) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
