"""Transactions: guards that must hold, and the commands to carry out then, in one round trip.

Decisions are made in Python on what was read; a transaction writes them only if its guards show that nothing they
depend on has changed. The worker that loses a race reads and decides again, so two workers in one stage are harmless.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from puter_worker.store.names import WAKE

Word = str | bytes | int | float
# All words but bytes are sent as one MessagePack: writing each as its own argument would take most of intake's time.
_encode = msgspec.msgpack.Encoder().encode


@dataclass(slots=True)
class Txn:
    """Guards and commands of one transaction."""

    _guards: list[tuple[Word, ...]] = field(default_factory=list)
    # The dict's key is a number, or the command itself if it is to be carried out only once.
    _commands: dict[tuple[Word, ...] | int, tuple[Word, ...]] = field(default_factory=dict)
    _kept: dict[str, int] = field(default_factory=dict)
    _topics: dict[str, None] = field(default_factory=dict)

    @property
    def guards(self) -> int:
        """How many guards there are; the answer of a commit numbers them from 0."""
        return len(self._guards)

    def expect(self, key: str, name: str, value: bytes | str | None) -> int:
        """Guard: the hash's field has this value (None: the field does not exist)."""
        if value is None:
            return self._guard("no-hash", key, name, "")
        return self._guard("hash", key, name, value)

    def expect_member(self, key: str, member: str) -> int:
        """Guard: the sorted set holds this member."""
        return self._guard("member", key, member, "")

    def expect_head(self, key: str, value: bytes) -> int:
        """Guard: the list begins with exactly this value."""
        return self._guard("head", key, "", value)

    def expect_length(self, key: str, length: int) -> int:
        """Guard: the list has this length."""
        return self._guard("length", key, "", length)

    def expect_size(self, key: str, size: int) -> int:
        """Guard: the set has this many members."""
        return self._guard("size", key, "", size)

    def _guard(self, *words: Word) -> int:
        self._guards.append(words)
        return len(self._guards) - 1

    def do(self, *words: Word) -> None:
        """Add a command, which is carried out if all guards hold, after the commands before it."""
        self._commands[len(self._commands)] = words

    def once(self, *words: Word) -> None:
        """Add a command, unless the same one was added in this way before."""
        self._commands.setdefault(words, words)

    def keep(self, name: str, for_s: int) -> None:
        """Let a key in Redis expire after this time; EXPIRE comes after all commands, when the key exists."""
        self._kept[name] = max(for_s, self._kept.get(name, 0))

    def wake(self, topic: str) -> None:
        """Tell all workers that something was written for the stages of this topic."""
        self._topics[topic] = None

    @property
    def commands(self) -> list[tuple[Word, ...]]:
        """The commands that are carried out if all guards hold, in this order."""
        told: list[tuple[Word, ...]] = [("PUBLISH", WAKE, "\n".join(self._topics))] if self._topics else []
        return [*self._commands.values(), *(("EXPIRE", name, for_s) for name, for_s in self._kept.items()), *told]

    def args(self) -> list[bytes]:
        """The ARGV of `txn.lua`: guards and commands, in which [n] stands for bytes, then the bytes themselves."""
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
