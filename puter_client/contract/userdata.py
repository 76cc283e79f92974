"""The user's own user data: the forms that Puter accepts, and the type that it gives to each part.

cloud-init looks at all parts of a message before it runs the first of them. An error there ends everything, the
machine's deadline too, and what it expands there loses its launch index, so that it reaches every machine of a launch.
So the list is closed. In cloud-init 19.3 to 26.2 (`user_data.py`, `handlers/__init__.py`) all that is on it

* stays one part: nothing is fetched, unpacked or made into further parts, as includes, archives, gzip and multiparts
  within multiparts are;
* is what its text begins with: the beginning is exact and the type follows from it, so that cloud-init, which looks
  into some types again whatever they say, finds the same type;
* is first read by the handler of its type, which runs after those of the parts before it, and whose errors end that
  part alone. The exception is cloud-config, in which cloud-init looks for a launch index at once. An error there is
  harmless; aliases could make it endless, so they are refused;
* runs by itself: a `#part-handler` would be registered in cloud-init, and be given other parts of the same message.

A jinja template is on the list: its handler renders it, after the deadline is set, and makes of it one script or one
cloud-config. Which of the two is in its second line, which no template can change.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from email.message import Message
from functools import lru_cache
from itertools import islice
from typing import Literal, get_args

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown
from puter_client.contract.multipart import Entity, NotMime, decoded, read_entity, texts_of_parts

ContentType = Literal["text/x-shellscript", "text/cloud-config", "text/cloud-boothook", "text/jinja2"]

SUBJECT = "user_data"
MAX_PARTS = 16
MAX_YAML_DEPTH = 50
MAX_YAML_EVENTS = 1_000
"""Of all parts together: a value is one event, a list or mapping two. Reading so many takes some 1 ms."""
# Names of Puter's scripts begin with this; digits sort before the `part-…` that cloud-init gives to nameless ones.
PUTERS = "000-puter-"

# The types and how their texts begin; the first that matches is the type of a text that says none.
_BEGINNINGS: Mapping[ContentType, re.Pattern[bytes]] = {
    "text/x-shellscript": re.compile(rb"#!"),
    "text/cloud-config": re.compile(rb"#cloud-config(?=[ \t\r\n]|\Z)"),
    "text/cloud-boothook": re.compile(rb"#cloud-boothook(?=[ \t\r\n]|\Z)|#!"),
    "text/jinja2": re.compile(rb"## template: jinja[ \t]*\r?\n(#!|#cloud-config[ \t\r\n])"),
}
# Other beginnings that cloud-init knows, longest first where one begins another.
_INSTEAD = {
    "#include": "cloud-init would fetch it before the machine has a deadline: fetch it in a script (#!/bin/sh, curl …)",
    "#cloud-config-archive": "write each item as a part of a multipart/mixed message",
    "#cloud-config-jsonp": "write the settings themselves as #cloud-config",
    "#part-handler": "it would be given other parts too: do the same in a script (#!…)",
    "## template: jinja": "its second line must begin with #! or be #cloud-config",
}
_UNTYPED = "text/plain"
_MIME = re.compile(r"(content-type|mime-version)[ \t]*:", re.IGNORECASE)
# A part has each at most once, so at most four headers.
_HEADERS = {
    name.lower(): name for name in ("Content-Type", "MIME-Version", "Content-Transfer-Encoding", "Content-Disposition")
}
_FILENAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_PLAIN = re.compile(rb"[\t\n\x20-\x7e]*")
_LAUNCH_INDEX = re.compile(rb"""^["']?launch-index["']?\s*:""", re.MULTILINE)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One part of user data.

    Attributes:
        content_type: one of the closed list.
        body: the content, which arrives unchanged.
        filename: cloud-init runs scripts in the order of these; None is a number by position.
        launch_index: the one instance of a launch that gets it; None is all of them.
    """

    content_type: ContentType
    body: bytes
    filename: str | None = None
    launch_index: int | None = None


def check_user_data(text: str) -> None:
    """Refuse user data that is not on the closed list.

    Raises:
        InvalidInput: with what to write instead.
    """
    parts_of(text)


@lru_cache(maxsize=64)  # a batch has the same few in each of its thousands of requests
def parts_of(text: str) -> tuple[Part, ...]:
    """The parts of user data: one, unless the text is MIME itself, and at most 16.

    Raises:
        InvalidInput: see check_user_data.
    """
    text = text.lstrip("\ufeff \t\r\n")
    room = _YamlRoom()
    if _MIME.match(text):
        return _parts_of_multipart(text.encode(), room)
    return (_part(_UNTYPED, text.encode(), None, room),)


def is_plain(body: bytes) -> bool:
    """Whether a part's content may stand in a message as it is: tabs, line feeds and printable ASCII.

    cloud-init decodes the whole message as text before it parses it, which would change other bytes: those travel as
    base64, and take a third more room.
    """
    return _PLAIN.fullmatch(body) is not None


def texts_read() -> int:
    """How many texts were looked into so far: those that were asked for again soon are not counted again."""
    return parts_of.cache_info().misses


class _YamlRoom:
    """How many further events of YAML are read."""

    left = MAX_YAML_EVENTS


def check_type(part: Part) -> None:
    """Refuse a part whose type is not on the closed list, or which cloud-init could take for one of another type.

    Raises:
        InvalidInput: it is such a part.
    """
    beginning = _BEGINNINGS.get(part.content_type)
    if beginning is None or not beginning.match(part.body):
        raise _invalid(f"does not begin as {shown(part.content_type)} must")


def _part(declared: str, body: bytes, filename: str | None, room: _YamlRoom) -> Part:
    """The part that a text is, with the type that its beginning says; `declared` must not say another."""
    body = body.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
    fitting = [kind for kind, beginning in _BEGINNINGS.items() if beginning.match(body)]
    if not fitting:
        raise _invalid(_unknown(body))
    if declared != _UNTYPED and declared not in fitting:
        raise _invalid(f"begins as {fitting[0]}, but its Content-Type is {declared}: make the two agree")
    content_type = next(kind for kind in fitting if declared in (_UNTYPED, kind))
    _check_text(body)
    if content_type == "text/cloud-config":
        _check_cloud_config(body, room)
    return Part(content_type=content_type, body=body, filename=filename)


def _unknown(body: bytes) -> str:
    beginning = body[:40].decode(errors="replace").lower()
    for known, instead in _INSTEAD.items():
        if beginning.startswith(known):
            return f"begins with {known}: {instead}"
    # The text is not shown: it may be a secret.
    return (
        "does not say what it is: begin it with #! (a script), #cloud-config, #cloud-boothook, ## template: jinja "
        "or Content-Type: multipart/mixed"
    )


def _check_text(body: bytes) -> None:
    if b"\0" in body:
        raise _invalid("contains a NUL character: remove it")
    try:
        body.decode()
    except UnicodeDecodeError:
        raise _invalid("is not valid UTF-8: write it in UTF-8") from None


def _check_cloud_config(body: bytes, room: _YamlRoom) -> None:
    import yaml  # most requests have no cloud-config

    try:
        is_mapping = _is_mapping(body.decode(), room)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in its line {mark.line + 1}" if mark else ""
        raise _invalid(f"is not valid YAML{where}: cloud-init would ignore it; correct it") from None
    if not is_mapping:
        raise _invalid("is not one YAML mapping: write name: value below #cloud-config")
    if _LAUNCH_INDEX.search(body):
        raise _invalid("has a launch-index, by which most machines would ignore it: remove it")


def _is_mapping(text: str, room: _YamlRoom) -> bool:
    """Whether a text is one YAML mapping. Nothing is built of it, so whatever is written costs no more than its length.

    Raises:
        yaml.YAMLError: it is not valid YAML.
        InvalidInput: it has an alias, or is larger or deeper than is read.
    """
    import yaml

    depth = documents = 0
    first: type[yaml.Event] | None = None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    while (event := loader.get_event()) is not None:  # None after the last one
        room.left -= 1
        if isinstance(event, yaml.ScalarEvent):
            pass
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                return False
            continue
        elif isinstance(event, yaml.AliasEvent):
            raise _invalid("has a YAML alias (*name): write its content there instead")
        elif not isinstance(event, yaml.NodeEvent):
            continue
        first = first or type(event)
        if depth > MAX_YAML_DEPTH:
            raise _invalid(f"has YAML of more than {MAX_YAML_DEPTH} levels: write it flatter")
        if room.left < 0:
            raise _invalid(f"has YAML of over {MAX_YAML_EVENTS:,} values: write what is long as a script (#!…)")
    return first is yaml.MappingStartEvent and documents == 1


_NOT_MULTIPART = (
    "is not valid MIME: give it a Content-Type of multipart/mixed with the boundary of its parts, at most 1 KB of "
    "headers, and end it with --boundary--"
)
_NOT_A_PART = "is not valid MIME: check its headers (at most 1 KB), and that its text is encoded as they say"


def _parts_of_multipart(text: bytes, room: _YamlRoom) -> tuple[Part, ...]:
    try:
        message = read_entity(text)
        _check_headers(message.headers)
        if _declared(message.headers) != "multipart/mixed":
            raise NotMime
        texts = list(islice(texts_of_parts(message), MAX_PARTS + 1))
    except NotMime:
        raise _invalid(_NOT_MULTIPART) from None
    if not texts:
        raise _invalid(_NOT_MULTIPART)
    if len(texts) > MAX_PARTS:
        raise _invalid(f"has over {MAX_PARTS} MIME parts: write no more than that")
    parts = tuple(_numbered(texts, room))
    names = [part.filename for part in parts if part.filename]
    if len(set(names)) < len(names):
        raise _invalid("has two MIME parts with the same filename: give each its own")
    return parts


def _numbered(texts: list[bytes], room: _YamlRoom) -> Iterator[Part]:
    for number, text in enumerate(texts, 1):
        try:
            yield _part_of_entity(read_entity(text), room)
        except InvalidInput as error:
            raise _invalid(f"has a MIME part {number} that {error.message}") from None
        except NotMime:
            raise _invalid(f"has a MIME part {number} that {_NOT_A_PART}") from None


def _part_of_entity(entity: Entity, room: _YamlRoom) -> Part:
    _check_headers(entity.headers)
    declared = _declared(entity.headers)
    if declared not in (_UNTYPED, *get_args(ContentType)):
        known = ", ".join(get_args(ContentType))
        raise _invalid(f"has the Content-Type {shown(declared)}: write one of {known}")
    return _part(declared, decoded(entity), _filename(entity.headers), room)


def _check_headers(headers: Message) -> None:
    as_written = headers.keys()
    names = [name.lower() for name in as_written]
    if "launch-index" in names:
        raise _invalid("has a Launch-Index header, which Puter sets itself: remove it")
    for name, written in zip(names, as_written, strict=True):
        if name not in _HEADERS:
            raise _invalid(f"has a header {shown(written)}: remove it; Puter takes {', '.join(_HEADERS.values())}")
    if len(set(names)) < len(names):
        raise _invalid("has the same header twice: write it once")


def _declared(headers: Message) -> str:
    """The type as it is written, in small letters; get_content_type would read what is none as text/plain."""
    return str(headers.get("Content-Type", _UNTYPED)).partition(";")[0].strip().lower()


def _filename(headers: Message) -> str | None:
    name = headers.get_filename()
    if name is None:
        return None
    if not _FILENAME.fullmatch(name):
        raise _invalid(f"has the filename {shown(name)}: use up to 100 letters, digits and . _ -")
    if name < f"{PUTERS}~":
        raise _invalid(f"has the filename {shown(name)}, which sorts before Puter's own: begin it with a letter or 1-9")
    return name


def _invalid(message: str) -> InvalidInput:
    return InvalidInput(message, subject=SUBJECT)
