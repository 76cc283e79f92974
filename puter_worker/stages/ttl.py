"""Another ttl for a machine that exists or is on its way, because a request asks for it by name. Pure.

What is not launched is launched with it. A machine gets an order to end that long from now: who asks for five hours
wants five hours. Asking again for the same changes nothing, so a batch file that is submitted again moves no deadline.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from puter_client.contract.order import Order, OrderKind
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_client.contract.request import UpRequest
from puter_client.contract.spec import TTL, OnExit, Spec

SOONEST_END_S = 120
"""No ttl moves an end nearer than this: EC2 and the agent need up to a minute to carry an order to its machine."""

_SAME_WITHIN_S = 60.0  # a launch reaches EC2 some time after the deadline in its tags was computed


class Changed(NamedTuple):
    """What exists under a key, with another ttl.

    Attributes:
        record: its record, with an order if the machine is launched or being launched.
        spec: what it serves from now on.
    """

    record: Record
    spec: Spec


def asks_another_ttl(record: Record, request: UpRequest) -> bool:
    """Whether the request names a ttl, and another one than the record has."""
    return TTL in request.given and request.spec.ttl_s != record.ttl_s


def is_about(ttl_s: int | None, seen_s: int | None) -> bool:
    """Whether a machine that EC2 shows with this life was launched with this ttl; None is for one that stays."""
    if ttl_s is None or seen_s is None:
        return ttl_s is seen_s
    return abs(ttl_s - seen_s) <= _SAME_WITHIN_S


def with_ttl(record: Record, spec: Spec, ttl_s: int | None, user: str, now: float) -> Changed | None:
    """The record and its spec with another ttl; None if its owner has ordered its end.

    `spec`: what the record serves; `ttl_s`: None is for a machine that stays. What becomes of the machine when its
    workload has ended stays as it was requested first.
    """
    if record.order is not None and record.order.kind is OrderKind.STOP:
        return None
    on_exit = spec.on_exit
    if spec.run is not None:
        on_exit = OnExit.SHUTDOWN if record.ends_with_workload else OnExit.KEEP
    changed = record.replace(ttl_s=ttl_s)
    if record.phase in LIVE or record.intent is not None:
        expires_at = None if ttl_s is None else now + max(ttl_s, SOONEST_END_S)
        order = Order(kind=OrderKind.EXTEND, user=user, given_at=now, expires_at=expires_at, of_ttl=True)
        changed = changed.replace(order=order)
    return Changed(changed, msgspec.structs.replace(spec, ttl_s=ttl_s, on_exit=on_exit))
