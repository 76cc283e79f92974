"""The key of a puter: under which name one machine is requested."""

from __future__ import annotations

import re

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.plain import printable

# Narrow on purpose: the alphabets contain no separator of a Redis key or an arq job id and no wildcard of an EC2
# filter, so no two keys can ever share a name anywhere.
NAMESPACE = re.compile(r"[a-z0-9][a-z0-9-]{0,38}")
USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of Redis: whose inbox it is
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}")
USER_ALPHABET = "1 to 64 letters, digits and . _ -, beginning with a letter or digit"
_DIGITS = re.compile("([0-9]+)")


class PuterKey(msgspec.Struct, frozen=True, order=True):
    """A namespace and a tag; one key never has two live instances.

    Attributes:
        namespace: `[a-z0-9][a-z0-9-]{0,38}`: the machines of one person or team.
        tag: `[A-Za-z0-9][A-Za-z0-9._:@+=-]{0,127}`: one machine in the namespace.
    """

    namespace: str
    tag: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.tag}"

    @classmethod
    def checked(cls, namespace: str, tag: str) -> PuterKey:
        """The key of two names from outside.

        Raises:
            InvalidInput: a name is outside its alphabet.
        """
        return cls(check_namespace(namespace), check_tag(tag))

    @classmethod
    def parse(cls, text: str) -> PuterKey:
        """The key that `str()` wrote.

        Raises:
            InvalidInput: the text is not a key.
        """
        namespace, _, tag = text.partition("/")
        return cls.checked(namespace, tag)


def check_namespace(value: str, *, named_by: str = "namespace") -> str:
    """The value itself, if it can be a namespace; raises InvalidInput otherwise, with the setting that it is from."""
    if not NAMESPACE.fullmatch(value):
        raise InvalidInput(
            f"{shown(value)}: use 1 to 39 lower-case letters, digits and '-', not beginning with '-'",
            subject=named_by,
        )
    return value


def check_user(value: str, *, named_by: str = "user") -> str:
    """The value itself, if it can be the name of a Redis user that is a client of Puter.

    Raises:
        InvalidInput: it cannot; the text names the setting that it is from.
    """
    if not USER.fullmatch(value):
        raise InvalidInput(f"{shown(value)}: use {USER_ALPHABET}", subject=named_by)
    return value


def check_tag(value: str) -> str:
    """The value itself, if it can be a tag; raises InvalidInput otherwise."""
    if not TAG.fullmatch(value):
        raise InvalidInput(
            f"{shown(value)}: use 1 to 128 letters, digits and . _ : @ + = -, beginning with a letter or digit",
            subject="tag",
        )
    return value


def tag_order(tag: str) -> tuple[tuple[str | int, ...], str]:
    """The sort key of tags wherever they are listed: numbers count as numbers, so `job-2` comes before `job-10`."""
    # Text and digits alternate, so that a number is compared with numbers only.
    parts = _DIGITS.split(tag)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), tag


def shown(value: object, limit: int = 60) -> str:
    """A value from outside as an error may show it: on one line, without control characters, cut at `limit`."""
    # Normalizing may join some characters, never more than these: the rest would only cost time.
    whole = str(value)
    text = printable(whole[: 4 * limit])
    return repr(text if len(text) <= limit and len(whole) <= 4 * limit else text[: limit - 1] + "…")
