"""`python -m tests.chaos.chaos_worker`: a worker like that of `python -m puter_worker`, with shorter times.

The simulator's token buckets refill faster than AWS's, so must the pacer's; and a short run has no time for leases of
ten seconds. And the clocks of the worker's host and of Redis's host are set by the run. Nothing else differs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from puter_worker import __main__
from puter_worker.clock import Clock
from puter_worker.rates import Rates
from puter_worker.timings import Timings

SPEED = "PUTER_CHAOS_SPEED"
HURRY = "PUTER_CHAOS_HURRY"
CLOCKS = "PUTER_CHAOS_CLOCKS"  # a file: by how many seconds the clocks of Redis's host and of this host were set
# Claims, leases and time-outs: after these others take over, or look again.
_HURRIED = (
    "account_s",
    "arrives_s",
    "health_s",
    "ingress_claim_s",
    "intent_lease_s",
    "intent_renew_s",
    "job_lock_s",
    "job_timeout_s",
    "label_claim_s",
    "lease_renew_s",
    "lease_s",
    "look_up_claim_s",
    "order_again_s",
    "order_claim_s",
    "order_confirm_s",
    "restart_s",
    "result_again_s",
    "result_claim_s",
    "second_look_s",
)


# The simulated EC2 has a console after a moment. What it does not show for long is lost, and the run has no 20 minutes.
RESULT_READS_S = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)


class SetClock(Clock):
    """The clock of a worker in a world where clocks are set: those of Redis's host and of the worker's host."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file

    def _set_by(self) -> tuple[float, float]:
        redis_s, host_s = self._file.read_text().split()
        return float(redis_s), float(host_s)

    def host_now(self) -> float:
        """This host's clock, as it was set."""
        return super().host_now() + self._set_by()[1]

    def learn(self, redis_time: float, *, sent_at: float, answered_at: float) -> float | None:
        """Learn what Redis TIME would be if its host's clock had been set."""
        return super().learn(redis_time + self._set_by()[0], sent_at=sent_at, answered_at=answered_at)


def hurried(hurry: float) -> Timings:
    """The intervals of service, but with the times after which others take over divided."""
    usual = Timings(result_reads_s=RESULT_READS_S)
    return msgspec.structs.replace(usual, **{name: getattr(usual, name) / hurry for name in _HURRIED})


if __name__ == "__main__":
    speed, hurry = float(os.environ[SPEED]), float(os.environ[HURRY])
    clock = SetClock(Path(os.environ[CLOCKS]))
    rates = Rates().faster(speed)
    sys.exit(__main__.main(timings=hurried(hurry), rates=rates, clock=clock))
