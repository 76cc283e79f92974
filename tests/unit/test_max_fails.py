"""What counts as a failure of a batch, and what becomes of the rest of it once too many have failed."""

from __future__ import annotations

from typing import Any

import pytest

from puter_client.contract import transitions
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import PuterKey
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import Record
from puter_client.contract.request import Origin, UpRequest
from puter_client.contract.result import Result
from puter_client.contract.spec import Spec, spec_digest
from puter_client.view import View
from puter_worker.ec2.frame import Frame
from puter_worker.stages.decide import decide
from puter_worker.stages.decode import decode_request
from puter_worker.stages.max_fails import after_limit
from puter_worker.stages.workload import is_retried, with_frame, without_frame
from puter_worker.store.failures import BatchLimit, is_failure
from puter_worker.store.versioned import encode

NOW = 1_000_000.0
WHY = "3 of batch b-1 failed (max_fails)"
LIMIT = BatchLimit("betty", "b-1", 3, keep_running=False, owner="anna")
KEEPS = BatchLimit("betty", "b-1", 3, keep_running=True, owner="anna")
OWN = Order(kind=OrderKind.STOP, user="bob", given_at=1.0, sent_at=2.0)
LIMITS = Order(kind=OrderKind.STOP, user="anna", given_at=1.0, sent_at=2.0, reason=WHY)
EXTENDED = Order(kind=OrderKind.EXTEND, user="bob", given_at=1.0, expires_at=NOW)


def record(phase: Phase, **changes: Any) -> Record:
    known = Record(
        namespace="betty",
        tag="one",
        phase=phase,
        created_at=1.0,
        changed_at=1.0,
        batch_id="b-1",
        max_fails=3,
        owner="anna",
        has_workload=True,
    )
    return known.replace(**changes)


@pytest.mark.parametrize("result", [None, *Result])
@pytest.mark.parametrize("phase", Phase)
def test_a_failure_is_a_result_that_is_no_success_or_a_launch_that_failed(phase: Phase, result: Result | None) -> None:
    bad = {Result.FAILED, Result.TIMED_OUT, Result.INTERRUPTED, Result.LOST}
    expected = result in bad or (result is None and phase is Phase.FAILED)

    assert is_failure(record(phase, result=result)) == expected


def test_one_that_is_run_again_is_no_failure() -> None:
    ended = record(Phase.TERMINATED, result=Result.INTERRUPTED, reason="Spot")

    assert not is_failure(transitions.retried(ended, Spec(run="make", retries=1), NOW))


@pytest.mark.parametrize("limit", [LIMIT, KEEPS], ids=["stops", "keeps"])
@pytest.mark.parametrize("phase", sorted(ON_ITS_WAY))
def test_what_is_not_launched_is_cancelled(phase: Phase, limit: BatchLimit) -> None:
    after = after_limit(record(phase), limit, NOW)

    assert after
    assert (after.phase, after.reason, after.ended_at) == (Phase.CANCELLED, f"cancelled: {WHY}", NOW)


@pytest.mark.parametrize("order", [None, EXTENDED])
@pytest.mark.parametrize(("phase", "intent"), [(Phase.LAUNCHING, "x"), *((phase, None) for phase in sorted(LIVE))])
def test_what_runs_or_is_being_launched_is_told_to_stop_or_left(
    phase: Phase, intent: str | None, order: Order | None
) -> None:
    old = record(phase, intent=intent, order=order)

    assert after_limit(old, LIMIT, NOW) == old.replace(
        order=Order(kind=OrderKind.STOP, user="anna", given_at=NOW, reason=WHY)
    )
    assert after_limit(old, KEEPS, NOW) is None


@pytest.mark.parametrize("order", [OWN, LIMITS])
def test_what_is_told_to_stop_is_not_told_again(order: Order) -> None:
    assert after_limit(record(Phase.RUNNING, order=order), LIMIT, NOW) is None


@pytest.mark.parametrize("phase", sorted(set(Phase) - ON_ITS_WAY - LIVE))
def test_what_has_ended_stays_as_it_is(phase: Phase) -> None:
    assert after_limit(record(phase), LIMIT, NOW) is None


@pytest.mark.parametrize("result", Result)
def test_a_machine_that_is_kept_after_its_workload_stays(result: Result) -> None:
    assert after_limit(record(Phase.RUNNING, result=result), LIMIT, NOW) is None


@pytest.mark.parametrize("phase", Phase)
def test_what_another_batch_has_requested_is_not_touched(phase: Phase) -> None:
    assert after_limit(record(phase, batch_id="b-2"), LIMIT, NOW) is None


@pytest.mark.parametrize(
    ("order", "reason"), [(OWN, "cancelled by bob"), (LIMITS, f"cancelled: {WHY}"), (EXTENDED, "cancelled by bob")]
)
def test_a_refused_launch_that_was_to_stop_says_who_or_what_has_cancelled_it(order: Order, reason: str) -> None:
    assert transitions.cancelled(record(Phase.LAUNCHING, order=order), "bob", NOW).reason == reason


@pytest.mark.parametrize(
    ("order", "with_it", "without_it"),
    [
        (OWN, "workload stopped, exit code 143: its owner has ordered it", "workload stopped: ordered by bob"),
        (LIMITS, f"workload stopped, exit code 143: {WHY}", f"workload stopped: {WHY}"),
    ],
)
def test_a_stopped_workload_says_why(order: Order, with_it: str, without_it: str) -> None:
    ended = record(Phase.TERMINATED, order=order)
    frame = Frame(
        result=Result.STOPPED,
        exit_code=143,
        started_at=None,
        finished_at=None,
        reason="its owner has ordered it",
        output="",
        output_bytes=0,
    )

    assert with_frame(ended, frame, NOW).reason == with_it
    assert without_frame(ended, NOW).reason == without_it


@pytest.mark.parametrize("result", Result)
@pytest.mark.parametrize("order", [OWN, LIMITS])
def test_what_was_told_to_stop_is_not_run_again(order: Order, result: Result) -> None:
    spec = Spec(run="make", retries=5, retry_on=("failed", "timed_out"))

    assert not is_retried(record(Phase.TERMINATED, result=result, order=order), spec)


@pytest.mark.parametrize(
    ("result", "order", "outcome"),
    [
        (Result.STOPPED, LIMITS, Outcome.CREATED),  # others had failed: it had no chance
        (Result.STOPPED, OWN, Outcome.SKIPPED),  # its owner wanted it to stop
        (Result.STOPPED, None, Outcome.SKIPPED),
        (Result.FAILED, LIMITS, Outcome.SKIPPED),
        (Result.SUCCEEDED, LIMITS, Outcome.DONE),
        (Result.INTERRUPTED, None, Outcome.SKIPPED),
    ],
)
def test_submitted_again_what_was_cut_short_runs(result: Result, order: Order | None, outcome: Outcome) -> None:
    spec = Spec(run="make")
    old = record(Phase.TERMINATED, spec_digest=spec_digest(spec), result=result, order=order, instance_id="i-1")
    request = UpRequest(tag="one", spec=spec, batch="b-2", size=1, user="anna", origin=Origin.SUBMIT)

    assert decide(old, spec, request, PuterKey("betty", "one"), NOW).row.outcome is outcome


@pytest.mark.parametrize("order", [OWN, LIMITS])
def test_a_machine_that_is_told_to_end_says_so_while_it_runs(order: Order) -> None:
    told = View(namespace="betty", tag="one", record=record(Phase.RUNNING, order=order))

    assert told.reason == f"told to end: {order.reason or 'ordered by bob'}"


@pytest.mark.parametrize("name", ["max_fails", "max_parallel"])
@pytest.mark.parametrize("most", [0, -1, -(2**40), 100_001, 2**70])
def test_a_client_is_not_trusted_with_limits(name: str, most: int) -> None:
    request = UpRequest(
        tag="one",
        spec=Spec(),
        batch="b-1",
        size=1,
        user="anna",
        origin=Origin.SUBMIT,
        **{name: most},  # type: ignore[arg-type]
    )

    with pytest.raises(InvalidInput, match=f"{name} {most}: must be 1 to 100000"):
        decode_request(encode(request))


@pytest.mark.parametrize("most", ['"3"', "1.5", "true", "1e400", "[]"])
def test_a_limit_that_is_no_number_is_no_request(most: str) -> None:
    request = UpRequest(tag="one", spec=Spec(), batch="b-1", size=1, user="anna", origin=Origin.SUBMIT, max_fails=7)
    raw = encode(request).replace(b'"max_fails":7', f'"max_fails":{most}'.encode())

    with pytest.raises(InvalidInput):
        decode_request(raw)
