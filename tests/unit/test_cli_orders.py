"""What `puter extend` prints of machines that do not react: the very order that was given, and no other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from puter_client.cli.extend import _tell
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.view import View

NOW = 1_800_000_000.0
SSH = "    ssh ec2-user@192.0.2.7 sudo /usr/local/sbin/puter-agent expires-at "
EARLIER = Order(kind=OrderKind.EXTEND, user="a", given_at=NOW - 900, expires_at=NOW + 60, confirmed_at=NOW - 890)


def order(**changes: Any) -> Order:
    return msgspec.structs.replace(Order(kind=OrderKind.EXTEND, user="a", given_at=NOW - 60), **changes)


def told(given: Order | None, before: Order | None, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What is printed of a machine with this order, which had another one before the command."""
    record = Record(
        namespace="betty", tag="one", phase=Phase.RUNNING, created_at=NOW, changed_at=NOW, ssh_user="ec2-user",
        public_ip="192.0.2.7", order=given,
    )  # fmt: skip
    _tell([View(namespace="betty", tag="one", record=record)], [], {"one": before}, NOW)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("expires_at", "words"), [(NOW + 3_600, "2027-01-15T09:00:00Z"), (None, "never")], ids=["a time", "never"]
)
@pytest.mark.parametrize("before", [None, EARLIER], ids=["first", "another"])
def test_the_order_can_be_given_by_ssh(
    expires_at: float | None, words: str, before: Order | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(order(expires_at=expires_at), before, capsys) == [
        "1 machine did not confirm within 60 s; give the order by ssh:",
        "  one",
        SSH + words,
    ]


@pytest.mark.parametrize(
    ("given", "before"),
    [
        (None, None),
        (EARLIER, EARLIER),
        (order(kind=OrderKind.STOP), None),
        (order(kind=OrderKind.STOP), EARLIER),
        (order(expires_at=1e300), None),
    ],
    ids=["none", "an earlier one", "stop", "stop after another", "no time"],
)
def test_what_was_not_ordered_is_not_printed(
    given: Order | None, before: Order | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert told(given, before, capsys) == ["1 machine did not confirm within 60 s:", "  one"]
