"""What becomes of a request, cell by cell of the table."""

from __future__ import annotations

from typing import Any

import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.os_image import Os
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import ON_ITS_WAY, Phase
from puter_client.contract.record import Record
from puter_client.contract.request import CancelRequest, Origin, UpRequest
from puter_client.contract.result import Result
from puter_client.contract.spec import Spec, spec_digest
from puter_worker.stages.decide import after_cancel, decide, must_be_confirmed

KEY = PuterKey("betty", "one")
SPEC = Spec(region="us-east-1")
OTHER = Spec(region="us-east-1", instance_type="c5.large", run="make")
NOW = 1_000_000.0
LIVING = (Phase.PENDING, Phase.RUNNING)


def record(phase: Phase, **changes: Any) -> Record:
    """A record that serves SPEC; one that has come as far as a machine has one."""
    known = Record(
        namespace="betty",
        tag="one",
        phase=phase,
        created_at=1.0,
        changed_at=1.0,
        request_number=4,
        generation=3,
        batch_id="b-old",
        spec_digest=spec_digest(SPEC),
        instance_id="i-1" if phase in (*LIVING, Phase.TERMINATED) else None,
    )
    return known.replace(**changes)


def request(
    spec: Spec = SPEC, origin: Origin = Origin.UP, *, again: bool = False, retry_failed: bool = False
) -> UpRequest:
    return UpRequest(
        tag="one",
        spec=spec,
        batch="b-new",
        size=7,
        user="anna",
        origin=origin,
        again=again,
        retry_failed=retry_failed,
    )


def outcome(old: Record | None, new: UpRequest, served: Spec | None = SPEC) -> tuple[Outcome | None, int | None]:
    """Outcome and generation that the request's row tells."""
    decision = decide(old, served, new, KEY, NOW)
    assert (decision.record is not None) == (decision.row.outcome is Outcome.CREATED)
    return decision.row.outcome, decision.row.generation


@pytest.mark.parametrize("spec", [SPEC, OTHER], ids=["same", "other"])
@pytest.mark.parametrize("origin", Origin)
def test_an_unknown_key_is_launched(spec: Spec, origin: Origin) -> None:
    assert outcome(None, request(spec, origin), None) == (Outcome.CREATED, 1)


@pytest.mark.parametrize("spec", [SPEC, OTHER], ids=["same", "other"])
@pytest.mark.parametrize("origin", Origin)
@pytest.mark.parametrize("phase", [Phase.FAILED, Phase.CANCELLED])
def test_a_failed_or_cancelled_key_is_launched_in_the_same_generation(phase: Phase, origin: Origin, spec: Spec) -> None:
    assert outcome(record(phase), request(spec, origin)) == (Outcome.CREATED, 3)


def test_a_failed_key_that_had_a_machine_gets_the_next_generation() -> None:
    assert outcome(record(Phase.FAILED, instance_id="i-1"), request()) == (Outcome.CREATED, 4)


@pytest.mark.parametrize("flags", [{}, {"again": True}, {"retry_failed": True}])
@pytest.mark.parametrize("phase", sorted(ON_ITS_WAY))
def test_a_key_on_its_way_is_joined_or_conflicts(phase: Phase, flags: dict[str, bool]) -> None:
    assert outcome(record(phase), request(SPEC, Origin.UP, **flags)) == (Outcome.JOINED, 3)
    assert outcome(record(phase), request(OTHER, Origin.UP, **flags)) == (Outcome.CONFLICT, 3)


@pytest.mark.parametrize("flags", [{}, {"again": True}, {"retry_failed": True}])
@pytest.mark.parametrize("phase", LIVING)
def test_a_living_key_is_there_already_or_conflicts(phase: Phase, flags: dict[str, bool]) -> None:
    assert outcome(record(phase), request(SPEC, Origin.UP, **flags)) == (Outcome.EXISTING, 3)
    assert outcome(record(phase), request(OTHER, Origin.UP, **flags)) == (Outcome.CONFLICT, 3)


@pytest.mark.parametrize("spec", [SPEC, OTHER], ids=["same", "other"])
@pytest.mark.parametrize("origin", Origin)
def test_what_ended_without_a_workload_gets_the_next_generation(origin: Origin, spec: Spec) -> None:
    assert outcome(record(Phase.TERMINATED), request(spec, origin)) == (Outcome.CREATED, 4)


WORKLOADS: list[tuple[Result | None, Origin, dict[str, bool], Outcome]] = [
    (None, Origin.SUBMIT, {}, Outcome.EXISTING),  # its console is still to be read
    (None, Origin.SUBMIT, {"retry_failed": True}, Outcome.EXISTING),
    (None, Origin.SUBMIT, {"again": True}, Outcome.CREATED),
    (None, Origin.UP, {}, Outcome.CREATED),
    (Result.SUCCEEDED, Origin.SUBMIT, {}, Outcome.DONE),
    (Result.SUCCEEDED, Origin.SUBMIT, {"retry_failed": True}, Outcome.DONE),
    (Result.SUCCEEDED, Origin.SUBMIT, {"again": True}, Outcome.CREATED),
    (Result.SUCCEEDED, Origin.UP, {}, Outcome.CREATED),
    *(
        (result, origin, flags, expected)
        for result in (Result.FAILED, Result.TIMED_OUT, Result.INTERRUPTED, Result.STOPPED, Result.LOST)
        for origin, flags, expected in (
            (Origin.SUBMIT, {}, Outcome.SKIPPED),
            (Origin.SUBMIT, {"retry_failed": True}, Outcome.CREATED),
            (Origin.SUBMIT, {"again": True}, Outcome.CREATED),
            (Origin.UP, {}, Outcome.CREATED),
        )
    ),
]


@pytest.mark.parametrize(("result", "origin", "flags", "expected"), WORKLOADS)
def test_an_ended_workload_counts_for_submit_alone(
    result: Result | None, origin: Origin, flags: dict[str, bool], expected: Outcome
) -> None:
    old = record(Phase.TERMINATED, has_workload=True, result=result)

    assert outcome(old, request(SPEC, origin, **flags)) == (expected, 4 if expected is Outcome.CREATED else 3)


@pytest.mark.parametrize("result", [None, *Result])
@pytest.mark.parametrize("origin", Origin)
def test_another_spec_runs_whatever_became_of_the_ended_workload(origin: Origin, result: Result | None) -> None:
    old = record(Phase.TERMINATED, has_workload=True, result=result)

    assert outcome(old, request(OTHER, origin)) == (Outcome.CREATED, 4)


def test_a_conflict_names_the_fields_that_differ_and_says_what_to_do() -> None:
    message = decide(record(Phase.RUNNING), SPEC, request(OTHER), KEY, NOW).row.message

    assert message == "running with another instance-type, run: use another tag, or wait until it has ended"


def test_a_conflict_with_a_spec_that_is_lost_is_still_told() -> None:
    message = decide(record(Phase.RUNNING), None, request(OTHER), KEY, NOW).row.message

    assert message
    assert "its specification" in message


@pytest.mark.parametrize(
    "same", [{"ttl_s": 60}, {"ssh_from": ("192.0.2.1/32",)}, {"key_name": "k"}, {"aws_tags": {"a": "b"}}]
)
def test_what_is_not_compared_does_not_conflict(same: dict[str, Any]) -> None:
    spec = Spec(region="us-east-1", **same)

    assert outcome(record(Phase.RUNNING), request(spec))[0] is Outcome.EXISTING


def test_a_new_record_says_what_was_requested_and_forgets_the_old_machine() -> None:
    old = record(Phase.TERMINATED, intent=None, error=None, public_ip="192.0.2.1", attempt=2, labelled=True)
    new = decide(old, SPEC, request(OTHER), KEY, NOW).record

    assert new
    assert (new.request_number, new.generation, new.attempt) == (5, 4, 0)
    assert (new.batch_id, new.batch_size, new.owner) == ("b-new", 7, "anna")
    assert (new.phase, new.created_at, new.spec_digest) == (Phase.QUEUED, NOW, spec_digest(OTHER))
    assert (new.instance_id, new.public_ip, new.labelled, new.has_workload) == (None, None, False, True)


def test_each_launch_of_a_generation_has_its_own_token() -> None:
    new = decide(record(Phase.FAILED, attempt=2), SPEC, request(), KEY, NOW).record

    assert new
    assert (new.generation, new.attempt) == (3, 3)


@pytest.mark.parametrize("phase", Phase)
def test_ec2_must_confirm_what_lives_however_young_its_record_is(phase: Phase) -> None:
    assert must_be_confirmed(record(phase, observed_at=NOW)) == (phase in LIVING)


def test_nothing_known_needs_no_confirmation() -> None:
    assert not must_be_confirmed(None)


# -- cancel ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", sorted(ON_ITS_WAY))
def test_what_was_not_asked_of_ec2_can_be_cancelled(phase: Phase) -> None:
    gone = after_cancel(record(phase), CancelRequest(tag="one", user="anna"), NOW)

    assert gone
    assert (gone.phase, gone.reason, gone.ended_at) == (Phase.CANCELLED, "cancelled by anna", NOW)


@pytest.mark.parametrize("phase", sorted(set(Phase) - ON_ITS_WAY))
def test_what_is_there_or_has_ended_cannot_be_cancelled(phase: Phase) -> None:
    assert after_cancel(record(phase), CancelRequest(tag="one", user="anna"), NOW) is None


def test_what_was_asked_of_ec2_cannot_be_cancelled() -> None:
    assert after_cancel(record(Phase.LAUNCHING, intent="4711"), CancelRequest(tag="one", user="anna"), NOW) is None


@pytest.mark.parametrize(("batch", "cancelled"), [("b-old", True), ("b-other", False), (None, True)])
def test_a_batch_cancels_its_own_request_only(batch: str | None, *, cancelled: bool) -> None:
    gone = after_cancel(record(Phase.QUEUED), CancelRequest(tag="one", user="anna", batch=batch), NOW)

    assert (gone is not None) == cancelled


def test_a_key_that_nobody_requested_cannot_be_cancelled() -> None:
    assert after_cancel(None, CancelRequest(tag="one", user="anna"), NOW) is None


@pytest.mark.parametrize(
    ("spec", "user"),
    [
        (Spec(), "ec2-user"),
        (Spec(os=Os.UBUNTU_24_04), "ubuntu"),
        (Spec(os=Os.DEBIAN_12, ssh_user="build"), "build"),
        (Spec(ami="ami-12345678", os=Os.DEBIAN_12), None),
        (Spec(ami="ami-12345678", ssh_user="build"), "build"),
    ],
)
def test_a_new_record_has_the_user_as_far_as_it_is_known(spec: Spec, user: str | None) -> None:
    decision = decide(None, None, request(spec), KEY, NOW)

    assert decision.record
    assert decision.record.ssh_user == user


@pytest.mark.parametrize(("asked", "user"), [(None, "ubuntu"), ("build", "build")])
def test_a_forgotten_machine_keeps_its_images_user_unless_the_request_names_one(asked: str | None, user: str) -> None:
    old = record(Phase.RUNNING, spec_digest=None, ssh_user="ubuntu")
    decision = decide(old, None, request(Spec(region="us-east-1", ssh_user=asked)), KEY, NOW)

    assert decision.changed
    assert decision.changed.ssh_user == user


# -- found in EC2 by a Redis that had forgotten it ---


def found(**changes: Any) -> Record:
    return record(
        Phase.RUNNING, spec_digest=None, instance_type="t3.micro", ami_id="ami-1", key_name="puter-v1"
    ).replace(**changes)


def test_the_first_request_for_a_forgotten_machine_takes_it_with_its_key() -> None:
    asked = Spec(private_key_path="/keys/puter-v1.pem")
    decision = decide(found(), None, request(asked), KEY, NOW)

    assert (decision.row.outcome, decision.record) == (Outcome.EXISTING, None)
    assert decision.changed == found(spec_digest=spec_digest(asked), private_key_path="/keys/puter-v1.pem")


def test_a_key_of_another_name_is_not_said_to_open_it() -> None:
    asked = Spec(key_name="mine", private_key_path="/keys/mine.pem")
    decision = decide(found(), None, request(asked), KEY, NOW)

    assert decision.changed
    assert decision.changed.private_key_path is None


@pytest.mark.parametrize(
    ("asked", "named"),
    [(Spec(instance_type="c5.large"), "instance-type"), (Spec(ami="ami-2"), "ami")],
    ids=["type", "image"],
)
def test_a_forgotten_machine_that_is_another_than_requested_is_a_conflict(asked: Spec, named: str) -> None:
    decision = decide(found(), None, request(asked), KEY, NOW)

    assert (decision.row.outcome, decision.changed) == (Outcome.CONFLICT, None)
    assert f"running with another {named}:" in (decision.row.message or "")


def test_what_a_forgotten_machine_runs_is_not_promised() -> None:
    decision = decide(found(), None, request(Spec(run="make")), KEY, NOW)

    assert (decision.row.outcome, decision.row.message is not None) == (Outcome.EXISTING, True)
