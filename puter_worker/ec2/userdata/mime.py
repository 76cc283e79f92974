"""Parts of user data and their MIME form, as cloud-init reads it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from email import policy
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart

import msgspec

# cloud-init decodes the whole message as text before it parses it: what is not plain ASCII would arrive altered.
_PLAIN = re.compile(rb"[\t\n\x20-\x7e]*")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of user data.

    Attributes:
        content_type: one that cloud-init or a part handler knows.
        body: arrives as it is, to the byte.
        filename: cloud-init runs scripts in the order of these; None is a number by position.
        launch_index: the one instance of a launch that it is for; None is each of them.
    """

    content_type: str
    body: bytes
    filename: str | None = None
    launch_index: int | None = None


def render(parts: Sequence[Part]) -> bytes:
    """The parts as one MIME message; the same parts give the same bytes."""
    digest = hashlib.sha256(msgspec.msgpack.encode(parts)).hexdigest()
    outer = MIMEMultipart(boundary=f"puter-{digest[:32]}")
    for part in parts:
        outer.attach(_message(part))
    return outer.as_bytes(policy=policy.compat32.clone(max_line_length=None))


def _message(part: Part) -> MIMENonMultipart:
    message = MIMENonMultipart(*part.content_type.split("/", 1))
    del message["MIME-Version"]  # the outer message has it
    if part.filename is not None:
        message.add_header("Content-Disposition", "attachment", filename=part.filename)
    if part.launch_index is not None:
        message["Launch-Index"] = str(part.launch_index)
    if _PLAIN.fullmatch(part.body):
        message.set_payload(part.body.decode("ascii"))
    else:
        message["Content-Transfer-Encoding"] = "base64"
        message.set_payload(base64.encodebytes(part.body).decode("ascii"))
    return message
