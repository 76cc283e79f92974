"""The pacer: all workers of an account and region together stay inside EC2's published token buckets.

Other tools use the same account's buckets: if EC2 still refuses a call, the rate is halved for a while.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from math import inf
from typing import Self

import msgspec
import structlog

from puter_worker.clock import Clock
from puter_worker.metrics import NO_METRICS, Metrics
from puter_worker.rates import CREATE_TAGS, INSTANCES, RUN_INSTANCES, Rates
from puter_worker.store.token_buckets import TokenBuckets
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.pacer")
# The stages take tokens for these calls themselves: the number of tokens decides what they send.
TAKEN_BEFORE = frozenset({RUN_INSTANCES, CREATE_TAGS})
SLOW_FACTOR = 0.5


class Budget(msgspec.Struct, frozen=True):
    """What launches may spend.

    Attributes:
        calls: RunInstances calls that may be sent now.
        calls_rate: further calls a second.
        machines: machines that those calls may launch now.
        machines_rate: further machines a second.
        wait_s: seconds until one call may launch one machine; 0: now.
    """

    calls: float
    calls_rate: float
    machines: float
    machines_rate: float
    wait_s: float = 0.0


class Reservation:
    """Tokens reserved for a call that is still to be prepared; the call is sent inside `async with`.

    EC2's own bucket may be full until the call arrives, so these tokens do not refill here before `async with` ends.
    """

    def __init__(self, buckets: TokenBuckets | None, call: str, amounts: Mapping[str, int]) -> None:
        """`buckets`: None if no tokens are counted."""
        self._buckets = buckets
        self._call = call
        self._left = dict(amounts)

    async def refund(self, amounts: Mapping[str, int] | None = None) -> None:
        """Put back tokens of what is not launched after all; None puts back all that are left."""
        given_back = dict(amounts or self._left)
        for action, amount in given_back.items():
            self._left[action] -= amount
        if self._buckets is not None:
            await self._buckets.refund(given_back, call=self._call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The call has reached EC2, or will not be sent any more."""
        if self._buckets is not None:
            await self._buckets.arrived(self._left, call=self._call)


class Pacer:
    """Paces the calls of one account and region."""

    def __init__(
        self,
        buckets: TokenBuckets | None,
        *,
        rates: Rates,
        clock: Clock,
        timings: Timings,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        """`buckets`: None means always full, for endpoints without limits (stand-ins for EC2)."""
        self._buckets = buckets
        self._rates = rates
        self._clock = clock
        self._timings = timings
        self._metrics = metrics

    async def available(self, action: str) -> int:
        """How many whole tokens an action's bucket can give now."""
        return int(self._rates.of(action).size) if self._buckets is None else (await self._buckets.available(action))[0]

    async def budget(self) -> Budget:
        """What launches may spend now, and how fast it refills."""
        if self._buckets is None:
            return Budget(self._rates.of(RUN_INSTANCES).size, inf, self._rates.of(INSTANCES).size, inf)
        (calls, calls_wait_s), (machines, machines_wait_s) = await asyncio.gather(
            self._buckets.available(RUN_INSTANCES), self._buckets.available(INSTANCES)
        )
        return Budget(
            calls,
            await self._buckets.rate(RUN_INSTANCES),
            machines,
            await self._buckets.rate(INSTANCES),
            max(calls_wait_s, machines_wait_s),
        )

    async def reserve_one(self, action: str, *, until: float) -> Reservation | None:
        """Reserve one token, and wait for it until a time (Redis TIME) if needed; None if there is none by then."""
        while not isinstance(reservation := await self.reserve({action: 1}), Reservation):
            if self._clock.now() + reservation > until:
                return None
            await asyncio.sleep(min(reservation, self._timings.longest_nap_s))
        return reservation

    async def take_now(self, action: str) -> float:
        """Take one token if the bucket has one; returns 0 if it was taken, else the seconds to wait."""
        return 0.0 if self._buckets is None else await self._buckets.reserve({action: 1})

    async def reserve(self, amounts: Mapping[str, int]) -> Reservation | float:
        """Reserve tokens for a call that is still to be prepared; if there are too few, returns the seconds to wait."""
        call = secrets.token_hex(4)
        wait_s = 0.0 if self._buckets is None else await self._buckets.reserve(amounts, call=call)
        if wait_s:
            self._metrics.paced(next(iter(amounts)), 0.0)
        return wait_s or Reservation(self._buckets, call, amounts)

    async def pace(self, action: str) -> None:
        """Return when one call of this action may be sent; at once for actions in TAKEN_BEFORE."""
        if action in TAKEN_BEFORE:
            return
        began = self._clock.monotonic()
        waited = False
        while (wait_s := await self.take_now(action)) > 0:
            waited = True
            await asyncio.sleep(min(wait_s, self._timings.longest_nap_s))
        if waited:
            self._metrics.paced(action, self._clock.monotonic() - began)

    async def slow_down(self, action: str) -> None:
        """EC2 refused a call because of its rate limit: spend less for a while."""
        _log.warning("rate.lowered", action=action, for_s=self._timings.slow_s)
        if self._buckets is not None:
            await self._buckets.slow_down(action, factor=SLOW_FACTOR)
