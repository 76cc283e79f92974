"""From written fields (options of a command, keys of a batch file) to a checked Spec."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from puter_client.contract.duration import parse_duration_s
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown
from puter_client.contract.phase import Os
from puter_client.contract.spec import Spec

# EC2 counts user data before base64: 16 KB for the whole, Puter's own part included.
USER_DATA_LIMIT_BYTES = 16_384
MIN_TTL_S = 60
MAX_TTL_S = 365 * 86_400
MAX_ALTERNATIVES = 10
MAX_AWS_TAGS = 20  # EC2 allows 50 a resource; Puter writes up to 30 of its own (a group's manifest among them)

Field = Callable[[Any], Any]


class FieldProblem(msgspec.Struct, frozen=True, order=True):
    """One field that cannot be used.

    Attributes:
        field: its name as written in a batch file.
        message: what is wrong, with the value, and what to write instead.
    """

    field: str
    message: str


def _pattern(pattern: str, remedy: str) -> Field:
    compiled = re.compile(pattern)

    def check(value: Any) -> str:
        text = _text(value)
        if not compiled.fullmatch(text):
            raise ValueError(f"{shown(text)}: {remedy}")
        return text

    return check


def _several(check: Field) -> Field:
    """One or more of what `check` reads, in order: a list, or a text with spaces between them."""

    def read(value: Any) -> tuple[str, ...]:
        items = value if isinstance(value, list | tuple) else _text(value).split()
        if not items:
            raise ValueError("is empty: leave it out, or write a value")
        if len(items) > MAX_ALTERNATIVES:
            raise ValueError(f"{len(items)} of them: write at most {MAX_ALTERNATIVES}")
        return tuple(dict.fromkeys(check(item) for item in items))

    return read


def _text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{_kind(value)}: write a text")
    text = str(value)
    if "\0" in text:
        raise ValueError("holds a NUL character: remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8: write it in UTF-8") from None
    return text


def _full_text(value: Any) -> str:
    text = _text(value)
    if not text.strip():
        raise ValueError("is empty: leave it out, or write a value")
    if len(text.encode()) > USER_DATA_LIMIT_BYTES:
        raise ValueError("has over 16,384 bytes: EC2 takes at most 16 KB of user data in all")
    return text


def _user_data(value: Any) -> str:
    from puter_client.contract.userdata import check_user_data  # most requests have none

    text = _full_text(value)
    try:
        check_user_data(text)
    except InvalidInput as error:
        raise ValueError(str(error).removeprefix("user_data ")) from None
    return text


def _flag(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    raise ValueError(f"{shown(value)}: write true or false")


def _gib(value: Any) -> int:
    text = str(value)
    digits = not isinstance(value, bool) and text.isascii() and text.isdigit() and len(text) <= 9
    if not digits or not 1 <= int(text) <= 65_536:
        raise ValueError(f"{shown(value)}: write a whole number of GiB, 1 to 65536")
    return int(text)


def _os(value: Any) -> Os:
    text = _text(value)
    try:
        return Os(text)
    except ValueError:
        raise ValueError(f"{shown(text)}: write one of {', '.join(Os)}") from None


def _seconds(remedy: str, least: int, most: int) -> Field:
    def read(value: Any) -> int:
        try:
            seconds = parse_duration_s(_text(value))
        except InvalidInput as error:
            raise ValueError(str(error).removeprefix("duration ")) from None
        if not least <= seconds <= most:
            raise ValueError(f"{shown(value)}: write {remedy}")
        return seconds

    return read


def _mapping(value: Any, name: re.Pattern[str], remedy: str, limit: int) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{_kind(value)}: write names with values (K: V)")
    checked: dict[str, str] = {}
    for key, item in value.items():
        if not isinstance(key, str) or not name.fullmatch(key):
            # What stands behind a "=" is a value that was meant to be one, perhaps a secret.
            raise ValueError(f"{shown(str(key).partition('=')[0])}: {remedy}")
        try:
            checked[key] = _text(item)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
    if sum(len(text.encode()) for text in checked.values()) > limit:
        raise ValueError(f"the values have over {limit:,} bytes in all")
    return checked


_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
# The narrower alphabet that holds for tags read through the instance metadata service.
_TAG_KEY = re.compile(r"(?!aws:)(?!puter(:|$))(?!Name$)[A-Za-z0-9+=.,_:@-]{1,127}")


def _env(value: Any) -> dict[str, str]:
    return _mapping(value, _ENV_NAME, "name variables with letters, digits and _", USER_DATA_LIMIT_BYTES)


def _aws_tags(value: Any) -> dict[str, str]:
    remedy = "use 1 to 127 letters, digits and + = . , _ : @ -; Name, puter, puter:… and aws:… are taken"
    tags = _mapping(value, _TAG_KEY, remedy, MAX_AWS_TAGS * 256)
    for key, text in tags.items():
        if len(text) > 256:
            raise ValueError(f"{key}: the value has over 256 characters, EC2's limit")
    if len(tags) > MAX_AWS_TAGS:
        raise ValueError(f"{len(tags)} tags: at most {MAX_AWS_TAGS} beside Puter's own")
    return tags


def _cidrs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, str | list | tuple):
        raise ValueError(f"{_kind(value)}: write a CIDR or a list of them")
    items = value.split() if isinstance(value, str) else list(value)
    if items == ["none"]:
        return ()
    return tuple(sorted({parse_cidr(_text(item)) for item in items}))


@lru_cache(maxsize=1_000)  # a batch has the same few in each of its thousands of requests
def parse_cidr(text: str) -> str:
    """A CIDR in its one written form; a bare address is that one host.

    Raises:
        ValueError: it is none, or bits beyond the prefix are set.
    """
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError:
        raise ValueError(f"{shown(text)}: write an address or CIDR like 203.0.113.7/32, or auto, or none") from None


def _kind(value: Any) -> str:
    if value is None:
        return "is empty"
    names = {bool: "true/false", str: "a text", list: "a list", dict: "a mapping", int: "a number", float: "a number"}
    return f"is {names.get(type(value), type(value).__name__)}"


_RESOURCE = "write the id as EC2 shows it, like "

# Name in batch files → how its value is read. Options of the command line have the same names with '-'.
FIELDS: dict[str, Field] = {
    "profile": _pattern(r"[^\s:/\\][^\x00-\x1f/\\]{0,127}", "write the name of an AWS profile"),
    "region": _pattern(r"[a-z]{2,4}(-[a-z]+){1,3}-\d{1,2}", "write a region like us-east-1"),
    "instance_type": _several(_pattern(r"[a-z][a-z0-9-]{0,30}\.[a-z0-9-]{1,30}", "write a type like t3.micro")),
    "os": _os,
    "ami": _pattern(r"ami-[0-9a-f]{8,17}", _RESOURCE + "ami-0123456789abcdef0"),
    "subnet": _several(_pattern(r"subnet-[0-9a-f]{8,17}", _RESOURCE + "subnet-0123456789abcdef0")),
    "spot": _flag,
    "alone": _flag,
    "disk": _gib,
    "instance_profile": _pattern(r"[A-Za-z0-9+=,.@_-]{1,128}", "write the name of an IAM instance profile"),
    "user_data": _user_data,
    "run": _full_text,
    "env": _env,
    "key_name": _pattern(r"[\x20-\x7e]{1,255}", "use 1 to 255 printable ASCII characters"),
    "public_key": _pattern(r"(ssh-(rsa|ed25519)) [A-Za-z0-9+/=]{40,4000}( [^\x00-\x1f]{0,200})?",
                           "give an OpenSSH public key of type ssh-ed25519 or ssh-rsa, on one line"),
    "private_key_path": _pattern(r"[^\x00-\x1f]{1,4096}", "write a path"),
    "security_group_name": _pattern(r"(?!sg-)[A-Za-z0-9 ._:/()#,@\[\]+=&;{}!$*-]{1,255}",
                                    "write a group's name (not sg-…) in EC2's alphabet"),
    "ssh_from": _cidrs,
    "aws_tags": _aws_tags,
    "give_up_after": _seconds("1m to 7d", 60, 7 * 86_400),
    "ttl": _seconds("1m to 365d, or no_shutdown: true for a machine that stays", MIN_TTL_S, MAX_TTL_S),
    "no_shutdown": _flag,
}  # fmt: skip


def _too_large(values: Mapping[str, Any]) -> list[FieldProblem]:
    """What cannot fit into EC2's 16 KB however it is packed; Puter's own part is counted where it is composed."""
    texts = {
        "user_data": values.get("user_data", ""),
        "run": values.get("run", ""),
        "env": "\n".join(f"{name}={text}" for name, text in values.get("env", {}).items()),
    }
    whole = "\n".join(texts.values()).encode()
    if len(whole) <= USER_DATA_LIMIT_BYTES:
        return []
    import gzip

    packed = len(gzip.compress(whole))
    if packed <= USER_DATA_LIMIT_BYTES:
        return []
    largest = max(texts, key=lambda name: len(texts[name]))
    message = f"with run, env and user_data together it has {packed:,} bytes gzipped: EC2 takes at most 16 KB in all"
    return [FieldProblem(largest, message)]


_SPEC_NAMES = {"ttl": "ttl_s", "give_up_after": "give_up_after_s"}
# The first is wanted, the further ones stand in for it.
_IN_TURN = ("instance_type", "subnet")


def build_spec(written: Mapping[str, Any]) -> Spec:
    """The Spec of written fields (names of FIELDS; None means not written).

    Raises:
        InvalidSpec: with every field that cannot be used, not only the first.
    """
    problems: list[FieldProblem] = []
    values: dict[str, Any] = {}
    for name, value in written.items():
        if value is None:
            continue
        reader = FIELDS.get(name)
        if reader is None:
            problems.append(FieldProblem(shown(name), f"unknown; known are {', '.join(sorted(FIELDS))}"))
            continue
        try:
            values[name] = reader(value)
        except ValueError as error:
            problems.append(FieldProblem(name, str(error)))
    if values.get("no_shutdown") and "ttl" in values:
        problems.append(FieldProblem("no_shutdown", "and ttl exclude each other: keep one"))
    problems += _too_large(values)
    if values.get("env") and not values.get("run"):
        problems.append(FieldProblem("env", "is for the workload: write run as well"))
    if problems:
        raise InvalidSpec(problems)
    return Spec(**_as_spec(values))


def _as_spec(values: dict[str, Any]) -> dict[str, Any]:
    """Fields as they are written, read already, under the names and in the form that Spec has them."""
    named = {_SPEC_NAMES.get(name, name): value for name, value in values.items() if name != "no_shutdown"}
    if values.get("no_shutdown"):
        named["ttl_s"] = None
    for name in _IN_TURN:
        if name in named:
            named[name], *further = named[name]
            named[f"{name}s"] = tuple(further)
    return named


def recheck_spec(spec: Spec) -> None:
    """Check a Spec that somebody else built; its fields must be as `build_spec` would have made them.

    Raises:
        InvalidSpec: they are not.
    """
    problems: list[FieldProblem] = []
    for name, reader in FIELDS.items():
        value = getattr(spec, name, None)
        # What was not written has its default, which needs no check.
        if value is None or value is False or value == {} or value == ():
            continue
        if name in _IN_TURN:
            value = (value, *getattr(spec, f"{name}s"))
        try:
            unchanged = reader(value) == value
        except ValueError as error:
            problems.append(FieldProblem(name, str(error)))
        else:
            if not unchanged:
                problems.append(FieldProblem(name, "is not in its one written form"))
    if spec.subnets and not spec.subnet:
        problems.append(FieldProblem("subnet", "further ones without a first"))
    if spec.ttl_s is not None and not MIN_TTL_S <= spec.ttl_s <= MAX_TTL_S:
        problems.append(FieldProblem("ttl", f"{spec.ttl_s} s: must be 1m to 365d"))
    if not 60 <= spec.give_up_after_s <= 7 * 86_400:
        problems.append(FieldProblem("give_up_after", f"{spec.give_up_after_s} s: must be 1m to 7d"))
    if problems:
        raise InvalidSpec(problems)


class InvalidSpec(InvalidInput):
    """Fields of a spec that cannot be used.

    Attributes:
        field_problems: each of them.
    """

    def __init__(self, field_problems: list[FieldProblem]) -> None:
        self.field_problems = sorted(field_problems)
        super().__init__(*(f"{p.field}: {p.message}" for p in self.field_problems))
