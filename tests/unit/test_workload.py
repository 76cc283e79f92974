"""What follows from how workloads ended: when consoles are read, and what is run again."""

from __future__ import annotations

import pytest

from puter_client.contract.order import Order, OrderKind
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.result import Result
from puter_client.contract.spec import Spec
from puter_worker.stages.workload import is_retried, next_read_s, waits_for_its_end, without_frame
from puter_worker.timings import Timings

READS_S = Timings().result_reads_s
ENDED = Record(namespace="ann", tag="one", phase=Phase.TERMINATED, created_at=1.0, changed_at=1.0, ended_at=1_000.0)


@pytest.mark.parametrize(
    ("end_code", "pauses_s"),
    [
        ("Client.InstanceInitiatedShutdown", [15.0, 45.0, 120.0, 420.0, 600.0]),
        (None, [15.0, 45.0, 120.0, 420.0, 600.0]),
        ("Server.SpotInstanceTermination", [15.0, 45.0, 120.0]),
        ("Client.UserInitiatedShutdown", [15.0, 45.0, 120.0]),
    ],
)
def test_a_console_is_read_so_often_whatever_the_clock_says(end_code: str | None, pauses_s: list[float]) -> None:
    record, told, now = ENDED.replace(end_code=end_code), [], -1e9
    while (in_s := next_read_s(record, READS_S)) is not None:
        told.append(in_s)
        record = waits_for_its_end(record, in_s, now)
        now = -now
    assert told == pauses_s


@pytest.mark.parametrize(("kind", "again"), [(None, True), (OrderKind.EXTEND, True), (OrderKind.STOP, False)])
@pytest.mark.parametrize("result", [Result.INTERRUPTED, Result.LOST, Result.FAILED])
def test_what_its_owner_has_ordered_to_stop_is_not_run_again(
    kind: OrderKind | None, again: bool, result: Result
) -> None:
    order = Order(kind=kind, user="ann", given_at=1.0) if kind else None
    record = ENDED.replace(result=result, order=order, has_workload=True)
    spec = Spec(public_key="ssh-ed25519 AAAA", run="work", retries=1, retry_on=("failed",))
    assert is_retried(record, spec) is again


@pytest.mark.parametrize(
    ("kind", "sent_at", "end_code", "result"),
    [
        (OrderKind.STOP, 5.0, None, Result.STOPPED),
        # The order's tag may be written though EC2's answer was lost: the machine has shut itself down.
        (OrderKind.STOP, None, "Client.InstanceInitiatedShutdown", Result.STOPPED),
        (OrderKind.STOP, None, "Server.InternalError", Result.INTERRUPTED),
        (OrderKind.STOP, None, None, Result.LOST),
        (OrderKind.EXTEND, 5.0, "Client.InstanceInitiatedShutdown", Result.LOST),
        (None, None, "Client.InstanceInitiatedShutdown", Result.LOST),
    ],
)
def test_without_a_frame_an_order_may_say_why_a_machine_has_ended(
    kind: OrderKind | None, sent_at: float | None, end_code: str | None, result: Result
) -> None:
    order = None if kind is None else Order(kind=kind, user="ann", given_at=1.0, sent_at=sent_at)

    assert without_frame(ENDED.replace(order=order, end_code=end_code), 2_000.0).result is result
