"""What a cancel says of each tag."""

from __future__ import annotations

import time
from typing import Any

import pytest

from puter_client.cli.cancel import cancel_answer
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.view import View

NOON = time.mktime((2027, 1, 15, 12, 0, 0, 0, 0, -1))
LAUNCHED: dict[str, Any] = {"phase": Phase.RUNNING, "instance_id": "i-1"}


def answer(**fields: Any) -> str:
    record = Record(namespace="betty", tag="one", created_at=NOON, changed_at=NOON, **fields)
    return cancel_answer(View(namespace="betty", tag="one", record=record), NOON)


def test_a_machine_that_is_launched_is_told_with_its_end_in_local_time() -> None:
    assert answer(**LAUNCHED, expires_at=NOON + 7 * 3_600 + 9 * 60) == "already launched (i-1): runs until 19:09"


def test_an_end_on_another_day_has_its_date() -> None:
    assert answer(**LAUNCHED, expires_at=NOON + 86_400).endswith("runs until 2027-01-16 12:00")


def test_a_machine_without_an_end_runs_until_it_is_stopped() -> None:
    assert answer(**LAUNCHED) == "already launched (i-1): runs until it is stopped"


def test_a_machine_after_its_deadline_is_not_said_to_run_until_a_past_time() -> None:
    assert answer(**LAUNCHED, expires_at=NOON - 3_600) == "already launched (i-1): should have ended at 11:00"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"phase": Phase.CANCELLED}, "cancelled"),
        ({"phase": Phase.LAUNCHING, "intent": "a"}, "too late: its launch has begun"),
        ({"phase": Phase.QUEUED}, "not cancelled: it belongs to another batch, or no worker has answered yet"),
        ({"phase": Phase.TERMINATED}, "already ended (terminated)"),
    ],
)
def test_every_other_answer_is_told_in_plain_words(fields: dict[str, Any], said: str) -> None:
    assert answer(**fields) == said


def test_a_tag_that_nobody_requested_is_not_known() -> None:
    assert cancel_answer(View(namespace="betty", tag="one"), NOON) == "not known"
