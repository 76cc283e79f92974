"""Outcomes of requests."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What a request led to, written in its row of the batch."""

    CREATED = "created"
    EXISTING = "existing"
    JOINED = "joined"
    CONFLICT = "conflict"
    DONE = "done"
    SKIPPED = "skipped"
    REFUSED = "refused"
    CANCELLED = "cancelled"
