"""`python -m tests.chaos.chaos_worker`: a worker like that of `python -m puter_worker`, with shorter times.

The simulator's token buckets refill faster than AWS's, so must the pacer's; and a short run has no time for leases of
ten seconds. Nothing else differs.
"""

from __future__ import annotations

import os
import sys

import msgspec

from puter_worker import __main__
from puter_worker.rates import Rates
from puter_worker.timings import Timings

SPEED = "PUTER_CHAOS_SPEED"
HURRY = "PUTER_CHAOS_HURRY"
# Claims, leases and time-outs: after these others take over, or look again.
_HURRIED = (
    "account_s",
    "arrives_s",
    "ingress_claim_s",
    "intent_lease_s",
    "intent_renew_s",
    "job_lock_s",
    "job_timeout_s",
    "label_claim_s",
    "lease_renew_s",
    "lease_s",
    "look_up_claim_s",
    "restart_s",
    "second_look_s",
)


def hurried(hurry: float) -> Timings:
    """The intervals of service, but with the times after which others take over divided."""
    usual = Timings()
    return msgspec.structs.replace(usual, **{name: getattr(usual, name) / hurry for name in _HURRIED})


if __name__ == "__main__":
    speed, hurry = float(os.environ[SPEED]), float(os.environ[HURRY])
    sys.exit(__main__.main(timings=hurried(hurry), rates=Rates().faster(speed)))
