"""The EC2 query protocol: form fields in (`Filter.1.Value.2=x`), XML out.

Rules: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/Query-Requests.html
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import parse_qsl

from tests.ec2sim.errors import Ec2Error, invalid_value, missing

EC2_NAMESPACE = "http://ec2.amazonaws.com/doc/2016-11-15/"
STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"

Fields = dict[str, "str | Fields"]
# Characters that XML 1.0 cannot carry, even escaped.
_UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\uD7FF\uE000-\uFFFD\U00010000-\U0010FFFF]")
_SPECIAL = re.compile(r"[&<>\r]|" + _UNPRINTABLE.pattern)
_REGION = re.compile(r"Credential=([^/,\s]+)/\d{8}/([a-z0-9-]+)/([a-z0-9]+)/aws4_request")


class Raw(str):
    """XML that is ready."""

    __slots__ = ()


Node = None | str | int | float | Mapping[str, "Node"] | Sequence["Node"]


def escaped(text: str) -> str:
    """A text as XML carries it."""
    if not _SPECIAL.search(text):
        return text
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def element(name: str, value: Node) -> str:
    """One element: texts escaped, lists as `<item>`s, mappings as children, None as nothing."""
    if value is None:
        return ""
    return f"<{name}>{_content(value)}</{name}>"


def elements(children: Mapping[str, Node]) -> str:
    """Elements beside one another."""
    return "".join(element(name, value) for name, value in children.items())


def _content(value: Node) -> str:
    if isinstance(value, Raw):
        return value
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, Mapping):
        return elements(value)
    return "".join(element("item", item) for item in value or ())


def tag_set(tags: Mapping[str, str]) -> Raw:
    """The content of a `tagSet`."""
    return Raw(
        "".join(f"<item><key>{escaped(key)}</key><value>{escaped(value)}</value></item>" for key, value in tags.items())
    )


def timestamp(at: float) -> str:
    """A time as EC2 writes it: whole seconds, whatever the milliseconds pretend."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(at))


def response(action: str, request_id: str, inner: str) -> bytes:
    """A whole answer of EC2's."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{EC2_NAMESPACE}">'
        f"<requestId>{request_id}</requestId>{inner}</{action}Response>"
    ).encode()


def sts_response(action: str, request_id: str, inner: str) -> bytes:
    """A whole answer of STS's."""
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<{action}Response xmlns="{STS_NAMESPACE}">'
        f"<{action}Result>{inner}</{action}Result>"
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{action}Response>"
    ).encode()


def error_response(service: str, error: Ec2Error, request_id: str) -> bytes:
    """A refusal in the words of either service."""
    named = elements({"Code": error.code, "Message": error.message})
    if service == "sts":
        return (
            f'<ErrorResponse xmlns="{STS_NAMESPACE}"><Error><Type>Sender</Type>{named}</Error>'
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        ).encode()
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error>{named}</Error></Errors>'
        f"<RequestID>{request_id}</RequestID></Response>"
    ).encode()


def read_form(body: bytes) -> dict[str, str]:
    """The fields of a request's body, as sent."""
    return dict(parse_qsl(body.decode(), keep_blank_values=True))


def read_scope(authorization: str) -> tuple[str, str, str]:
    """Access key id, region and service of a Signature Version 4 header.

    Raises:
        Ec2Error: there is none.
    """
    found = _REGION.search(authorization)
    if not found:
        raise Ec2Error("AuthFailure", "AWS was not able to validate the provided access credentials")
    key, region, service = found.groups()
    return key, region, service


class Params:
    """A request's fields as a tree: `Filter.1.Value.2` is in `sections("Filter")[0].texts("Value")[1]`."""

    __slots__ = ("_fields",)

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    @classmethod
    def of(cls, form: Iterable[tuple[str, str]]) -> Params:
        """The tree of flat fields.

        Raises:
            Ec2Error: a field is both a value and a section.
        """
        root: Fields = {}
        for name, value in form:
            *path, last = name.split(".")
            at = root
            for step in path:
                below = at.setdefault(step, {})
                if isinstance(below, str):
                    raise Ec2Error("MalformedQueryString", f"The parameter {name} is a value and a structure")
                at = below
            if isinstance(at.get(last), dict):
                raise Ec2Error("MalformedQueryString", f"The parameter {name} is a value and a structure")
            at[last] = value
        return cls(root)

    def __contains__(self, name: str) -> bool:
        return name in self._fields

    @property
    def names(self) -> frozenset[str]:
        """The outermost names."""
        return frozenset(self._fields)

    def text(self, name: str) -> str | None:
        """A value, if it was sent."""
        value = self._fields.get(name)
        return value if isinstance(value, str) else None

    def need(self, name: str) -> str:
        """A value that has to be there; raises MissingParameter otherwise."""
        value = self.text(name)
        if not value:
            raise missing(name)
        return value

    def integer(self, name: str) -> int | None:
        """A whole number, if it was sent; raises InvalidParameterValue for anything else."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return int(text)
        except ValueError:
            raise invalid_value(name, text, "Expecting an integer.") from None

    def flag(self, name: str) -> bool | None:
        """A boolean, if it was sent; raises InvalidParameterValue for anything else."""
        text = self.text(name)
        if text is None:
            return None
        if text.lower() not in {"true", "false"}:
            raise invalid_value(name, text, "Expecting a boolean.")
        return text.lower() == "true"

    def section(self, name: str) -> Params:
        """What is below a name; empty if nothing is."""
        below = self._fields.get(name)
        return Params(below if isinstance(below, dict) else {})

    def sections(self, name: str) -> list[Params]:
        """The members of a list of structures, in the order of their numbers."""
        return [Params(member) for member in self._members(name) if isinstance(member, dict)]

    def texts(self, name: str) -> list[str]:
        """The members of a list of values, in the order of their numbers."""
        return [member for member in self._members(name) if isinstance(member, str)]

    def _members(self, name: str) -> list[str | Fields]:
        below = self._fields.get(name)
        if not isinstance(below, dict):
            return []
        try:
            return [below[number] for number in sorted(below, key=int)]
        except ValueError:
            raise Ec2Error("MalformedQueryString", f"The members of {name} need numbers") from None
