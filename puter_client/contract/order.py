"""Orders: what the owner of a machine that runs asks of it, by tags that its agent reads."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class OrderKind(StrEnum):
    """What a machine is to do."""

    STOP = "stop"
    EXTEND = "extend"


class OrderRefusal(msgspec.Struct, frozen=True):
    """The latest order that was not allowed.

    Attributes:
        at: when a worker took the request; seconds of Redis TIME.
        why: what is not allowed, and what is.
    """

    at: float
    why: str


class Order(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The latest order for a machine; times are seconds of Redis TIME.

    Attributes:
        kind: what it is to do.
        user: user name that the client sent; not verified.
        given_at: when a worker took the request.
        expires_at: for `extend`: when the machine ends itself from now on; None is never.
        sent_at: when the machine's tags were written.
        problem: why they could not be written.
        confirmed_at: when the machine's console said that its agent has the order.
        reason: why, if it was not the user who has ordered it.
        request_id: the request's, if it has one.
        of_ttl: for `extend`: whether it comes from a request that names another ttl.
    """

    kind: OrderKind
    user: str
    given_at: float
    expires_at: float | None = None
    sent_at: float | None = None
    problem: str | None = None
    confirmed_at: float | None = None
    reason: str | None = None
    request_id: str | None = None
    of_ttl: bool = False
