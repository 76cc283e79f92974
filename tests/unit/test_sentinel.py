"""Where Sentinels say that the primary is: which of their answers counts."""

from __future__ import annotations

from typing import Any

import pytest

from puter_client.store.sentinel import NoPrimary, Why, primary_of


def state(port: int, epoch: int, **flags: bool) -> dict[str, Any]:
    """What a Sentinel says of a service, as redis-py reads it."""
    up = {"is_master": True, "is_sdown": False, "is_odown": False}
    return {"ip": "192.0.2.7", "port": port, "config-epoch": epoch, **up, **flags}


@pytest.mark.parametrize(
    ("states", "port"),
    [
        ([state(1, 4)], 1),
        ([None, state(1, 4)], 1),
        ([state(1, 4), state(2, 5)], 2),  # the first one has not heard of the latest failover
        ([state(2, 5), state(1, 4)], 2),
        ([state(2, 10), state(1, 9)], 2),
        ([state(2, 5, is_sdown=True), state(1, 4)], 1),
        ([state(1, 4, is_odown=True), state(1, 4)], 1),
        ([state(3, 7, is_master=False), state(1, 4)], 1),
    ],
)
def test_the_latest_that_says_it_is_up_counts(states: list[dict[str, Any] | None], port: int) -> None:
    assert primary_of(states) == ("192.0.2.7", port)


@pytest.mark.parametrize(
    ("states", "why"),
    [
        ([], Why.SILENT),
        ([None], Why.UNKNOWN),
        ([None, None], Why.UNKNOWN),
        ([state(1, 4, is_sdown=True)], Why.DOWN),
        ([None, state(1, 4, is_odown=True)], Why.DOWN),
        ([state(1, 4, is_master=False)], Why.DOWN),
    ],
)
def test_else_it_is_said_why_it_is_not_known(states: list[dict[str, Any] | None], why: Why) -> None:
    with pytest.raises(NoPrimary) as caught:
        primary_of(states)

    assert caught.value.why is why
