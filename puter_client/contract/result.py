"""How a workload ended."""

from __future__ import annotations

from enum import StrEnum


class Result(StrEnum):
    """What is known of how a workload ended.

    succeeded: exit code 0. failed: another one. timed_out: stopped before its machine's deadline. interrupted: EC2 took
    the machine, or it was restarted. stopped: a person or an order ended it. lost: the machine ended, and nothing says
    how its workload did.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    INTERRUPTED = "interrupted"
    STOPPED = "stopped"
    LOST = "lost"
