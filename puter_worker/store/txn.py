"""Transactions: what must still be so, and what to write then; all of it in one round trip, or nothing.

Decisions are made in Python on what was read; a transaction writes them only if nothing they rest on has
changed meanwhile. Whoever loses the race reads again and decides anew, so two workers in one station are harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Word = str | bytes | int | float


@dataclass(slots=True)
class Txn:
    """Guards and commands of one transaction.

    Attributes:
        guards: how many; the answer of a commit counts them from 0.
    """

    _guards: list[Word] = field(default_factory=list)
    _commands: list[Word] = field(default_factory=list)
    guards: int = 0

    def expect(self, key: str, name: str, value: bytes | str | None) -> int:
        """The hash's field has this value (None: is not there)."""
        if value is None:
            return self._guard("no-hash", key, name, "")
        return self._guard("hash", key, name, value)

    def expect_member(self, key: str, member: str) -> int:
        """The sorted set holds this member."""
        return self._guard("member", key, member, "")

    def expect_head(self, key: str, value: bytes) -> int:
        """The list begins with exactly this value."""
        return self._guard("head", key, "", value)

    def expect_length(self, key: str, length: int) -> int:
        """The list is that long."""
        return self._guard("length", key, "", length)

    def expect_size(self, key: str, size: int) -> int:
        """The set holds that many."""
        return self._guard("size", key, "", size)

    def _guard(self, kind: str, key: str, name: str, value: Word) -> int:
        self._guards += (kind, key, name, value)
        self.guards += 1
        return self.guards - 1

    def do(self, *words: Word) -> None:
        """A command to be carried out if all guards hold."""
        self._commands.append(len(words))
        self._commands += words

    def args(self) -> list[Any]:
        """What `txn.lua` takes as ARGV."""
        return [self.guards, *self._guards, *self._commands]

    def __bool__(self) -> bool:
        return bool(self._commands)
