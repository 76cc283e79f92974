"""The verdict on workloads and orders of a run of chaos objects to everything that must not be, and to nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from puter_client.contract.batch import BatchRow
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.outcome import Outcome
from puter_client.contract.output import Output
from puter_client.contract.phase import Phase
from puter_client.contract.record import Attempt, Event, EventKind
from puter_client.contract.result import Result
from puter_client.store import names as public
from puter_worker.ec2.tags import EXPIRES_AT, expiry, own_tags
from tests.agents import INTERRUPTED, LOST, End
from tests.agents import STOPPED as BY_ORDER
from tests.chaos.verdict import left_to_do
from tests.chaos.workloads import EXTENDED, STAYS, STOPPED, STOPPED_LATE, Fate
from tests.ec2sim.reports import Seen
from tests.unit.test_chaos_verdict import EXPIRES_AT as AT
from tests.unit.test_chaos_verdict import LAUNCHED_AT, ONE, Outside, machine_of, record_of

GOOD, BAD = End.exits(0, "fine\n"), End.exits(3, "oops\n")
SUCCEEDS, FAILS, RETRIED = Fate((GOOD,)), Fate((BAD,)), Fate((INTERRUPTED, GOOD))
KEPT = Fate((End.exits(0, "fine\n", machine_ends=False),))


def machine(generation: int, number: int, state: str = "terminated") -> Seen:
    seen = machine_of(ONE, number)
    return msgspec.structs.replace(seen, state=state, tags=seen.tags | own_tags(ONE, generation))


class Ends(Outside):
    """One key with a fate, at the end of a run: at first all is as it must be."""

    def __init__(self, fate: Fate, *ends: End) -> None:
        """`ends`: of its machines, in turn."""
        super().__init__()
        self.fates[ONE] = fate
        del self.machines[0]
        self.record = record_of(ONE, len(ends) + 10).replace(has_workload=True)
        self.events: list[Event] = []
        attempts: list[Attempt] = []
        for generation, end in enumerate(ends, 1):
            last = generation == len(ends)
            number = generation + 10
            self.machines.append(machine(generation, number, "terminated" if end.machine_ends else "running"))
            self.ended[f"i-{number}"] = end
            if last:
                self.say(EventKind.WORKLOAD_FINISHED, generation)
                phase = Phase.TERMINATED if end.machine_ends else Phase.RUNNING
                self.record = self.record.replace(
                    generation=generation, phase=phase, result=end.result, exit_code=end.exit_code
                )
            else:
                self.say(EventKind.WORKLOAD_RETRIED, generation + 1)
                attempts.append(
                    Attempt(
                        generation=generation, instance_id=f"i-{number}", result=end.result, exit_code=end.exit_code
                    )
                )
        self.record = self.record.replace(attempts=tuple(attempts))
        if ends and ends[-1].exit_code is not None:
            self.keep(ends[-1].output, len(ends))
        self.tell()

    def say(self, kind: EventKind, generation: int) -> None:
        self.events.append(Event(at=1.0, event=kind, generation=generation, phase=Phase.TERMINATED))

    def keep(self, text: str, generation: int) -> None:
        output = Output(generation=generation, text=text, total_bytes=len(text))
        self.redis.put(public.output(ONE), {"": msgspec.json.encode(output)})

    def tell(self, **changes: Any) -> None:
        """Write record and timeline."""
        self.record = self.record.replace(**changes)
        self.write(ONE, self.record)
        self.redis.put(public.events(ONE), {str(n): msgspec.json.encode(e) for n, e in enumerate(self.events)})
        self.answer(ONE, BatchRow(outcome=Outcome.CREATED, generation=self.record.generation))

    def says(self, outcome: Outcome, generation: int = 1) -> None:
        self.answer(ONE, BatchRow(outcome=outcome, generation=generation))

    def left(self) -> list[str]:
        return left_to_do(self.redis, self.fates)


def extended(**changes: Any) -> Ends:
    it = Ends(EXTENDED)
    it.machines.append(machine(1, 10, "running"))
    it.machines[-1].tags[EXPIRES_AT] = expiry(AT)
    order = Order(kind=OrderKind.EXTEND, user="me", given_at=1.0, expires_at=float(AT), sent_at=2.0)
    it.tell(**{"order": order, "expires_at": float(AT)} | changes)
    return it


def cancelled() -> Ends:
    it = Ends(STOPPED)
    it.tell(phase=Phase.CANCELLED, instance_id=None)
    it.says(Outcome.CANCELLED)
    return it


def cancelled_before_it_ran_again() -> Ends:
    it = Ends(STOPPED_LATE, INTERRUPTED)
    it.events.clear()
    it.say(EventKind.WORKLOAD_RETRIED, 2)
    attempt = Attempt(generation=1, instance_id="i-11", result=Result.INTERRUPTED)
    it.tell(phase=Phase.CANCELLED, instance_id=None, generation=2, result=None, attempts=(attempt,))
    it.says(Outcome.CANCELLED, 2)
    return it


RIGHT: dict[str, Callable[[], Ends]] = {
    "it has succeeded": lambda: Ends(SUCCEEDS, GOOD),
    "it has failed": lambda: Ends(FAILS, BAD),
    "its machine stays": lambda: Ends(KEPT, *KEPT.ends),
    "it ran again": lambda: Ends(RETRIED, *RETRIED.ends),
    "it is lost": lambda: Ends(Fate((INTERRUPTED, LOST)), INTERRUPTED, LOST),
    "it was stopped": lambda: Ends(STOPPED, BY_ORDER),
    "it was cancelled": cancelled,
    "it was stopped before EC2 took its machine": lambda: Ends(STOPPED_LATE, BY_ORDER),
    "it was stopped before it ran again": lambda: Ends(STOPPED_LATE, INTERRUPTED),
    "it was stopped when it ran again": lambda: Ends(STOPPED_LATE, INTERRUPTED, BY_ORDER),
    "it was cancelled before it ran again": cancelled_before_it_ran_again,
    "it ends later": extended,
}


@pytest.mark.parametrize("make", RIGHT.values(), ids=RIGHT)
def test_what_is_as_it_must_be_is_found_right(make: Callable[[], Ends]) -> None:
    it = make()
    assert (it.verdict(), it.left()) == ([], [])


@pytest.mark.parametrize(
    ("fate", "outcome", "right"),
    [
        (SUCCEEDS, Outcome.DONE, True),
        (SUCCEEDS, Outcome.SKIPPED, False),
        (FAILS, Outcome.SKIPPED, True),
        (FAILS, Outcome.DONE, False),
        (FAILS, Outcome.CANCELLED, False),
        (FAILS, Outcome.EXISTING, True),
    ],
)
def test_a_later_request_is_answered_by_how_the_workload_has_ended(fate: Fate, outcome: Outcome, right: bool) -> None:
    it = Ends(fate, *fate.ends)
    it.says(outcome)
    assert (it.verdict() == []) is right


@pytest.mark.parametrize(("generation", "right"), [(1, True), (2, True), (3, False)])
def test_a_request_is_answered_with_any_generation_that_served_it(generation: int, right: bool) -> None:
    it = Ends(RETRIED, *RETRIED.ends)
    it.says(Outcome.JOINED, generation)
    assert (it.verdict() == []) is right


def ran_twice(it: Ends) -> None:
    it.machines.append(machine(1, 19))
    it.ended["i-19"] = GOOD


def ran_again(it: Ends) -> None:
    it.machines.append(machine(2, 19))
    it.ended["i-19"] = GOOD


def still_lives(it: Ends) -> None:
    it.machines[-1] = machine(1, 11, "running")


def ended_by_nobody(it: Ends) -> None:
    it.ended.clear()


def says_something_else(it: Ends) -> None:
    it.ended["i-11"] = BAD


def is_told_twice(it: Ends) -> None:
    it.say(EventKind.WORKLOAD_FINISHED, 1)
    it.tell()


def is_told_as_a_retry_too(it: Ends) -> None:
    it.say(EventKind.WORKLOAD_RETRIED, 2)
    it.tell()


def is_never_told(it: Ends) -> None:
    it.events.clear()
    it.tell()


WRONG: dict[str, tuple[Callable[[Ends], None], str]] = {
    "its workload ran twice": (ran_twice, "generation 1 ran on 2 machines"),
    "it ran again without a retry": (ran_again, "had machines of generations [1, 2], its record is at 1"),
    "its machine still lives": (still_lives, "live instances that nobody requested"),
    "its machine ended by itself": (ended_by_nobody, "i-11 has ended, and nobody has ended it"),
    "its machine says something else": (says_something_else, "its machines of [(1, 'i-11', <Result.FAILED"),
    "its end is told twice": (is_told_twice, "ends of generations {1: 2}, not {1: 1}"),
    "its end is told as a retry too": (is_told_as_a_retry_too, "ends of generations {1: 2}, not {1: 1}"),
    "its end is never told": (is_never_told, "ends of generations {}, not {1: 1}"),
    "another result": (lambda it: it.tell(result=Result.LOST), "its runs ended ['lost'], not ['succeeded']"),
    "another exit code": (lambda it: it.tell(exit_code=1), "its record tells of [(1, 'i-11', <Result.SUCCEEDED"),
    "another machine": (lambda it: it.tell(instance_id="i-9"), "its record tells of [(1, 'i-9'"),
    "no result": (lambda it: it.tell(result=None), "its record says terminated (None), result None"),
    "another phase": (lambda it: it.tell(phase=Phase.RUNNING), "its record says running"),
    "a generation too far": (lambda it: it.tell(generation=2), "generations [1], its record is at 2"),
    "no output": (lambda it: it.redis.put(public.output(ONE), {}), "its output is None, not 'fine"),
    "another output": (lambda it: it.keep("other", 1), "not 'fine"),
    "an older output": (lambda it: it.keep("fine\n", 0), "not 'fine"),
    "no record": (lambda it: it.redis.put(public.record(ONE), {}), "no record"),
}


@pytest.mark.parametrize(("break_it", "objection"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_an_end_is_found(break_it: Callable[[Ends], None], objection: str) -> None:
    it = Ends(SUCCEEDS, GOOD)
    break_it(it)
    findings = it.verdict()
    assert {finding.key for finding in findings} == {ONE}
    assert objection in "; ".join(finding.what for finding in findings)


@pytest.mark.parametrize(
    ("it", "objection"),
    [
        (lambda: Ends(RETRIED, INTERRUPTED), "its runs ended ['interrupted'], not ['interrupted', 'succeeded']"),
        (lambda: Ends(SUCCEEDS, INTERRUPTED, GOOD), "not ['succeeded']"),
        (lambda: Ends(STOPPED, GOOD), "its runs ended ['succeeded'], not []"),
        (lambda: Ends(STOPPED_LATE, BY_ORDER, BY_ORDER), "its runs ended ['stopped', 'stopped'], not"),
        (lambda: Ends(STOPPED_LATE, INTERRUPTED, GOOD), "its runs ended ['interrupted', 'succeeded'], not"),
        (lambda: Ends(STOPPED_LATE, INTERRUPTED, INTERRUPTED), "its runs ended ['interrupted', 'interrupted'], not"),
        (lambda: Ends(STAYS, GOOD), "0 live instances"),
        (lambda: extended(order=None), "its order is None"),
        (lambda: extended(order=Order(kind=OrderKind.EXTEND, user="me", given_at=1.0)), "its order is Order("),
        (lambda: extended(order=Order(kind=OrderKind.STOP, user="me", given_at=1.0, sent_at=2.0)), "its order is"),
        (lambda: extended(expires_at=LAUNCHED_AT), f"its record says it ends at {LAUNCHED_AT}, not {AT}"),
    ],
)
def test_what_is_not_as_it_was_to_be_is_found(it: Callable[[], Ends], objection: str) -> None:
    assert objection in "; ".join(finding.what for finding in it().verdict())


def test_a_machine_without_its_new_end_is_found() -> None:
    it = extended()
    it.machines[-1].tags[EXPIRES_AT] = "never"
    assert "i-10 is told to end at never" in "; ".join(finding.what for finding in it.verdict())


def test_what_was_cancelled_though_nobody_stopped_it_is_found() -> None:
    it = cancelled()
    it.fates[ONE] = SUCCEEDS
    assert "its record says cancelled" in "; ".join(finding.what for finding in it.verdict())


@pytest.mark.parametrize(
    ("fate", "changes"),
    [
        (SUCCEEDS, {"result": None}),
        (SUCCEEDS, {"phase": Phase.RUNNING}),
        (SUCCEEDS, {"phase": Phase.CANCELLED}),
        (KEPT, {"result": None}),
        (KEPT, {"phase": Phase.TERMINATED}),
    ],
)
def test_a_run_is_not_over_before_the_end_is_known(fate: Fate, changes: dict[str, Any]) -> None:
    it = Ends(fate, *fate.ends)
    it.tell(**changes)
    assert len(it.left()) == 1
