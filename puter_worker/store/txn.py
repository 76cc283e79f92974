"""Transactions: guards that must hold, and the commands to carry out then, in one round trip.

Decisions are made in Python on what was read; a transaction writes them only if its guards show that nothing they
depend on has changed. The worker that loses a race reads and decides again, so two workers in one stage are harmless.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from puter_worker.store.names import WAKE

Word = str | bytes | int | float
# All words but bytes are sent as one MessagePack: writing each as its own argument would take most of intake's time.
_encode = msgspec.msgpack.Encoder().encode
# Commands that take any number of elements of one key; a call from Lua costs more than most of them do.
_JOINED = frozenset({"HSET", "HDEL", "RPUSH", "SADD", "SREM", "ZADD", "ZREM"})
_FLAGS = frozenset({"NX", "XX"})
# Lua passes each word of a command on its stack, which has room for some 8,000.
_JOINED_WORDS = 2_000
# Redis takes arguments of up to proto-max-bulk-len, which deploy/redis.conf sets to the least possible, 1 MiB.
PART_BYTES = 1_000_000


@dataclass(slots=True)
class Txn:
    """Guards and commands of one transaction."""

    _guards: list[tuple[Word, ...]] = field(default_factory=list)
    # The dict's key is a number, or the command itself if it is to be carried out only once.
    _commands: dict[tuple[Word, ...] | int, list[Word]] = field(default_factory=dict)
    # Each Redis key's last command, if it can take further elements.
    _open: dict[Word, list[Word]] = field(default_factory=dict)
    _kept: dict[str, int] = field(default_factory=dict)
    _kept_if_new: dict[str, int] = field(default_factory=dict)
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

    def expect_score(self, key: str, member: str, score: float) -> int:
        """Guard: the sorted set holds this member with this score."""
        return self._guard("score", key, member, score)

    def expect_room(self, key: str, member: str, *, since: float, upto: float, most: int) -> int:
        """Guard: of the members with scores from `since` to `upto`, this is one, or there are fewer than `most`."""
        return self._guard("room", key, member, f"{since!r} {upto!r} {most}")

    def expect_empty(self, key: str) -> int:
        """Guard: nothing is stored under this name, so no set or list of that name has a member."""
        return self._guard("empty", key, "", "")

    def expect_head(self, key: str, value: bytes) -> int:
        """Guard: the list begins with exactly this value."""
        return self._guard("head", key, "", value)

    def expect_length(self, key: str, length: int) -> int:
        """Guard: the list has this length."""
        return self._guard("length", key, "", length)

    def expect_size(self, key: str, size: int) -> int:
        """Guard: the set has this many members."""
        return self._guard("size", key, "", size)

    def expect_below(self, key: str, size: int) -> int:
        """Guard: the set has fewer members than this."""
        return self._guard("below", key, "", size)

    def expect_fields_below(self, key: str, size: int) -> int:
        """Guard: the hash has fewer fields than this."""
        return self._guard("fields-below", key, "", size)

    def expect_sum_below(self, key: str, most: int) -> int:
        """Guard: the numbers in the hash add up to less than this."""
        return self._guard("sum-below", key, "", most)

    def expect_since_below(self, key: str, since: float, size: int) -> int:
        """Guard: fewer members of the sorted set have this score or a higher one."""
        return self._guard("since-below", key, repr(since), size)

    def _guard(self, *words: Word) -> int:
        self._guards.append(words)
        return len(self._guards) - 1

    def do(self, *words: Word) -> None:
        """Add a command, which is carried out if all guards hold, after the commands before it.

        Its second word is the one Redis key that it is about. If that key's last command has the same name, and both
        take any number of elements, they become one.
        """
        name, key = words[:2]
        last = self._open.get(key)
        if last is not None and last[0] == name and len(last) < _JOINED_WORDS and words[2] not in _FLAGS:
            last += words[2:]
        else:
            self._add(len(self._commands), words)

    def once(self, *words: Word) -> None:
        """Add a command, unless the same one was added in this way before."""
        if words not in self._commands:
            self._add(words, words)

    def _add(self, as_: tuple[Word, ...] | int, words: tuple[Word, ...]) -> None:
        self._commands[as_] = command = list(words)
        if words[0] in _JOINED and words[2] not in _FLAGS:
            self._open[words[1]] = command
        else:
            self._open.pop(words[1], None)

    def keep(self, name: str, for_s: int, *, only_new: bool = False) -> None:
        """Let a key in Redis expire after this time; EXPIRE comes after all commands, when the key exists.

        `only_new`: a key that expires at any time already keeps that time.
        """
        kept = self._kept_if_new if only_new else self._kept
        kept[name] = max(for_s, kept.get(name, 0))

    def wake(self, topic: str) -> None:
        """Tell all workers that something was written for the stages of this topic."""
        self._topics[topic] = None

    @property
    def commands(self) -> list[list[Word]]:
        """The commands that are carried out if all guards hold, in this order."""
        told: list[list[Word]] = [["PUBLISH", WAKE, "\n".join(self._topics)]] if self._topics else []
        kept: list[list[Word]] = [["EXPIRE", name, for_s] for name, for_s in self._kept.items()]
        kept += [["EXPIRE", name, for_s, "NX"] for name, for_s in self._kept_if_new.items()]
        return [*self._commands.values(), *kept, *told]

    def args(self) -> list[bytes]:
        """The ARGV of `txn.lua`: guards, commands and the places of the bytes in them, then the bytes themselves.

        What is larger than PART_BYTES comes in several arguments, and in front is in how many the first one does.
        """
        all_bytes: list[bytes] = []
        places: list[tuple[int, int, int, int]] = []
        sent = ([list(words) for words in self._guards], [list(words) for words in self.commands])
        for which, lists in enumerate(sent, 1):
            for number, words in enumerate(lists, 1):
                if bytes not in map(type, words):
                    continue
                for place, word in enumerate(words):
                    if isinstance(word, bytes):
                        words[place] = ""
                        parts = _parts(word)
                        all_bytes += parts
                        places.append((which, number, place + 1, len(parts)))
        first = _parts(_encode((*sent, places)))
        return [b"%d" % len(first), *first, *all_bytes]

    def __bool__(self) -> bool:
        return bool(self._commands or self._kept or self._kept_if_new)


def _parts(value: bytes) -> list[bytes]:
    return [value[at : at + PART_BYTES] for at in range(0, len(value), PART_BYTES)] or [value]
