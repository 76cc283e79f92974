"""How the values of spec fields are read: from the written value to the canonical one of a Spec.

A reader takes a text, or what YAML, JSON or TOML make of one, and raises ValueError with the value (unless it may be a
secret) and what to write instead. Reading what a reader returned gives the same value again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

import msgspec

from puter_client.contract.duration import parse_duration_s
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown

# EC2 counts user data before base64: 16 KB for the whole, Puter's own part included.
USER_DATA_LIMIT_BYTES = 16_384
MAX_ALTERNATIVES = 10
MAX_CIDRS = 20  # a security group takes 60 rules, so no request fills one
MAX_VARIABLES = 500
MAX_AWS_TAGS = 20  # EC2 allows 50 a resource; Puter writes up to 30 of its own (a group's manifest among them)

Reader = Callable[[Any], Any]

_EMPTY = "is empty: leave it out, or write a value"
_WRITE_A_CIDR = "write an address or CIDR like 203.0.113.7/32"
_MAPPED_BITS = 96  # ::ffff:0:0/96 holds the IPv4 addresses; no packet from the internet has such a source


class _Lazy:
    """A regular expression that is compiled at its first use: `puter status` imports all and matches none."""

    def __init__(self, regex: str) -> None:
        self._regex = regex

    @cached_property
    def fullmatch(self) -> Callable[[str], re.Match[str] | None]:
        """Match a whole text."""
        return re.compile(self._regex).fullmatch


_CIDR = _Lazy(r"[0-9A-Fa-f.:]+(/(0|[1-9][0-9]{0,2}))?")
_ENV_NAME = _Lazy(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# A bash script cannot pass these on: they are read-only, no assignment has an effect, or they are set anew for each
# command. Tried with bash 5.2; every other name arrives as it does through env(1).
_BASHS_OWN = frozenset({
    "_", "BASHOPTS", "BASHPID", "BASH_ARGC", "BASH_ARGV", "BASH_LINENO", "BASH_SOURCE", "BASH_VERSINFO", "EUID",
    "PIPESTATUS", "PPID", "SHELLOPTS", "SHLVL", "UID",
})  # fmt: skip
# EC2 takes every character in tags, and reserves aws: in any case ("Tag your Amazon EC2 resources", tag restrictions).
# Puter's own keys are reserved in any case, because conditions of IAM policies compare keys of tags without case.
_TAG_KEY = _Lazy(r"(?!(?i:aws:|puter(:|\Z)))(?!Name\Z)[^\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]{1,127}")
# Other characters cannot come back: XML 1.0, the form of EC2's answers, has none for them.
_TAG_VALUE = _Lazy(r"[^\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]*")


def pattern(regex: str, remedy: str) -> Reader:
    """A reader of one text that matches as a whole."""
    lazy = _Lazy(regex)

    def read(value: Any) -> str:
        written = text(value)
        if not lazy.fullmatch(written):
            raise ValueError(f"{shown(written)}: {remedy}")
        return written

    return read


instance_profile = pattern(r"[A-Za-z0-9+=,.@_-]{1,128}", "write the name of an IAM instance profile")
"""The name of an IAM instance profile, as IAM allows it."""


def several(read_one: Reader) -> Reader:
    """A reader of one or more values in order: a list, or a text with spaces between them."""

    def read(value: Any) -> tuple[Any, ...]:
        items = value if isinstance(value, list | tuple) else text(value).split()
        if not items:
            raise ValueError(_EMPTY)
        if len(items) > MAX_ALTERNATIVES:
            raise ValueError(f"has {len(items)} values: write at most {MAX_ALTERNATIVES}")
        return tuple(dict.fromkeys(read_one(item) for item in items))

    return read


def one_of(values: Iterable[StrEnum]) -> Reader:
    """A reader of the name of one of these values."""
    by_name = {member.value: member for member in values}

    def read(value: Any) -> StrEnum:
        written = text(value)
        if written not in by_name:
            raise ValueError(f"{shown(written)}: write one of {', '.join(by_name)}")
        return by_name[written]

    return read


class Seconds(msgspec.Struct, frozen=True):
    """The readers of a duration between two bounds.

    Attributes:
        bounds: as a person reads them.
        least: in seconds.
        most: in seconds.
    """

    bounds: str
    least: int
    most: int

    def read(self, value: Any) -> int:
        """Read a duration as it is written, in seconds."""
        try:
            length = parse_duration_s(text(value))
        except InvalidInput as error:
            raise ValueError(error.message) from None
        return self._within(length, value)

    def read_again(self, value: int) -> int:
        """Read seconds, the form in a Spec."""
        return self._within(value, f"{value}s")

    def _within(self, length: int, written: Any) -> int:
        if not self.least <= length <= self.most:
            raise ValueError(f"{shown(written)}: write {self.bounds}")
        return length


def text(value: Any) -> str:
    """Read a text; a number is the text it is written as."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{_kind(value)}: write a text")
    written = str(value)
    if "\0" in written:
        raise ValueError("contains a NUL character: remove it")
    try:
        written.encode()
    except UnicodeEncodeError:
        raise ValueError("is not valid UTF-8: write it in UTF-8") from None
    return written


def full_text(value: Any) -> str:
    """Read a text that is not blank and fits into EC2's user data."""
    written = text(value)
    if not written.strip():
        raise ValueError(_EMPTY)
    if len(written.encode()) > USER_DATA_LIMIT_BYTES:
        raise ValueError("has over 16,384 bytes: EC2 takes at most 16 KB of user data in all")
    return written


def command(value: Any) -> str:
    """Read a workload; its lines end with LF, for bash takes a CR as a part of the last word of a line."""
    return "\n".join(line.rstrip("\r") for line in full_text(value).split("\n"))


def user_data(value: Any) -> str:
    """Read a boot script, cloud-config or MIME message in a form that is safe for Puter's part.

    Line ends stay as they are: cloud-init itself makes those of a script LF, if its first line ends with CRLF.
    """
    from puter_client.contract.userdata import check_user_data  # most requests have none

    written = full_text(value)
    try:
        check_user_data(written)
    except InvalidInput as error:
        raise ValueError(error.message) from None
    return written


def flag(value: Any) -> bool:
    """Read true or false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    raise ValueError(f"{shown(value)}: write true or false")


def flag_or(word: str) -> Reader:
    """A reader of true, false or this word."""

    def read(value: Any) -> bool | str:
        if value == word:
            return word
        try:
            return flag(value)
        except ValueError:
            raise ValueError(f"{shown(value)}: write true, false or {word}") from None

    return read


def whole(of: str, least: int, most: int) -> Reader:
    """A reader of a whole number; `of`: what is counted, as messages put it."""

    def read(value: Any) -> int:
        written = str(value)
        digits = not isinstance(value, bool) and written.isascii() and written.isdigit() and len(written) <= 9
        if not digits or not least <= int(written) <= most:
            raise ValueError(f"{shown(value)}: write a whole number{of}, {least} to {most}")
        return int(written)

    return read


_RETRY_ON = frozenset({"failed", "timed_out", *map(str, range(1, 256))})


def retry_on(value: Any) -> tuple[str, ...]:
    """Read results and exit codes after which a workload is run again."""
    items = value if isinstance(value, list | tuple) else text(value).split()
    if not items:
        raise ValueError(_EMPTY)
    if len(items) > len(_RETRY_ON):
        raise ValueError(f"has {len(items)} values: write each once")
    found = [text(item) for item in items]
    for item in found:
        if item not in _RETRY_ON:
            raise ValueError(f"{shown(item)}: write failed, timed_out or exit codes from 1 to 255")
    return tuple(sorted(set(found)))


def env(value: Any) -> dict[str, str]:
    """Read variables of a shell with their values."""
    remedy = "name variables with letters, digits and _"
    variables = _mapping(value, _ENV_NAME, remedy, most=MAX_VARIABLES, most_bytes=USER_DATA_LIMIT_BYTES)
    for name in variables:
        if name in _BASHS_OWN:
            raise ValueError(f"{shown(name)}: bash sets this variable itself: give yours another name")
    return variables


def aws_tags(value: Any) -> dict[str, str]:
    """Read EC2 tags that do not collide with Puter's or AWS's own."""
    remedy = "use 1 to 127 characters, none of them a control character; Name, puter, puter:… and aws:… are taken"
    # Beside Puter's own. UTF-8 has up to 4 bytes a character.
    tags = _mapping(value, _TAG_KEY, remedy, most=MAX_AWS_TAGS, most_bytes=MAX_AWS_TAGS * (127 + 256) * 4)
    for key, written in tags.items():
        if len(written) > 256:
            raise ValueError(f"{shown(key)}: the value has over 256 characters, EC2's limit")
        if not _TAG_VALUE.fullmatch(written):
            raise ValueError(f"{shown(key)}: the value contains a control character: remove it")
    return tags


def cidrs(value: Any) -> tuple[str, ...]:
    """Read CIDRs, sorted and without duplicates; `none` is an empty list."""
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"{_kind(value)}: write a CIDR or a list of them")
    items = value.split() if isinstance(value, str) else list(value)
    if items == ["none"]:
        return ()
    if len(items) > MAX_CIDRS:
        raise ValueError(f"has {len(items)} addresses: write at most {MAX_CIDRS}, or a CIDR that covers several")
    return tuple(sorted({parse_cidr(text(item)) for item in items}))


@lru_cache(maxsize=1_000)  # a batch has the same few in each of its thousands of requests
def parse_cidr(written: str, *, or_else: str = ", or auto, or none") -> str:
    """The canonical form of a CIDR; a bare address is a network of that one host.

    `or_else`: what else may stand there, for the message.

    Raises:
        ValueError: it is not a CIDR as EC2 takes it, or bits beyond the prefix are set.
    """
    import ipaddress  # `puter status` reads none

    # ipaddress also takes zone ids (fe80::1%eth0), netmasks and prefixes like /00.
    if not _CIDR.fullmatch(written.strip()):
        raise ValueError(f"{shown(written)}: {_WRITE_A_CIDR}{or_else}")
    try:
        network = ipaddress.ip_network(written.strip())
    except ValueError:
        raise ValueError(_why_no_network(written.strip(), or_else)) from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= _MAPPED_BITS:
        raise ValueError(
            f"{shown(written)}: is an IPv4 address in IPv6's form: write {mapped}/{network.prefixlen - _MAPPED_BITS}"
        )
    return str(network)


def _why_no_network(written: str, or_else: str) -> str:
    import ipaddress

    try:
        interface = ipaddress.ip_interface(written)
    except ValueError:
        return f"{shown(written)}: {_WRITE_A_CIDR}{or_else}"
    network, address = interface.network, interface.ip
    return f"{shown(written)}: has bits set beyond its prefix: write {network}, or {address} for that one host"


def _mapping(value: Any, name: _Lazy, remedy: str, *, most: int, most_bytes: int) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{_kind(value)}: write names with values (K: V)")
    if len(value) > most:
        raise ValueError(f"has {len(value):,} names: write at most {most:,}")
    for key in value:
        if not isinstance(key, str) or not name.fullmatch(key):
            # The text after a "=" was meant as a value and may be a secret.
            raise ValueError(f"{shown(str(key).partition('=')[0])}: {remedy}")
    checked = dict(value) if _are_plain(value.values()) else {key: _value(key, item) for key, item in value.items()}
    if len("".join([*checked, *checked.values()]).encode()) > most_bytes:
        raise ValueError(f"the names and values have over {most_bytes:,} bytes in all")
    return checked


def _are_plain(values: Collection[Any]) -> bool:
    """Whether all are texts in ASCII, as nearly always: hundreds of them are told at once."""
    if not set(map(type, values)) <= {str}:
        return False
    joined = "".join(values)
    return joined.isascii() and "\0" not in joined


def _value(key: str, item: Any) -> str:
    try:
        return text(item)
    except ValueError as error:
        raise ValueError(f"{shown(key)}: {error}") from None


def _kind(value: Any) -> str:
    if value is None:
        return "is empty"
    names = {bool: "true/false", str: "a text", list: "a list", dict: "a mapping", int: "a number", float: "a number"}
    return f"is {names.get(type(value), type(value).__name__)}"
