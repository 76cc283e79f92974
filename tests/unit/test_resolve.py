"""Which of the keys that wait to be looked up are looked up now."""

from __future__ import annotations

import pytest

from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_worker.ec2.instances import TAGS_A_CALL
from puter_worker.stages.batch_window import BatchWindow
from puter_worker.stages.resolve import all_there
from puter_worker.timings import Timings

TIMINGS = Timings()
WINDOW = BatchWindow(TIMINGS.look_up_idle_s, TIMINGS.look_up_longest_s, TAGS_A_CALL)


def record(tag: str, *, batch_id: str | None, size: int | None, phase: Phase = Phase.RESOLVING) -> Record:
    return Record(
        namespace="betty", tag=tag, phase=phase, created_at=0, changed_at=0, batch_id=batch_id, batch_size=size
    )


@pytest.mark.parametrize(
    ("since", "now", "enough"),
    [
        ([1.0], 1.05, False),
        ([1.0], 1.11, True),  # nobody has come for a while
        ([1.0, 1.5], 1.55, False),
        ([1.0, 1.95], 2.0, True),  # somebody has waited for long
    ],
)
def test_keys_wait_for_others_but_not_for_long(since: list[float], now: float, *, enough: bool) -> None:
    assert (WINDOW.wait_s(since, now) <= 0) == enough


def test_a_batch_is_waited_for_until_it_is_there() -> None:
    two = [record(f"t-{n}", batch_id="b", size=3) for n in range(2)]

    assert not all_there(two, among=2)
    assert all_there([*two, record("t-2", batch_id="b", size=3)], among=3)


def test_one_batch_is_not_there_because_another_is() -> None:
    two = [record("a", batch_id="one", size=1), record("b", batch_id="many", size=100)]

    assert not all_there(two, among=2)


def test_who_has_no_batch_and_who_lives_already_wait_for_nobody() -> None:
    assert all_there([record("a", batch_id=None, size=None)], among=1)
    lives = record("a", batch_id="b", size=100, phase=Phase.RUNNING)
    assert all_there([lives, record("b", batch_id="c", size=1), None], among=3)


def test_how_many_that_live_are_still_to_come_nobody_knows() -> None:
    lives = record("a", batch_id="b", size=1, phase=Phase.RUNNING)
    assert not all_there([lives, lives], among=2)
