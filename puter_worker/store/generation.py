"""One generation of a key, as a member of sorted sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from puter_client.contract.key import PuterKey
from puter_client.contract.record import Record


@dataclass(frozen=True, slots=True)
class Generation:
    """A key's machine of one generation.

    Attributes:
        key: the key.
        generation: 1 for its first machine.
    """

    key: PuterKey
    generation: int

    def __str__(self) -> str:
        return f"{self.key}#{self.generation}"

    @classmethod
    def of(cls, record: Record) -> Self:
        """The generation that the record is about."""
        return cls(record.key, record.generation)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The generation that `str()` wrote."""
        key, _, generation = text.rpartition("#")
        return cls(PuterKey.parse(key), int(generation))
