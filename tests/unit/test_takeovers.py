"""What a dead worker had in hand is another's within 15 seconds."""

from __future__ import annotations

import pytest

from puter_worker import jobs, lead, worker
from puter_worker.stages import admit, label, resolve, send
from puter_worker.store import queue

WITHIN_S = 15.0


@pytest.mark.parametrize(
    ("what", "held_s", "looked_for_every_s"),
    [
        ("a target", lead.LEASE_S, worker.LEAD_EVERY_S),
        ("an intent", send.LEASE_S, lead.LEASE_S + worker.LEAD_EVERY_S + lead.REPLAY_EVERY_S),
        ("a look-up", resolve.CLAIM_S, resolve.LOOK_EVERY_S + resolve.LONGEST_WAIT_S),
        ("a label", label.CLAIM_S, worker.LABEL_EVERY_S),
        ("an admission", admit.CLAIM_S, worker.ADMIT_EVERY_S),
        ("a job", jobs.JOB_LOCK_S, jobs.POLL_EVERY_S),
        ("a key whose job is gone", queue.RESTART_AFTER_S, worker.RESTART_EVERY_S),
    ],
)
def test_it_is_taken_up_in_time(what: str, held_s: float, looked_for_every_s: float) -> None:
    assert held_s + looked_for_every_s <= WITHIN_S, what
