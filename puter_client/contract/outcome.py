"""What became of one request of a batch."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of one request of a batch, told in the batch's row."""

    CREATED = "created"
    EXISTING = "existing"
    JOINED = "joined"
    CONFLICT = "conflict"
    DONE = "done"
    SKIPPED = "skipped"
    REFUSED = "refused"
    CANCELLED = "cancelled"
