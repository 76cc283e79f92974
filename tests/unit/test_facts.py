"""What EC2 shows of an instance, carried over into a record."""

from __future__ import annotations

from typing import Any

import pytest

from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.spec import Spec
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.tags import encode_manifest, number_of
from puter_worker.stages.facts import choose, gone, may_be_of, seen_otherwise, with_instance
from puter_worker.target import TargetId
from puter_worker.timings import Timings

TARGET = TargetId("123456789012", "us-east-1")
NOW = 1_000_000.0
TIMINGS = Timings()
FORGOTTEN_S = TIMINGS.forgotten_s


def record(phase: Phase = Phase.LAUNCHING, **changes: Any) -> Record:
    made = Record(namespace="betty", tag="one", phase=phase, created_at=1.0, changed_at=1.0, ttl_s=3_600, intent="4711")
    return made.replace(**changes)


def instance(state: str = "running", **changes: Any) -> Instance:
    return Instance(instance_id="i-1", state=state, launch_time=NOW - 10, **changes)


@pytest.mark.parametrize(
    ("states", "chosen"),
    [
        (["terminated", "running"], 1),
        (["stopped", "pending"], 1),
        (["terminated", "stopped"], 1),
        (["shutting-down", "running", "stopping"], 1),
        (["terminated"], 0),
    ],
)
def test_the_living_count_before_the_stopped_and_these_before_the_dead(states: list[str], chosen: int) -> None:
    shown = [Instance(instance_id=f"i-{n}", state=state) for n, state in enumerate(states)]

    assert choose(shown) is shown[chosen]


def test_of_two_alike_the_later_counts() -> None:
    older, newer = (Instance(instance_id=f"i-{at}", state="terminated", launch_time=at) for at in (1.0, 2.0))

    assert choose([older, newer]) is newer
    assert choose([newer, older]) is newer


UNASSIGNED = {"puter:managed": "true", "puter:namespace": "betty", "puter:member": "unassigned"}


def one_of_a_spot_launch(**changes: Any) -> Instance:
    """A machine of the second generation of "one", or of the first of "two"."""
    tags = UNASSIGNED | encode_manifest([("one", 2), ("two", 1)])
    return instance(**{"tags": tags, "number": None} | changes)


def test_what_may_be_anothers_counts_only_if_nothing_else_lives() -> None:
    unassigned = one_of_a_spot_launch()
    ours, dead = Instance(instance_id="i-2", state="pending"), Instance(instance_id="i-3", state="terminated")

    assert choose([unassigned, ours]) is ours
    assert choose([dead, unassigned]) is unassigned


@pytest.mark.parametrize(
    ("tag", "generation", "may_be"),
    [("one", 1, True), ("one", 2, True), ("one", 3, False), ("two", 1, True), ("two", 2, False), ("three", 1, False)],
)
def test_a_machine_without_a_place_may_be_of_its_launchs_generations_or_earlier_requests(
    tag: str, generation: int, may_be: bool
) -> None:
    assert may_be_of(one_of_a_spot_launch(), tag, generation) is may_be
    assert may_be_of(one_of_a_spot_launch(number=0), tag, generation)


def test_a_record_keeps_the_place_that_its_machines_tag_does_not_show_yet() -> None:
    known = with_instance(record(), one_of_a_spot_launch(number=1), TARGET, NOW, TIMINGS)
    seen_again = with_instance(known, one_of_a_spot_launch(), TARGET, NOW, TIMINGS)

    assert (known.member, seen_again.member) == (1, 1)
    assert with_instance(record(), instance(), TARGET, NOW, TIMINGS).member is None


@pytest.mark.parametrize("written", ["0", "7", "unassigned"])
def test_what_anybody_writes_on_the_tag_later_changes_no_place(written: str) -> None:
    known = with_instance(record(), one_of_a_spot_launch(number=1), TARGET, NOW, TIMINGS)
    tags = one_of_a_spot_launch().tags | {"puter:member": written}
    changed = one_of_a_spot_launch(tags=tags, number=number_of(tags, 0))

    assert with_instance(known, changed, TARGET, NOW, TIMINGS).member == 1


def test_of_nothing_nothing_counts() -> None:
    assert choose([]) is None


def test_a_pending_instance_makes_a_record_pending() -> None:
    known = with_instance(record(), instance("pending"), TARGET, NOW, TIMINGS)

    assert (known.phase, known.instance_id, known.intent, known.observed_at) == (Phase.PENDING, "i-1", None, NOW)
    assert (known.launched_at, known.expires_at) == (NOW - 10, NOW - 10 + 3_600)


def test_a_running_instance_makes_a_record_running_and_tells_since_when() -> None:
    known = with_instance(record(Phase.PENDING), instance(public_ip="192.0.2.1"), TARGET, NOW, TIMINGS)

    assert (known.phase, known.running_at, known.public_ip) == (Phase.RUNNING, NOW, "192.0.2.1")


def test_what_has_run_does_not_become_pending_again() -> None:
    known = with_instance(record(Phase.RUNNING, running_at=1.0), instance("pending"), TARGET, NOW, TIMINGS)

    assert (known.phase, known.running_at) == (Phase.RUNNING, 1.0)


@pytest.mark.parametrize("state", ["shutting-down", "terminated"])
def test_what_has_run_and_is_dead_has_terminated(state: str) -> None:
    known = with_instance(
        record(Phase.RUNNING, running_at=1.0, public_ip="192.0.2.1"), instance(state), TARGET, NOW, TIMINGS
    )

    assert (known.phase, known.ended_at, known.error) == (Phase.TERMINATED, NOW, None)
    assert known.public_ip == "192.0.2.1"


def test_what_never_ran_has_failed_for_ec2s_reason() -> None:
    dead = instance("terminated", state_reason_code="Client.VolumeLimitExceeded", state_reason="Volume limit exceeded")
    known = with_instance(record(Phase.PENDING), dead, TARGET, NOW, TIMINGS)

    assert known.error
    assert (known.phase, known.error.code) == (Phase.FAILED, "Client.VolumeLimitExceeded")
    assert known.reason == "Volume limit exceeded"


@pytest.mark.parametrize(
    "code", ["Client.InstanceInitiatedShutdown", "Client.UserInitiatedShutdown", "Server.SpotInstanceTermination"]
)
def test_what_ended_itself_before_it_was_seen_to_run_has_not_failed(code: str) -> None:
    known = with_instance(record(Phase.PENDING), instance("terminated", state_reason_code=code), TARGET, NOW, TIMINGS)

    assert known.phase is Phase.TERMINATED
    assert (known.running_at is not None) == (code == "Client.InstanceInitiatedShutdown")


@pytest.mark.parametrize("state", ["stopping", "stopped"])
def test_what_is_stopped_has_failed_and_says_what_to_do(state: str) -> None:
    known = with_instance(record(Phase.RUNNING), instance(state), TARGET, NOW, TIMINGS)

    assert known.error
    assert (known.phase, known.error.code) == (Phase.FAILED, "InstanceStopped")
    assert "terminate it in EC2" in known.error.message


def test_what_outlives_its_end_is_overdue() -> None:
    launched = NOW - 3_600 - TIMINGS.overdue_s
    late = with_instance(record(Phase.RUNNING, launched_at=launched - 1), instance(), TARGET, NOW, TIMINGS)
    on_time = with_instance(record(Phase.RUNNING, launched_at=launched + 1), instance(), TARGET, NOW, TIMINGS)

    assert (late.overdue, on_time.overdue) == (True, False)
    assert late.reason
    assert "5m1s ago" in late.reason
    assert on_time.reason is None


def test_what_has_no_end_is_never_overdue() -> None:
    known = with_instance(record(Phase.RUNNING, launched_at=1.0, ttl_s=None), instance(), TARGET, NOW, TIMINGS)

    assert (known.overdue, known.expires_at) == (False, None)


def test_nothing_moves_while_nothing_changes() -> None:
    old = with_instance(record(Phase.PENDING), instance(), TARGET, NOW, TIMINGS)

    assert with_instance(old, instance(), TARGET, NOW + 5, TIMINGS) == old.replace(observed_at=NOW + 5)


@pytest.mark.parametrize(
    ("unseen_s", "absent", "ends"),
    [(FORGOTTEN_S, True, True), (FORGOTTEN_S - 1, True, False), (FORGOTTEN_S * 100, False, False), (0.0, True, False)],
)
def test_a_machine_is_gone_when_ec2_has_forgotten_it_and_several_looks_say_so(
    unseen_s: float, absent: bool, ends: bool
) -> None:
    ended = gone(record(Phase.RUNNING), NOW, unseen_s=unseen_s, absent=absent, timings=TIMINGS)

    assert (ended is not None) == ends
    assert ended is None or (ended.phase, ended.ended_at) == (Phase.TERMINATED, NOW)


@pytest.mark.parametrize(
    ("spec", "shown", "other"),
    [
        (Spec(), {}, None),
        (Spec(), {"instance_type": "t3.micro", "image_id": "ami-1", "subnet_id": "subnet-1"}, None),
        (Spec(instance_types=("c5.large",)), {"instance_type": "c5.large"}, None),
        (Spec(run="make"), {"instance_type": "c5.large"}, Spec(instance_type="c5.large")),
        (Spec(ami="ami-2", env={"A": "1"}), {"image_id": "ami-1"}, Spec(ami="ami-1")),
        (Spec(subnet="subnet-1", subnets=("subnet-2",)), {"subnet_id": "subnet-2"}, None),
        (Spec(subnet="subnet-1"), {"subnet_id": "subnet-2"}, Spec(subnet="subnet-2")),
        (Spec(), {"spot": True}, Spec(spot=True)),
    ],
)
def test_only_what_ec2_shows_speaks_against_a_machine(spec: Spec, shown: dict[str, Any], other: Spec | None) -> None:
    seen: dict[str, Any] = {"instance_type": None, "image_id": None} | shown
    assert seen_otherwise(spec, **seen) == other
