"""`python -m tests.acceptance.quick_worker`: a worker like that of `python -m puter_worker`, for the simulated EC2.

The simulator's token buckets refill faster than AWS's, so the pacer's do; its consoles come at once, so they are read
more often.
"""

from __future__ import annotations

import sys

from puter_worker import __main__
from puter_worker.rates import Rates
from puter_worker.timings import Timings
from tests.integration.sim_workshop import SPEED

TIMINGS = Timings(starting_s=1.0, awaited_s=1.0, result_reads_s=(0.0, 0.5, 1.0, 1.5), result_again_s=1.0)

if __name__ == "__main__":
    sys.exit(__main__.main(timings=TIMINGS, rates=Rates().faster(SPEED)))
