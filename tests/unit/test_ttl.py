"""Another ttl for what exists already: who gets an order, what is launched with it, and what is left alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from puter_client.contract import transitions
from puter_client.contract.key import PuterKey
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import Record
from puter_client.contract.request import Origin, UpRequest
from puter_client.contract.spec import OnExit, Spec, spec_digest
from puter_client.policy.file import parse_policy
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.tags import expiry
from puter_worker.stages.decide import Decision, adopted, decide
from puter_worker.stages.facts import with_instance
from puter_worker.stages.ttl import SOONEST_END_S
from puter_worker.target import TargetId
from puter_worker.timings import Timings

KEY = PuterKey("betty", "one")
TARGET = TargetId("123456789012", "us-east-1", "")
NOW = 1_000_000.0
LAUNCHED = NOW - 1_000.0
HOUR = 3_600
ON_THEIR_WAY = [*((phase, None) for phase in sorted(ON_ITS_WAY)), (Phase.LAUNCHING, "an-intent")]
EXISTING = [*ON_THEIR_WAY, *((phase, None) for phase in sorted(LIVE))]
STOP = Order(kind=OrderKind.STOP, user="anna", given_at=1.0)


def spec(**changes: Any) -> Spec:
    return msgspec.structs.replace(Spec(region="us-east-1"), **changes)


def record(phase: Phase = Phase.RUNNING, *, served: Spec | None = None, **changes: Any) -> Record:
    """A record that serves a spec; what is alive was launched a while ago, and lives as the spec says."""
    served = served or spec()
    alive = phase in LIVE
    ends = LAUNCHED + served.ttl_s if alive and served.ttl_s is not None else None
    return Record(
        namespace="betty",
        tag="one",
        phase=phase,
        created_at=1.0,
        changed_at=1.0,
        spec_digest=spec_digest(served),
        ttl_s=served.ttl_s,
        instance_id="i-1" if alive else None,
        launched_at=LAUNCHED if alive else None,
        expires_at=ends,
        has_workload=served.run is not None,
        ends_with_workload=served.ends_with_its_workload,
    ).replace(**changes)


def asked(given: tuple[str, ...] = ("ttl",), **fields: Any) -> UpRequest:
    return UpRequest(tag="one", spec=spec(**fields), batch="b-2", size=1, user="bob", origin=Origin.UP, given=given)


def decided(old: Record, request: UpRequest, served: Spec | None = None) -> Decision:
    return decide(old, served or spec(), request, KEY, NOW)


@pytest.mark.parametrize("outcome_of", ["up", "submit"])
@pytest.mark.parametrize(("ttl_s", "ends"), [(5 * HOUR, NOW + 5 * HOUR), (1_800, NOW + 1_800), (None, None)])
@pytest.mark.parametrize("phase", sorted(LIVE))
def test_a_machine_gets_an_order_to_end_that_long_from_now(
    phase: Phase, ttl_s: int | None, ends: float | None, outcome_of: str
) -> None:
    request = msgspec.structs.replace(asked(ttl_s=ttl_s), origin=Origin(outcome_of))
    decision = decided(record(phase), request)

    assert decision.changed
    assert decision.spec
    assert decision.changed.order == Order(
        kind=OrderKind.EXTEND, user="bob", given_at=NOW, expires_at=ends, of_ttl=True
    )
    assert (decision.changed.ttl_s, decision.spec.ttl_s) == (ttl_s, ttl_s)
    assert decision.changed.expires_at == LAUNCHED + HOUR, "nothing has changed before the order is sent"
    row = decision.row
    assert (row.outcome, row.applied, row.not_applied) == (Outcome.EXISTING, ("ttl",), ())


def test_no_ttl_moves_an_end_nearer_than_an_order_needs_to_arrive() -> None:
    decision = decided(record(), asked(ttl_s=60))

    assert decision.changed
    assert decision.changed.order
    assert decision.changed.order.expires_at == NOW + SOONEST_END_S


@pytest.mark.parametrize("phase", sorted(ON_ITS_WAY))
def test_what_is_not_launched_yet_is_launched_with_it(phase: Phase) -> None:
    decision = decided(record(phase), asked(ttl_s=5 * HOUR))

    assert decision.changed == record(phase).replace(ttl_s=5 * HOUR)
    assert decision.spec == spec(ttl_s=5 * HOUR)
    assert (decision.row.outcome, decision.row.applied) == (Outcome.JOINED, ("ttl",))


def test_what_is_being_launched_gets_an_order_and_the_next_attempt_has_it_from_its_birth() -> None:
    decision = decided(record(Phase.LAUNCHING, intent="x"), asked(ttl_s=5 * HOUR))

    assert decision.changed
    assert decision.changed.order
    assert decision.changed.order.expires_at == NOW + 5 * HOUR
    again = transitions.back_in_queue(decision.changed, "no capacity", NOW)
    assert (again.order, again.ttl_s) == (None, 5 * HOUR)


def test_an_order_of_its_owner_survives_a_refused_launch() -> None:
    order = Order(kind=OrderKind.EXTEND, user="anna", given_at=1.0, expires_at=NOW + 1.0)

    assert transitions.back_in_queue(record(Phase.LAUNCHING, intent="x", order=order), "no", NOW).order == order


@pytest.mark.parametrize(("phase", "intent"), EXISTING)
@pytest.mark.parametrize(
    ("given", "fields", "left"),
    [
        (("ttl",), {}, ()),  # the same as it has
        ((), {}, ()),
        ((), {"ttl_s": 5 * HOUR}, ("ttl",)),  # a setting, which nobody has written for this machine
        ((), {"ttl_s": None}, ("ttl",)),
        (("disk",), {"disk": 100}, ("disk",)),
    ],
)
def test_what_is_not_asked_for_changes_nothing(
    phase: Phase, intent: str | None, given: tuple[str, ...], fields: dict[str, Any], left: tuple[str, ...]
) -> None:
    decision = decided(record(phase, intent=intent), asked(given, **fields))

    assert (decision.changed, decision.record) == (None, None)
    assert (decision.row.applied, decision.row.not_applied) == ((), left)


def test_asking_again_for_the_same_moves_no_deadline() -> None:
    first = decided(record(), asked(ttl_s=5 * HOUR))
    assert first.changed
    again = decided(first.changed, asked(ttl_s=5 * HOUR), first.spec)

    assert again.changed is None
    assert (again.row.applied, again.row.not_applied) == ((), ())


@pytest.mark.parametrize(("phase", "intent"), EXISTING)
def test_what_cannot_be_applied_stays_named_beside_it(phase: Phase, intent: str | None) -> None:
    decision = decided(record(phase, intent=intent), asked(("ttl", "disk"), ttl_s=5 * HOUR, disk=100))

    assert (decision.row.applied, decision.row.not_applied) == (("ttl",), ("disk",))


@pytest.mark.parametrize(("phase", "intent"), [(Phase.LAUNCHING, "x"), *((phase, None) for phase in sorted(LIVE))])
def test_what_is_told_to_end_is_not_extended(phase: Phase, intent: str | None) -> None:
    decision = decided(record(phase, intent=intent, order=STOP), asked(ttl_s=5 * HOUR))

    assert decision.changed is None
    assert (decision.row.applied, decision.row.not_applied) == ((), ("ttl",))


@pytest.mark.parametrize(("phase", "intent"), EXISTING)
def test_a_conflict_applies_nothing(phase: Phase, intent: str | None) -> None:
    decision = decided(record(phase, intent=intent), asked(ttl_s=5 * HOUR, instance_type="c5.large"))

    assert decision.changed is None
    assert (decision.row.outcome, decision.row.applied) == (Outcome.CONFLICT, ())


def test_a_machine_whose_spec_is_lost_gets_it_too() -> None:
    decision = decide(record(), None, asked(ttl_s=5 * HOUR), KEY, NOW)

    assert decision.changed
    assert decision.changed.order
    assert decision.row.applied == ("ttl",)


@pytest.mark.parametrize("ttl_s", [5 * HOUR, None])
@pytest.mark.parametrize("before", [HOUR, None])
@pytest.mark.parametrize("on_exit", [None, *OnExit])
def test_what_happens_after_the_workload_stays_as_it_was_requested(
    on_exit: OnExit | None, before: int | None, ttl_s: int | None
) -> None:
    """A retry is launched with the changed spec: its record and its machine must agree."""
    served = spec(run="make", on_exit=on_exit, ttl_s=before)
    decision = decided(record(served=served), asked(run="make", ttl_s=ttl_s), served)
    if before == ttl_s:
        assert decision.changed is None
        return

    assert decision.changed
    assert decision.spec
    assert decision.changed.ends_with_workload == served.ends_with_its_workload
    assert decision.spec.ends_with_its_workload == served.ends_with_its_workload


@pytest.mark.parametrize("ttl_s", [HOUR, None])
def test_until_the_order_is_sent_the_deadline_is_the_old_one(ttl_s: int | None) -> None:
    served = spec(ttl_s=ttl_s)
    decision = decided(record(served=served), asked(ttl_s=5 * HOUR), served)
    assert decision.changed
    seen = with_instance(decision.changed, instance(ttl_s), TARGET, NOW + 600, Timings())

    assert seen.expires_at == (None if ttl_s is None else LAUNCHED + ttl_s)
    assert not seen.overdue


# -- found in EC2 by a Redis that had forgotten it ---


def instance(ttl_s: int | None = HOUR, **tags: str) -> Instance:
    """A machine that runs, with the tags that it was launched with: a moment before EC2 launched it."""
    ends = None if ttl_s is None else LAUNCHED - 2.0 + ttl_s
    return Instance(
        instance_id="i-1",
        state="running",
        launch_time=LAUNCHED,
        tags={"puter:expires-at": expiry(ends), **tags},
    )


def found(ttl_s: int | None = HOUR) -> Record:
    """The record of a machine that nobody has requested since: its ttl is what its tags say."""
    served = spec(ttl_s=None if ttl_s is None else ttl_s - 2)
    return record(served=served, spec_digest=None)


@pytest.mark.parametrize("lived_s", [HOUR, 2 * HOUR, None])
@pytest.mark.parametrize("ttl_s", [HOUR, 5 * HOUR, None])
@pytest.mark.parametrize("given", [("ttl",), ()])
def test_the_first_request_for_a_forgotten_machine(
    given: tuple[str, ...], ttl_s: int | None, lived_s: int | None
) -> None:
    decision = decide(found(lived_s), None, asked(given, ttl_s=ttl_s), KEY, NOW)
    applied = bool(given) and ttl_s != lived_s

    assert decision.changed
    assert decision.spec
    assert decision.row.applied == (("ttl",) if applied else ())
    assert (decision.changed.order is not None) == applied
    assert decision.changed.ttl_s == decision.spec.ttl_s == (ttl_s if applied else found(lived_s).ttl_s)


@pytest.mark.parametrize("lived_s", [HOUR, 2 * HOUR, None])
@pytest.mark.parametrize("ttl_s", [HOUR, 5 * HOUR, None])
@pytest.mark.parametrize("given", [("ttl",), ()])
def test_a_request_that_finds_a_forgotten_machine(
    given: tuple[str, ...], ttl_s: int | None, lived_s: int | None
) -> None:
    """Its deadline is that of its tags, not of the request; only a ttl that was named moves it."""
    request = asked(given, ttl_s=ttl_s, run="make")
    new = decide(None, None, request, KEY, NOW).record
    assert new
    adoption = adopted(new.replace(target=str(TARGET)), request.spec, instance(lived_s), TARGET, NOW, Timings())
    applied = bool(given) and ttl_s != lived_s

    shown = adoption.record
    if lived_s is None:
        assert shown.expires_at is None
    else:
        assert shown.expires_at == pytest.approx(LAUNCHED + lived_s, abs=3.0)
    assert adoption.row.applied == (("ttl",) if applied else ())
    assert (shown.order is not None) == applied
    served = adoption.spec or request.spec
    assert served.ends_with_its_workload == shown.ends_with_workload
    again = with_instance(shown, instance(lived_s), TARGET, NOW, Timings())
    assert again.expires_at == shown.expires_at


@pytest.mark.parametrize(("ttl_s", "applied"), [(4 * HOUR, True), (5 * HOUR, False), (None, False)])
def test_a_machine_that_is_found_lives_no_longer_than_the_policy_allows(ttl_s: int | None, applied: bool) -> None:
    """The request's own ttl was allowed when it was taken, but the machine has lived for a while."""
    allowed = parse_policy('[namespaces."*"]\nlongest_ttl = "5h"\n').of(KEY.namespace)
    request = asked(("ttl",), ttl_s=ttl_s)
    new = decide(None, None, request, KEY, NOW).record
    assert new
    of_it = new.replace(target=str(TARGET))
    adoption = adopted(of_it, request.spec, instance(2 * HOUR), TARGET, NOW, Timings(), allowed=allowed)

    assert (adoption.record.order is not None) == applied
    assert (adoption.row.applied, adoption.row.not_applied) == ((("ttl",), ()) if applied else ((), ("ttl",)))
    if not applied:
        assert adoption.record.expires_at == pytest.approx(LAUNCHED + 2 * HOUR, abs=3.0)


def test_a_machine_without_a_deadline_in_its_tags_has_that_of_the_request() -> None:
    new = decide(None, None, asked(ttl_s=5 * HOUR), KEY, NOW).record
    assert new
    nameless = msgspec.structs.replace(instance(), tags={})
    adoption = adopted(new.replace(target=str(TARGET)), spec(ttl_s=5 * HOUR), nameless, TARGET, NOW, Timings())

    assert (adoption.record.expires_at, adoption.record.order) == (LAUNCHED + 5 * HOUR, None)
