"""MIME as far as user data needs it: headers, and the parts of one multipart. What a part contains is not looked into.

The standard library's parser works through each line and each level of a message: 16 KB cost it up to half a second.
Here it parses headers alone, of which a message and each part may have 1 KB; what is left to do are a few searches.
"""

from __future__ import annotations

import binascii
import quopri
import re
from collections.abc import Iterator
from email.message import Message
from email.parser import BytesHeaderParser
from typing import NamedTuple

MAX_HEADER_BYTES = 1_024
# An empty line, whatever ends lines: the end of the headers.
_EMPTY_LINE = re.compile(rb"(?:\A|(?<=\n)|(?<=\r)(?!\n))(?:\r\n|\r|\n)")
_END_OF_LINE = re.compile(rb"(?:\r\n|\r|\n)\Z")
_PLAIN = ("7bit", "8bit", "binary")


class NotMime(ValueError):
    """A text is not MIME, or has more headers than are read."""


class Entity(NamedTuple):
    """A message, or one part of it.

    Attributes:
        headers: as they are written.
        body: what follows them, as it is encoded.
    """

    headers: Message
    body: bytes


def read_entity(text: bytes) -> Entity:
    """The headers and the body of a text.

    Raises:
        NotMime: its headers are not valid, or have over MAX_HEADER_BYTES.
    """
    empty = _EMPTY_LINE.search(text)
    head, body = (text[: empty.start()], text[empty.end() :]) if empty else (text, b"")
    if len(head) > MAX_HEADER_BYTES:
        raise NotMime
    # The parser reads letters beyond ASCII correctly from bytes only.
    headers = BytesHeaderParser().parsebytes(head + b"\n\n")
    if headers.defects:
        raise NotMime
    return Entity(headers, body)


def texts_of_parts(multipart: Entity) -> Iterator[bytes]:
    """The texts between the boundaries, headers included; where nothing is between two of them, there is no part.

    Raises:
        NotMime: there is no boundary, or none that ends the parts.
    """
    boundary = multipart.headers.get_boundary()
    if not boundary:
        raise NotMime
    try:
        # At the beginning of a line. What comes first in a pattern is searched for fast, if it is a text.
        line = rb"--(?<![^\r\n]--)" + re.escape(boundary.encode("ascii", "surrogateescape"))
    except UnicodeEncodeError:
        raise NotMime from None
    begins: int | None = None
    for found in re.finditer(line + rb"(--)?[ \t]*(?:\r\n|\r|\n|\Z)", multipart.body):
        if begins is not None and found.start() > begins:
            # The end of the last line belongs to the boundary (RFC 2046, 5.1.1).
            yield _END_OF_LINE.sub(b"", multipart.body[begins : found.start()])
        if found[1]:
            return
        begins = found.end()
    raise NotMime


def decoded(part: Entity) -> bytes:
    """The content of a part.

    Raises:
        NotMime: it is not encoded as its headers say.
    """
    encoding = str(part.headers.get("Content-Transfer-Encoding", "7bit")).strip().lower()
    if encoding in _PLAIN:
        return part.body
    if encoding == "quoted-printable":
        return quopri.decodestring(part.body)
    if encoding != "base64":
        raise NotMime
    try:
        return binascii.a2b_base64(b"".join(part.body.split()), strict_mode=True)
    except binascii.Error:
        raise NotMime from None
