"""What a verdict says."""

from __future__ import annotations

from dataclasses import dataclass

from puter_client.contract.key import PuterKey


@dataclass(frozen=True)
class Finding:
    """A property that does not hold; `key` if it is about one key."""

    what: str
    key: PuterKey | None = None

    def __str__(self) -> str:
        return f"{self.key}: {self.what}" if self.key else self.what
