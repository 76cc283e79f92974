"""How the value of a rule is written in a policy file, and how it is shown to people.

A kind reads what TOML made of a value, or raises ValueError with what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from puter_client.contract.duration import format_duration
from puter_client.contract.key import shown
from puter_client.contract.readers import Seconds

UNLIMITED = "unlimited"
_GLOB = frozenset("*?[")
_WIDE = frozenset("*?")  # not "[": names of security groups and keys may have it
_MOST_ENTRIES = 1_000


class Kind(Protocol):
    """How the values of one rule are written.

    Attributes:
        nothing: the value that allows nothing: what holds where a policy does not name the rule.
    """

    nothing: Any

    def read(self, value: Any) -> Any:
        """The value as the rule holds it."""

    def show(self, value: Any) -> str:
        """A value that allows something, for people."""


class Names:
    """A list of texts, each read by a reader; with `globs`, one with `*`, `?` or `[…]` stands for all that match it."""

    nothing: tuple[str, ...] = ()

    def __init__(self, read_one: Callable[[Any], str], *, globs: str | None = None) -> None:
        """`globs`: the characters of which a glob may consist too, besides "-"; None: there are no globs."""
        self._read_one = read_one
        self._globs = globs

    def read(self, value: Any) -> tuple[str, ...]:
        """The names, each once."""
        if not isinstance(value, list):
            raise ValueError(f'{shown(value)}: write a list, like ["one", "two"]')
        if len(value) > _MOST_ENTRIES:
            raise ValueError(f"has {len(value):,} entries: write at most {_MOST_ENTRIES:,}")
        return tuple(dict.fromkeys(self._read_entry(item) for item in value))

    def _read_entry(self, item: Any) -> str:
        if not isinstance(item, str):
            raise ValueError(f"{shown(item)}: write a text, in quotes")
        if _GLOB & set(item) and self._globs is not None:
            import re  # only where a policy has globs

            if not re.fullmatch(rf"[-{self._globs}*?\[\]!]{{1,128}}", item):
                raise ValueError(f"{shown(item)}: has a character that no such name has")
            return item
        if _WIDE & set(item):
            raise ValueError(f"{shown(item)}: a glob is not understood here: write each name in full")
        return self._read_one(item)

    def show(self, value: tuple[str, ...]) -> str:
        """The names in their order."""
        return ", ".join(value)


class Flag:
    """True or false."""

    nothing = False

    def read(self, value: Any) -> bool:
        """The value."""
        if not isinstance(value, bool):
            raise ValueError(f"{shown(value)}: write true or false")
        return value

    def show(self, value: bool) -> str:
        """Yes or no."""
        return "yes" if value else "no"


class Number:
    """A whole number, or "unlimited", which is None."""

    nothing = 0

    def __init__(self, most: int, *, least: int = 0, unlimited: bool = True) -> None:
        self._least = least
        self._most = most
        self._unlimited = unlimited

    def read(self, value: Any) -> int | None:
        """The number."""
        if self._unlimited and value == UNLIMITED:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not self._least <= value <= self._most:
            word = f', or "{UNLIMITED}"' if self._unlimited else ""
            raise ValueError(f"{shown(value)}: write a whole number from {self._least:,} to {self._most:,}{word}")
        return value

    def show(self, value: int | None) -> str:
        """The number."""
        return UNLIMITED if value is None else f"{value:,}"


class Longest:
    """A duration in seconds, or "unlimited", which is None."""

    nothing = 0
    _seconds = Seconds("1m to 365d", 60, 365 * 86_400)

    def read(self, value: Any) -> int | None:
        """The seconds."""
        if value == UNLIMITED:
            return None
        if not isinstance(value, str):
            raise ValueError(f'{shown(value)}: write a duration in quotes, like "8h", or "{UNLIMITED}"')
        return self._seconds.read(value)

    def show(self, value: int | None) -> str:
        """The duration as people write it."""
        return UNLIMITED if value is None else format_duration(value)


class Text:
    """One text, read by a reader; None: there is none."""

    nothing = None

    def __init__(self, read_one: Callable[[Any], str]) -> None:
        self._read_one = read_one

    def read(self, value: Any) -> str:
        """The text."""
        if not isinstance(value, str):
            raise ValueError(f"{shown(value)}: write a text, in quotes")
        return self._read_one(value)

    def show(self, value: str) -> str:
        """The text."""
        return value
