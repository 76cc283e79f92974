"""How a workload ended."""

from __future__ import annotations

from enum import StrEnum


class Result(StrEnum):
    """What is known of how a workload ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    LOST = "lost"
