"""The table of transitions: what each change of a record leads to, what the table refuses, and how it is drawn."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from puter_client.contract import transitions
from puter_client.contract.phase import ENDED, LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_client.contract.result import Result
from puter_client.contract.spec import Spec
from puter_client.contract.transitions import ALLOWED, IllegalTransition, check_transition
from puter_worker.clock import Clock
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.timings import Timings

NOW = 1_000_000.0
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"
WHY = ErrorInfo(code="Blocked", message="the account is blocked", request_id="req-1")
# Where EC2 may show a machine, or show one no more: looked up, launched, observed, or found after Redis has forgotten.
FOUND_FROM = (None, *Phase)


def record(phase: Phase, **changes: Any) -> Record:
    made = Record(
        namespace="betty", tag="one", phase=phase, created_at=1.0, changed_at=1.0, request_number=4, generation=3
    )
    return made.replace(**changes)


def after(phase: Phase | None) -> Record:
    """The record that is changed: of a key that is not known, the one that its machine's tags tell."""
    return record(phase or Phase.QUEUED)


Change = Callable[[Record], Record]
CHANGES: dict[str, tuple[Change, Phase | None, tuple[Phase | None, ...]]] = {
    "resolving": (lambda r: transitions.resolving(r, "t", NOW), Phase.RESOLVING, (Phase.QUEUED,)),
    "waiting": (lambda r: transitions.waiting(r, "why", NOW), None, (Phase.RESOLVING, Phase.LAUNCHING)),
    "waiting for its target": (
        lambda r: transitions.waiting(r, "why", NOW, phase=Phase.RESOLVING),
        Phase.RESOLVING,
        (Phase.QUEUED, Phase.RESOLVING),
    ),
    "queued_for_launch": (
        lambda r: transitions.queued_for_launch(r, "1:r:", NOW, generation=3, account_id="1", region="r"),
        Phase.LAUNCHING,
        (Phase.RESOLVING, Phase.LAUNCHING),
    ),
    "launching": (
        lambda r: transitions.launching(r, "4711", NOW, ssh_user="admin", private_key_path=None),
        Phase.LAUNCHING,
        (Phase.LAUNCHING,),
    ),
    "back_in_queue": (lambda r: transitions.back_in_queue(r, "why", NOW), Phase.LAUNCHING, (Phase.LAUNCHING,)),
    "pending": (
        lambda r: transitions.pending(r, NOW),
        Phase.PENDING,
        tuple(phase for phase in FOUND_FROM if phase not in LIVE),
    ),
    "running": (
        lambda r: transitions.running(r, NOW),
        Phase.RUNNING,
        tuple(phase for phase in FOUND_FROM if phase is not Phase.RUNNING),
    ),
    "retried": (
        lambda r: transitions.retried(r.replace(result=Result.LOST), Spec(retries=2), NOW),
        Phase.QUEUED,
        (Phase.TERMINATED,),
    ),
    "terminated": (lambda r: transitions.terminated(r, "why", NOW), Phase.TERMINATED, FOUND_FROM),
    "failed": (lambda r: transitions.failed(r, WHY, NOW), Phase.FAILED, FOUND_FROM),
    "cancelled": (lambda r: transitions.cancelled(r, "anna", NOW), Phase.CANCELLED, tuple(sorted(ON_ITS_WAY))),
}
CASES = [
    pytest.param(change, leads_to, phase, id=f"{name} from {phase or 'nothing'}")
    for name, (change, leads_to, phases) in CHANGES.items()
    for phase in phases
]


@pytest.mark.parametrize(("change", "leads_to", "phase"), CASES)
def test_every_change_is_one_that_the_table_allows_wherever_it_is_used(
    change: Change, leads_to: Phase | None, phase: Phase | None
) -> None:
    old = None if phase is None else record(phase)
    # A machine under a key that has ended is one of a later generation.
    new = change(after(phase).replace(generation=4 if phase in ENDED else 3))

    assert new.phase is (leads_to or phase)
    check_transition(old, new)


def test_no_change_is_left_out_here() -> None:
    named = {
        name
        for name, value in vars(transitions).items()
        if callable(value) and getattr(value, "__module__", "") == transitions.__name__ and not isinstance(value, type)
    }

    assert named - {"check_transition"} == {name.partition(" ")[0] for name in CHANGES}


@pytest.mark.parametrize(
    ("was", "becomes"),
    list(product([None, *Phase], Phase)),
    ids=lambda phase: "nothing" if phase is None else phase.value,
)
def test_what_is_not_in_the_table_is_refused(was: Phase | None, becomes: Phase) -> None:
    old = None if was is None else record(was)
    new = record(becomes, generation=4, request_number=5)

    if was is becomes or becomes in ALLOWED[was]:
        check_transition(old, new)
    else:
        with pytest.raises(IllegalTransition, match=rf"betty/one: {was or 'no record'} → {becomes} is not allowed"):
            check_transition(old, new)


def test_the_table_speaks_of_every_phase() -> None:
    assert ALLOWED.keys() == {None, *Phase}


def test_within_one_request_no_phase_follows_itself_or_an_earlier_one() -> None:
    order = list(Phase)

    for was, may_follow in ALLOWED.items():
        if was is not None and was not in ENDED:
            assert all(order.index(next_) > order.index(was) for next_ in may_follow)


@pytest.mark.parametrize("phase", Phase)
def test_a_request_number_never_goes_back(phase: Phase) -> None:
    old = record(phase)

    with pytest.raises(IllegalTransition, match="request 3 is older than request 4"):
        check_transition(old, old.replace(request_number=3))


@pytest.mark.parametrize("generation", [2, 3])
@pytest.mark.parametrize(("ended", "alive"), list(product(sorted(ENDED), sorted(LIVE))))
def test_a_generation_that_has_ended_does_not_come_alive(ended: Phase, alive: Phase, generation: int) -> None:
    with pytest.raises(IllegalTransition, match=f"generation {generation} has ended"):
        check_transition(record(ended), record(alive, generation=generation))


# -- what goes with a change ---


def test_who_waits_for_the_same_as_before_has_waited_since_then() -> None:
    waiting = transitions.waiting(record(Phase.LAUNCHING), "why", NOW)
    still = transitions.waiting(waiting, "why", NOW + 5, estimate_s=10)
    otherwise = transitions.waiting(still, "another reason", NOW + 6)

    assert (waiting.changed_at, still.changed_at, otherwise.changed_at) == (NOW, NOW, NOW + 6)
    assert (still.estimate_s, otherwise.estimate_s) == (10, None)


def test_what_is_put_back_needs_a_token_of_its_own() -> None:
    launching = transitions.launching(
        record(Phase.LAUNCHING, attempt=1), "4711", NOW, ssh_user="admin", private_key_path="/k"
    )
    back = transitions.back_in_queue(launching, "why", NOW + 1)

    assert (launching.intent, launching.attempt, launching.private_key_path) == ("4711", 1, "/k")
    assert (back.intent, back.attempt, back.private_key_path) == (None, 2, "/k")


def test_what_is_run_again_keeps_its_request_and_forgets_its_machine() -> None:
    ended = record(
        Phase.TERMINATED,
        instance_id="i-1",
        batch_id="b",
        owner="anna",
        has_workload=True,
        result=Result.FAILED,
        exit_code=3,
        reason="workload failed, exit code 3",
        ended_at=NOW - 9,
    )
    again = transitions.retried(ended, Spec(retries=2, instance_type="c7i.large"), NOW)

    assert (again.generation, again.request_number) == (ended.generation + 1, ended.request_number)
    assert (again.batch_id, again.owner, again.has_workload) == ("b", "anna", True)
    assert (again.instance_id, again.result, again.exit_code, again.ended_at) == (None, None, None, None)
    assert again.instance_type == "c7i.large"
    assert again.reason == "retry 1 of 2: workload failed, exit code 3"
    assert [(one.instance_id, one.result, one.exit_code) for one in again.attempts] == [("i-1", Result.FAILED, 3)]


@pytest.mark.parametrize("name", ["terminated", "failed", "cancelled"])
def test_what_has_ended_says_when_and_why_and_names_no_intent(name: str) -> None:
    change, _, _ = CHANGES[name]
    intent = None if name == "cancelled" else "4711"
    ended = change(record(Phase.LAUNCHING, intent=intent, estimate_s=None if name == "terminated" else 60))

    assert (ended.ended_at, ended.changed_at, ended.intent, ended.estimate_s) == (NOW, NOW, None, None)
    assert ended.reason
    assert ended.error == (WHY if name == "failed" else None)


# -- where it is applied ---


def put(old: Record | None, new: Record, *through: Record) -> None:
    """Write a record into a transaction, without carrying it out."""
    store = Store(Redis(), clock=Clock(), timings=Timings())
    store.records.put(Txn(), Versioned(old, b"1" if old else None), new, through=through)


def test_no_write_goes_past_the_table() -> None:
    with pytest.raises(IllegalTransition):
        put(record(Phase.RUNNING), record(Phase.PENDING))


def test_changes_that_are_written_as_one_are_held_against_it_one_by_one() -> None:
    requested = record(Phase.QUEUED, request_number=5, generation=4)
    cancelled = transitions.cancelled(requested, "anna", NOW)

    put(None, cancelled, requested)
    put(record(Phase.TERMINATED), cancelled, requested)
    with pytest.raises(IllegalTransition):
        put(None, cancelled)
    with pytest.raises(IllegalTransition):
        put(record(Phase.RUNNING), cancelled, requested)


# -- how it is drawn ---


def drawn() -> dict[str, list[str]]:
    """The rows of the table under `### Transitions`: from which phase, to which."""
    section = ARCHITECTURE.read_text().partition("### Transitions\n")[2].partition("\n#")[0]
    lines = section[section.index("|") :].partition("\n\n")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return {was: [word.strip() for word in to.split(",")] for was, to in rows[2:]}


def test_the_drawing_is_the_table() -> None:
    order = list(Phase)

    assert drawn() == {
        "(no record)" if was is None else was.value: [phase.value for phase in sorted(to, key=order.index)]
        for was, to in ALLOWED.items()
    }
