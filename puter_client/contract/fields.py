"""From written fields (options of a command, keys of a batch file) to a checked Spec."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from puter_client.contract.declaration import Declared, declared, inputs
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown
from puter_client.contract.readers import MAX_AWS_TAGS, USER_DATA_LIMIT_BYTES, Reader, parse_cidr
from puter_client.contract.spec import Spec
from puter_client.contract.userdata import is_plain, parts_of

__all__ = [
    "FIELDS",
    "MAX_AWS_TAGS",
    "USER_DATA_LIMIT_BYTES",
    "FieldProblem",
    "InvalidSpec",
    "build",
    "build_spec",
    "parse_cidr",
    "recheck_spec",
]

# A field as it is written → how its value is read.
FIELDS: Mapping[str, Reader] = {name: field.read for name, field in inputs(Spec).items()}

S = TypeVar("S", bound=Spec)


def _as_in_files(name: str) -> str:
    return name


class FieldProblem(msgspec.Struct, frozen=True):
    """One field that cannot be used.

    Attributes:
        field: its name as written in a batch file.
        message: what is wrong, with the value, and what to write instead.
        other: another field that the message goes on to name, if any: each place spells it in its own way.
        rest: what follows that name.
    """

    field: str
    message: str
    other: str | None = None
    rest: str = ""

    def told(self, spelled: Callable[[str], str] = _as_in_files) -> str:
        """The whole message; `spelled` is how names of fields are written where it is told."""
        return self.message if self.other is None else f"{self.message} {spelled(self.other)}{self.rest}"


class InvalidSpec(InvalidInput):
    """Fields of a spec cannot be used.

    Attributes:
        field_problems: each of them.
    """

    def __init__(self, field_problems: list[FieldProblem]) -> None:
        self.field_problems = sorted(field_problems, key=lambda problem: (problem.field, problem.message))
        super().__init__(*(f"{problem.field}: {problem.told()}" for problem in self.field_problems))


def build_spec(written: Mapping[str, Any]) -> Spec:
    """The Spec of written fields (names of FIELDS; None means not written).

    Raises:
        InvalidSpec: with every field that cannot be used, not only the first.
    """
    return build(Spec, written)


def build(struct: type[S], written: Mapping[str, Any]) -> S:
    """The spec of written fields, for any struct that declares them.

    Raises:
        InvalidSpec: with every field that cannot be used, not only the first.
    """
    problems: list[FieldProblem] = []
    values: dict[str, Any] = {}
    known = inputs(struct)
    for name, value in written.items():
        if value is None:
            continue
        if name not in known:
            problems.append(FieldProblem(shown(name), f"unknown field; known are {', '.join(sorted(known))}"))
            continue
        try:
            values[name] = known[name].read(value)
        except ValueError as error:
            problems.append(_refused(struct, name, error))
    for item in declared(struct):
        problems += _combination(item, values)
    problems += _too_large(values)
    if problems:
        raise InvalidSpec(problems)
    return struct(**_as_attributes(struct, values))


def _refused(struct: type[Spec], name: str, error: ValueError) -> FieldProblem:
    instead = next((item.field.none for item in declared(struct) if item.name == name), None)
    if instead is None:
        return FieldProblem(name, str(error))
    return FieldProblem(name, f"{error}, or", instead.name, f" {instead.meaning}")


def _combination(item: Declared, values: Mapping[str, Any]) -> list[FieldProblem]:
    """What is wrong with a field beside the others, though each is fine by itself."""
    problems: list[FieldProblem] = []
    none, needs = item.field.none, item.field.needs
    if none and values.get(none.name) and item.name in values:
        problems.append(FieldProblem(none.name, "and", item.name, " exclude each other: keep one"))
    if needs and values.get(item.name) and not values.get(needs):
        problems.append(FieldProblem(item.name, "has no effect alone: write", needs, " as well"))
    return problems


# A machine's deadline, Docker and agent, gzipped (6,532 bytes), with room for the headers of users' parts, and for what
# texts cost more when they are packed together; a test compares.
PUTERS_PART_BYTES = 7_550
# What the script that stores a workload takes more where both travel as base64, since the workload is not plain.
BASE64_SCRIPT_BYTES = 300


def _too_large(values: Mapping[str, Any]) -> list[FieldProblem]:
    """What does not fit into EC2's 16 KB together with Puter's own part."""
    texts = {
        "user_data": values.get("user_data", ""),
        "run": values.get("run", ""),
        "env": "\n".join(f"{name}={text}" for name, text in values.get("env", {}).items()),
    }
    whole = "\n".join(texts.values()).encode()
    most = USER_DATA_LIMIT_BYTES - PUTERS_PART_BYTES
    if len(whole) <= most and is_plain(whole):
        return []
    packed = _packed(texts["user_data"], f"{texts['run']}\n{texts['env']}")
    if packed <= most:
        return []
    largest = max(texts, key=lambda name: len(texts[name]))
    message = (
        f"with run, env and user_data together it has {packed:,} bytes gzipped: EC2 takes at most 16 KB in all, "
        f"{most:,} of them beside Puter's own part"
    )
    return [FieldProblem(largest, message)]


def _packed(user_data: str, workload: str) -> int:
    """How many bytes they take on their way to the machine, where each part is a part of one message."""
    import base64
    import gzip

    parts = parts_of(user_data) if user_data else ()
    bodies = [workload.encode(), *(part.body for part in parts)]
    sent = [body if is_plain(body) else base64.encodebytes(body) for body in bodies]
    headers = [f"--\nContent-Type: {part.content_type}; filename={part.filename}".encode() for part in parts]
    more = 0 if is_plain(bodies[0]) else BASE64_SCRIPT_BYTES
    return len(gzip.compress(b"\n".join([*headers, *sent]))) + more


def _as_attributes(struct: type[Spec], values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that were read, under the names and in the form in which the struct has them."""
    attributes: dict[str, Any] = {}
    for item in declared(struct):
        field = item.field
        if item.name in values:
            value = values[item.name]
            if field.further:
                value, *more = value
                attributes[field.further] = tuple(more)
            attributes[item.attribute] = value
        elif field.none and values.get(field.none.name):
            attributes[item.attribute] = None
    return attributes


def _not_canonical(item: Declared, expected: Any) -> str:
    if item.field.secret:
        return "is not canonical"
    written = " ".join(expected) if isinstance(expected, tuple) else expected
    return f"is not canonical, expected {shown(written, 120)}"


class _Check(NamedTuple):
    """How one field of a finished spec is checked; the declaration, prepared for 5,000 specs a second."""

    attribute: str
    further: str | None
    default: Any
    read: Reader
    declared: Declared


@cache
def _checks(struct: type[Spec]) -> tuple[_Check, ...]:
    return tuple(
        _Check(
            attribute=item.attribute,
            further=item.field.further,
            default=(item.default,) if item.field.further else item.default,
            read=item.field.read_again or item.field.read,
            declared=item,
        )
        for item in declared(struct)
    )


def recheck_spec(spec: Spec) -> None:
    """Check a Spec that somebody else built; its fields must be as `build_spec` would have made them.

    Raises:
        InvalidSpec: they are not.
    """
    problems: list[FieldProblem] = []
    for attribute, further, default, read, item in _checks(type(spec)):
        value = getattr(spec, attribute)
        if further is not None:
            value = (value, *getattr(spec, further))
        if value == default or (value is None and item.field.none):
            continue
        try:
            again = read(value)
        except ValueError as error:
            problems.append(_refused(type(spec), item.name, error))
            continue
        if again != value:
            problems.append(FieldProblem(item.name, _not_canonical(item, again)))
    if problems:
        raise InvalidSpec(problems)
