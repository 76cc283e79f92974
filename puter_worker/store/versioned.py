"""A value with its revision, and how values are encoded and decoded."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

import msgspec
import structlog

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
encode = msgspec.json.Encoder().encode
_log = structlog.get_logger("puter.store")


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T_co]):
    """A value as it was read, with its revision: a write must have the revision as its guard.

    Attributes:
        value: in a `Versioned[Record | None]`, None if there was no value or it does not decode.
        rev: the raw revision; None if there was no value.
    """

    value: T_co
    rev: bytes | None

    def found(self: Versioned[T | None]) -> Versioned[T] | None:
        """The same object, if it has a value; else None."""
        return None if self.value is None else cast("Versioned[T]", self)


def next_rev(rev: bytes | None) -> int:
    """The revision that a write sets; a new value begins with a random one.

    So a worker that read a value before Redis was emptied cannot mistake a value that was made later for it.
    """
    return int(rev) + 1 if rev is not None else 1 + secrets.randbelow(1 << 40)


def decode(raw: bytes | None, kind: type[T], name: str) -> T | None:
    """The stored value; one that does not decode is logged, and counts as missing.

    A missing record is safe: its key is looked up in EC2 before anything is launched for it.
    """
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        _log.error("value.refused", name=name, kind=kind.__name__)
        return None
