"""Transactions: what must still be so, and what to write then; in one round trip.

Decisions are made in Python on what was read; a transaction writes them only if nothing they rest on has
changed meanwhile. Whoever loses the race reads again and decides anew, so two workers in one stage are harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

Word = str | bytes | int | float
# All words but bytes go as one MessagePack: to write each as an argument of its own is most of what intake would do.
_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Txn:
    """Guards and commands of one transaction."""

    _guards: list[tuple[Word, ...]] = field(default_factory=list)
    # By a number, or by themselves where there shall be one of a kind.
    _commands: dict[tuple[Word, ...] | int, tuple[Word, ...]] = field(default_factory=dict)
    _kept: dict[str, int] = field(default_factory=dict)

    @property
    def guards(self) -> int:
        """How many; the answer of a commit counts them from 0."""
        return len(self._guards)

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

    def _guard(self, *words: Word) -> int:
        self._guards.append(words)
        return len(self._guards) - 1

    def do(self, *words: Word) -> None:
        """A command to be carried out if all guards hold, after those before it."""
        self._commands[len(self._commands)] = words

    def once(self, *words: Word) -> None:
        """The same, but a command that was given in this way before is not given twice."""
        self._commands.setdefault(words, words)

    def keep(self, name: str, for_s: int) -> None:
        """Let a key live for so long, from now on; it is there when all commands are carried out."""
        self._kept[name] = max(for_s, self._kept.get(name, 0))

    @property
    def commands(self) -> list[tuple[Word, ...]]:
        """What is carried out if all guards hold, in this order."""
        return [*self._commands.values(), *(("EXPIRE", name, for_s) for name, for_s in self._kept.items())]

    def args(self) -> list[bytes]:
        """What `txn.lua` takes as ARGV: guards and commands, then the bytes in them, which stand there as [place]."""
        args = [b""]

        def without_bytes(words: tuple[Word, ...]) -> Sequence[Word | tuple[int]]:
            if bytes not in map(type, words):
                return words
            said: list[Word | tuple[int]] = []
            for word in words:
                if isinstance(word, bytes):
                    args.append(word)
                    said.append((len(args),))
                else:
                    said.append(word)
            return said

        args[0] = _encode(([*map(without_bytes, self._guards)], [*map(without_bytes, self.commands)]))
        return args

    def __bool__(self) -> bool:
        return bool(self._commands or self._kept)
