"""The user's own user data: its type, recognised as cloud-init does, and the forms that would harm Puter's part.

cloud-init resolves includes and archives and unpacks compressed parts before it runs anything at all, and an error
there (an address that does not answer) ends all of it: since 20.3, see `ERROR_ON_USER_DATA_FAILURE` in its
features.py. A machine would then boot without its deadline. cloud-init also drops the launch index of such parts.
So these forms are refused.
"""

from __future__ import annotations

import email
import re
from email.message import Message

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown

# Beginnings that cloud-init knows, longest first where one begins another (its handlers/__init__.py).
_TYPES = {
    "#!": "text/x-shellscript",
    "#include": "text/x-include-url",
    "#part-handler": "text/part-handler",
    "#cloud-boothook": "text/cloud-boothook",
    "#cloud-config-archive": "text/cloud-config-archive",
    "#cloud-config-jsonp": "text/cloud-config-jsonp",
    "#cloud-config": "text/cloud-config",
    "## template: jinja": "text/jinja2",
}
_MULTIPART = ("content-type: multipart/", "mime-version:")
_REFUSED = re.compile(
    r"text/(x-include(-once)?-url|cloud-config-archive)|application/(x-)?(gzip|gunzip|compress)(ed|-compressed)?"
)
# Types for which cloud-init inspects the text, whatever type the part declares.
_LOOKED_INTO = frozenset({"text/plain", "text/x-not-multipart", "text/x-shellscript"})
_FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

# Names of Puter's scripts begin with this; digits sort before the `part-…` that cloud-init gives to nameless ones.
PUTERS = "000-puter-"


SUBJECT = "user_data"


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of user data.

    Attributes:
        content_type: one that cloud-init or a part handler knows.
        body: the content, which arrives unchanged.
        filename: cloud-init runs scripts in the order of these; None is a number by position.
        launch_index: the one instance of a launch that gets it; None is all of them.
    """

    content_type: str
    body: bytes
    filename: str | None = None
    launch_index: int | None = None


def check_user_data(text: str) -> None:
    """Refuse user data that cloud-init would not take, or that would put the machine's deadline at risk.

    Raises:
        InvalidInput: with what to write instead.
    """
    parts_of(text)


def parts_of(text: str) -> tuple[Part, ...]:
    """The parts of user data, for every instance of a launch: one part, unless the text is MIME itself.

    Raises:
        InvalidInput: see check_user_data.
    """
    text = text.lstrip("\ufeff \t\r\n")
    if text.lower().startswith(_MULTIPART):
        return _parts_of_multipart(text)
    content_type = _type_of(text)
    if content_type is None:
        raise InvalidInput(
            f"begins with {shown(text.partition(chr(10))[0], 20)}: begin it with #! (a script), "
            "#cloud-config, #cloud-boothook, #part-handler, ## template: jinja or Content-Type: multipart/mixed",
            subject=SUBJECT,
        )
    _refuse_harmful(content_type)
    return (Part(content_type=content_type, body=text.encode()),)


def _parts_of_multipart(text: str) -> tuple[Part, ...]:
    # The parser reads letters beyond ASCII correctly from bytes only.
    message = email.message_from_bytes(text.encode())
    leaves = [leaf for leaf in message.walk() if not leaf.is_multipart()]
    if leaves == [message]:
        raise InvalidInput(
            "is not valid MIME: give it a Content-Type of multipart/mixed with the boundary of its parts",
            subject=SUBJECT,
        )
    return tuple(_part_of_leaf(leaf) for leaf in leaves)


def _part_of_leaf(leaf: Message) -> Part:
    body = leaf.get_payload(decode=True)
    if not isinstance(body, bytes):
        raise InvalidInput("has a MIME part without content: remove it", subject=SUBJECT)
    if "Launch-Index" in leaf:
        raise InvalidInput("has a Launch-Index header, which Puter sets itself: remove it", subject=SUBJECT)
    content_type = leaf.get_content_type()
    _refuse_harmful(content_type)
    if content_type in _LOOKED_INTO:
        _refuse_harmful(_type_of(body.decode(errors="replace").lstrip()))
    filename = leaf.get_filename()
    usable = filename and _FILENAME.fullmatch(filename) and not filename.startswith(PUTERS)
    return Part(content_type=content_type, body=body, filename=filename if usable else None)


def _type_of(text: str) -> str | None:
    beginning = text[:40].lower()
    return next((kind for known, kind in _TYPES.items() if beginning.startswith(known)), None)


def _refuse_harmful(content_type: str | None) -> None:
    if content_type and _REFUSED.fullmatch(content_type):
        raise InvalidInput(
            f"has type {content_type}: cloud-init unpacks it before anything runs, and if that fails "
            "the machine never ends itself; fetch or unpack in a script instead (#!/bin/sh, curl …)",
            subject=SUBJECT,
        )
