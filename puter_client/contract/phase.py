"""The states that a puter, a request and a workload can be in."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a request stands; within one request it only moves downwards in this list."""

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
RANK = {phase: rank for rank, phase in enumerate(Phase)}


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


class Result(StrEnum):
    """What is known of how a workload ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    LOST = "lost"


class Os(StrEnum):
    """The Amazon Linux that is booted; `al2` ended its support on 2026-06-30."""

    AL2023 = "al2023"
    AL2 = "al2"


class Origin(StrEnum):
    """Which command made a request: `up` wants a machine now, `submit` a workload done once."""

    UP = "up"
    SUBMIT = "submit"
