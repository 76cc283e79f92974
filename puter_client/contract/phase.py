"""The phases of a request."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """The state of a request; within one request it only moves down this list."""

    QUEUED = "queued"
    RESOLVING = "resolving"
    LAUNCHING = "launching"
    PENDING = "pending"
    RUNNING = "running"
    TERMINATED = "terminated"
    FAILED = "failed"
    CANCELLED = "cancelled"


ON_ITS_WAY = frozenset({Phase.QUEUED, Phase.RESOLVING, Phase.LAUNCHING})
LIVE = frozenset({Phase.PENDING, Phase.RUNNING})
ENDED = frozenset({Phase.TERMINATED, Phase.FAILED, Phase.CANCELLED})
