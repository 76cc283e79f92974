"""Parts of user data and their MIME form, as cloud-init reads it.

No content can spoil the message: what is not plain ASCII travels as base64, whose decoding fails for nothing that this
module writes; no line of a part can be its boundary, which is a digest of all parts; and the types are those of the
closed list, whatever a caller says.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from email import policy
from email.mime.multipart import MIMEMultipart
from email.mime.nonmultipart import MIMENonMultipart

import msgspec

from puter_client.contract.userdata import Part, check_type, is_plain


def render(parts: Sequence[Part]) -> bytes:
    """The parts as one MIME message; the same parts give the same bytes.

    Raises:
        InvalidInput: a part's type is not on the closed list, or its text does not begin as that type.
    """
    for part in parts:
        check_type(part)
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
    if is_plain(part.body):
        message.set_payload(part.body.decode("ascii"))
    else:
        message["Content-Transfer-Encoding"] = "base64"
        message.set_payload(base64.encodebytes(part.body).decode("ascii"))
    return message
