"""`python -m tests.chaos.worker`: a worker like that of `python -m puter_worker`, with shorter times.

The simulator's token buckets refill faster than AWS's, so must the pacer's; and a short run has no time for leases of
ten seconds. Nothing else differs.
"""

from __future__ import annotations

import os
import sys
from types import ModuleType

import msgspec

from puter_worker import __main__, jobs, pacer
from puter_worker.stages import admit, ensure, label, launch, resolve, send
from puter_worker.store import queue

SPEED = "PUTER_CHAOS_SPEED"
HURRY = "PUTER_CHAOS_HURRY"
_WAITS: tuple[tuple[ModuleType, str], ...] = (
    (admit, "CLAIM_S"),
    (ensure, "ACCOUNT_S"),
    (label, "CLAIM_S"),
    (launch, "LEASE_S"),
    (pacer, "ARRIVES_WITHIN_S"),
    (queue, "RESTART_AFTER_S"),
    (resolve, "CLAIM_S"),
    (send, "LEASE_S"),
    (send, "RENEW_S"),
    (send, "SECOND_LOOK_AFTER_S"),
    (jobs, "JOB_LOCK_S"),
    (jobs, "JOB_TIMEOUT_S"),
)


def quicken(speed: float) -> None:
    """Make the pacer's buckets refill faster by this factor."""
    for name, bucket in pacer.BUCKETS.items():
        pacer.BUCKETS[name] = msgspec.structs.replace(bucket, rate=bucket.rate * speed)
    pacer._DESCRIBE = msgspec.structs.replace(pacer._DESCRIBE, rate=pacer._DESCRIBE.rate * speed)


def shorten(hurry: float) -> None:
    """Divide the times after which others take over."""
    for module, name in _WAITS:
        setattr(module, name, getattr(module, name) / hurry)


if __name__ == "__main__":
    quicken(float(os.environ[SPEED]))
    shorten(float(os.environ[HURRY]))
    sys.exit(__main__.main())
