"""What a dead worker had in hand is another's within 15 seconds.

It is held until its claim, lease or lock runs out, and then noticed. Who looks for it:

* Claims are times in a sorted set. A stage sleeps until the earliest of them, and at most `sweep_s`. No claim is
  shorter than that, so a stage that was asleep when the claim was made looks at least once before it runs out, learns
  when it does, and sleeps until just then. All that comes on top is the least gap between two runs of the stage.
* A leader renews its lease until it dies. The others try to take it over at least every `lease_renew_s`. The stages of
  a new leader look at once when they start, and then as above; an intent's lease and the target's run out side by
  side, yet here one is counted after the other.
* A look-up that does not fill a call waits for more at most `look_up_longest_s`, and begins `look_up_apart_s` after
  the last one.
* A job that is locked stays due: while there is one, a worker with room tries every `backlog_again_s`.
* A key is due `restart_s` after it was put on its way, and the stage sleeps at most as long: the latest look before
  was at most `restart_s` earlier, so the next one comes no later than the key is due, and the one after it just then.
"""

from __future__ import annotations

import pytest

from puter_worker.stages.consoles import ShowConsoles
from puter_worker.stages.ingress import Ingress
from puter_worker.stages.label import Labelling
from puter_worker.stages.max_fails import MaxFails
from puter_worker.stages.orders import CarryOut
from puter_worker.stages.replay import Replay
from puter_worker.stages.restart import Restart
from puter_worker.stages.results import ReadResults
from puter_worker.stages.stage import Stage, until_due
from puter_worker.timings import Timings

WITHIN_S = 15.0
T = Timings()


def gap_s(stage: type[Stage]) -> float:
    """How long after the begin of its last run a stage that was woken waits at most."""
    return T.least_gap_s if stage.least_gap_s is None else stage.least_gap_s


@pytest.mark.parametrize(
    ("what", "held_s", "noticed_after_s"),
    [
        ("a target", T.lease_s, T.lease_renew_s),
        ("an intent", T.intent_lease_s, T.lease_s + T.lease_renew_s + gap_s(Replay)),
        ("a look-up", T.look_up_claim_s, T.look_up_apart_s + T.look_up_longest_s),
        ("a label", T.label_claim_s, gap_s(Labelling)),
        ("an ingress rule", T.ingress_claim_s, gap_s(Ingress)),
        ("a console", T.console_claim_s, gap_s(ShowConsoles)),
        ("a batch", T.failures_claim_s, gap_s(MaxFails)),
        ("an order", T.order_claim_s, gap_s(CarryOut)),
        ("a result", T.result_claim_s, gap_s(ReadResults)),
        ("a job", T.job_lock_s, T.backlog_again_s),
        ("a key whose job is gone", T.restart_s, gap_s(Restart)),
    ],
)
def test_it_is_taken_up_in_time(what: str, held_s: float, noticed_after_s: float) -> None:
    assert held_s + noticed_after_s <= WITHIN_S, what


@pytest.mark.parametrize(
    ("what", "held_s"),
    [
        ("an intent", T.intent_lease_s),
        ("a look-up", T.look_up_claim_s),
        ("a label", T.label_claim_s),
        ("an ingress rule", T.ingress_claim_s),
        ("a console", T.console_claim_s),
        ("a batch", T.failures_claim_s),
        ("an order", T.order_claim_s),
        ("a result", T.result_claim_s),
        ("a job", T.job_lock_s),
    ],
)
def test_a_stage_that_sleeps_looks_at_least_once_while_it_is_held(what: str, held_s: float) -> None:
    assert T.sweep_s <= held_s, what


@pytest.mark.parametrize(
    ("due", "pause_s"),
    [(None, 5.0), (99.0, 0.0), (100.0, 0.0), (103.0, 3.0), (112.0, 5.0)],
    ids=["nothing", "overdue", "now", "soon", "late"],
)
def test_a_stage_sleeps_until_the_next_item_is_due_and_never_for_long(due: float | None, pause_s: float) -> None:
    assert until_due(due, 100.0, at_most=5.0) == pause_s


def test_what_is_held_is_renewed_well_before_it_runs_out() -> None:
    assert 3 * T.intent_renew_s <= T.intent_lease_s
    assert 3 * T.lease_renew_s <= T.lease_s


def test_a_job_has_ended_before_its_lock_runs_out() -> None:
    assert T.account_s < T.job_timeout_s < T.job_lock_s
