"""What a command shows of a tag, and when a wait for it has an end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from puter_client.contract.batch import BatchRow
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_client.view import WAITING_FOR_EC2, WAITING_FOR_WORKER, View, WaitFor, WaitState, iso

WAITING, REACHED, FAILED = WaitState


def view(phase: Phase | None, *, outcome: Outcome | None = Outcome.CREATED, request: int = 1, **changes: Any) -> View:
    """A tag of a batch; without a phase nothing is known of it."""
    record = None
    if phase is not None:
        record = Record(namespace="betty", tag="one", phase=phase, created_at=0.0, changed_at=0.0).replace(**changes)
    return View(
        namespace="betty",
        tag="one",
        record=record,
        row=BatchRow(outcome=outcome, request_number=request),
        batch_id="b-1",
    )


ENDS = [
    (Phase.QUEUED, [REACHED, WAITING, WAITING, WAITING]),
    (Phase.RESOLVING, [REACHED, WAITING, WAITING, WAITING]),
    (Phase.LAUNCHING, [REACHED, WAITING, WAITING, WAITING]),
    (Phase.PENDING, [REACHED, REACHED, WAITING, WAITING]),
    (Phase.RUNNING, [REACHED, REACHED, REACHED, WAITING]),
    (Phase.TERMINATED, [REACHED, REACHED, FAILED, REACHED]),
    (Phase.FAILED, [REACHED, FAILED, FAILED, FAILED]),
    (Phase.CANCELLED, [REACHED, FAILED, FAILED, FAILED]),
]
WAITS = [WaitFor.QUEUED, WaitFor.LAUNCHED, WaitFor.RUNNING, WaitFor.TERMINATED]


@pytest.mark.parametrize(("phase", "states"), ENDS)
def test_a_wait_ends_when_the_phase_is_reached_or_cannot_be(phase: Phase, states: list[WaitState]) -> None:
    has_machine = phase in (Phase.PENDING, Phase.RUNNING, Phase.TERMINATED)
    shown = view(phase, instance_id="i-1" if has_machine else None)

    assert [shown.wait_state(wait) for wait in WAITS] == states


@pytest.mark.parametrize("wait", WAITS)
def test_what_has_run_has_reached_everything_when_it_ends(wait: WaitFor) -> None:
    assert view(Phase.TERMINATED, instance_id="i-1", running_at=1.0).wait_state(wait) is REACHED


@pytest.mark.parametrize("outcome", [Outcome.CONFLICT, Outcome.REFUSED, Outcome.SKIPPED, Outcome.CANCELLED])
@pytest.mark.parametrize("wait", WAITS)
def test_what_was_not_granted_has_failed_whatever_the_keys_record_says(outcome: Outcome, wait: WaitFor) -> None:
    assert view(Phase.RUNNING, outcome=outcome).wait_state(wait) is FAILED


@pytest.mark.parametrize("wait", WAITS)
def test_what_is_done_is_reached(wait: WaitFor) -> None:
    assert view(Phase.TERMINATED, outcome=Outcome.DONE).wait_state(wait) is REACHED


@pytest.mark.parametrize("wait", WAITS)
def test_a_request_whose_outcome_is_open_is_waited_for(wait: WaitFor) -> None:
    assert view(Phase.RUNNING, outcome=None).wait_state(wait) is WAITING


@pytest.mark.parametrize("wait", WAITS)
def test_a_request_that_no_worker_has_taken_is_waited_for(wait: WaitFor) -> None:
    shown = View(namespace="betty", tag="one", batch_id="b-1")

    assert (shown.wait_state(wait), shown.phase, shown.reason) == (WAITING, Phase.QUEUED, WAITING_FOR_WORKER)


def test_a_record_of_an_earlier_request_does_not_answer_for_a_batch() -> None:
    shown = View(namespace="betty", tag="one", record=view(Phase.RUNNING).record, batch_id="b-1")

    assert (shown.wait_state(WaitFor.RUNNING), shown.reason) == (WAITING, WAITING_FOR_WORKER)


def test_a_request_that_a_later_one_has_taken_on_is_not_waited_for() -> None:
    later = View(
        namespace="betty",
        tag="one",
        record=Record(
            namespace="betty", tag="one", request_number=2, phase=Phase.QUEUED, created_at=0.0, changed_at=0.0
        ),
        row=BatchRow(outcome=Outcome.CREATED, request_number=1),
        batch_id="b-1",
    )

    assert later.wait_state(WaitFor.RUNNING) is REACHED


def test_without_a_batch_the_record_alone_decides() -> None:
    shown = View(namespace="betty", tag="one", record=view(Phase.RUNNING).record)

    assert (shown.outcome, shown.wait_state(WaitFor.RUNNING)) == (None, REACHED)


def test_the_message_of_a_row_goes_before_the_reason_of_the_record() -> None:
    record = view(Phase.RUNNING, reason="all is well").record
    row = BatchRow(outcome=Outcome.CONFLICT, message="another type")

    assert View(namespace="betty", tag="one", record=record, row=row, batch_id="b-1").reason == "another type"


FIELDS = {
    "namespace",
    "tag",
    "phase",
    "reason",
    "outcome",
    "generation",
    "batch_id",
    "instance_id",
    "instance_type",
    "ami_id",
    "os",
    "account_id",
    "profile",
    "region",
    "availability_zone",
    "public_dns_name",
    "public_ip",
    "private_ip",
    "ssh_user",
    "key_name",
    "private_key_path",
    "ssh",
    "rsync",
    "created_at",
    "launched_at",
    "running_at",
    "expires_at",
    "ended_at",
    "finished_at",
    "ttl_s",
    "result",
    "exit_code",
    "labelled",
    "observed_at",
    "overdue",
    "spec_digest",
    "error",
}


@pytest.mark.parametrize("phase", [None, *Phase])
def test_the_json_has_every_promised_field(phase: Phase | None) -> None:
    assert view(phase).to_json().keys() >= FIELDS


def test_the_json_tells_times_in_utc_and_errors_in_full() -> None:
    error = ErrorInfo(code="Blocked", message="no", request_id="4711")
    told = view(Phase.FAILED, error=error, ended_at=1_700_000_000.25).to_json()

    assert told["ended_at"] == "2023-11-14T22:13:20.250+00:00"
    assert told["error"] == {"code": "Blocked", "message": "no", "request_id": "4711"}
    assert told["outcome"] == "created"


def test_only_a_living_machine_has_commands_to_reach_it() -> None:
    living, ended = (view(phase, public_ip="192.0.2.1").to_json() for phase in (Phase.RUNNING, Phase.TERMINATED))

    assert living["ssh"] == "ssh ec2-user@192.0.2.1"
    assert (ended["ssh"], ended["rsync"], ended["public_ip"]) == (None, None, "192.0.2.1")


def test_no_time_is_no_text() -> None:
    assert iso(None) is None


@pytest.mark.parametrize(
    ("outcome", "reason", "stage_reason", "shown"),
    [
        (None, None, None, WAITING_FOR_EC2),
        (None, None, "no profile", f"{WAITING_FOR_EC2}; no profile"),
        (Outcome.EXISTING, None, "no profile", "no profile"),
        (Outcome.EXISTING, "should have ended", "no profile", "should have ended; no profile"),
        (Outcome.EXISTING, None, None, None),
    ],
)
def test_why_a_record_is_old_is_part_of_the_reason_and_a_field_of_its_own(
    outcome: Outcome | None, reason: str | None, stage_reason: str | None, shown: str | None
) -> None:
    told = msgspec.structs.replace(view(Phase.RUNNING, outcome=outcome, reason=reason), stage_reason=stage_reason)

    assert told.reason == shown
    assert (told.to_json()["reason"], told.to_json()["stage_reason"]) == (shown, stage_reason)
