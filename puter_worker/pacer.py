"""The pacer: all workers of an account and region together stay inside EC2's published token buckets.

A bucket lives in Redis and is counted there by one script, so it does not matter which worker spends from it.
Rates and sizes: "Request throttling for the Amazon EC2 API" in AWS's developer guide. Sizes are taken with
headroom, because calls at the published size get refused now and then; refills are as published. Other tools
spend from the same account: when EC2 refuses all the same, the rate is halved for a while.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Self

import msgspec
import structlog

from puter_worker.store import names
from puter_worker.store.workerstore import WorkerStore

_log = structlog.get_logger("puter.pacer")


class Bucket(msgspec.Struct, frozen=True):
    """One token bucket of an account and region.

    Attributes:
        size: tokens it holds when full.
        rate: tokens it gets back a second.
        reserve: tokens that are left in it once it is no longer full: headroom where the size leaves no room for any.
    """

    size: float
    rate: float
    reserve: float = 0.0


INSTANCES = "RunInstances.instances"  # the second bucket of RunInstances counts machines, not calls
_DESCRIBE = Bucket(95, 20)
BUCKETS = {
    "RunInstances": Bucket(4, 2),
    INSTANCES: Bucket(1000, 2, reserve=3),
    "CreateTags": Bucket(95, 10),
    "CreateSecurityGroup": Bucket(45, 5),
    "ImportKeyPair": Bucket(45, 5),
    "CreateKeyPair": Bucket(45, 5),
    "ModifyInstanceAttribute": Bucket(45, 5),
    "AuthorizeSecurityGroupIngress": Bucket(45, 5),
}
# Of these a stage takes the tokens itself: how many there are decides what it asks for.
TAKEN_BEFORE = frozenset({"RunInstances", "CreateTags"})
SLOW_FOR_S = 20.0
SLOW_FACTOR = 0.5
# Of a worker that dies between taking tokens and its call, nobody tells that this will not arrive.
ARRIVES_WITHIN_S = 5.0
# A wait longer than this is slept in parts, so that a rate that has recovered is noticed.
LONGEST_NAP_S = 2.0


class Granted(msgspec.Struct, frozen=True):
    """What asking for tokens came to.

    Attributes:
        wait_s: 0 if they were taken; else how long until they are there.
        before: whole tokens that the first bucket had to give before.
    """

    wait_s: float
    before: int


class Budget(msgspec.Struct, frozen=True):
    """What launches may spend.

    Attributes:
        calls: RunInstances calls, now.
        calls_rate: a second.
        machines: that they may launch, now.
        machines_rate: a second.
    """

    calls: float
    calls_rate: float
    machines: float
    machines_rate: float


class Reservation:
    """Tokens taken for a call that is still to be prepared, and is made inside `async with`.

    EC2's bucket may be full until the call reaches it, so they do not begin to come back here before the end of it.
    """

    def __init__(self, pacer: Pacer, call: str, amounts: Mapping[str, int]) -> None:
        self._pacer = pacer
        self._call = call
        self._left = dict(amounts)

    async def refund(self, amounts: Mapping[str, int] | None = None) -> None:
        """Put back what is not requested after all; None is all that is left."""
        for action, amount in (amounts or dict(self._left)).items():
            self._left[action] -= amount
            await self._pacer.take([(action, -amount)], call=self._call)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """The call has reached EC2, or will not any more."""
        await self._pacer.arrived(self._left, call=self._call)


class Pacer:
    """Token buckets of one account and region, shared through Redis."""

    def __init__(self, store: WorkerStore, account: str, region: str, *, unlimited: bool = False) -> None:
        """`unlimited`: buckets are always full, for endpoints that have no limits (stand-ins)."""
        self._store = store
        self._account = account
        self._region = region
        self._unlimited = unlimited

    async def take(self, amounts: Sequence[tuple[str, int]], *, call: str = "") -> Granted:
        """Take tokens of several buckets at once, or none: (action, amount) each; less than nothing is given back.

        `call`: a name for what they are taken for, if it does not reach EC2 at once (see Reservation).
        """
        if self._unlimited:
            return Granted(0.0, int(BUCKETS.get(amounts[0][0], _DESCRIBE).size))
        keys = [names.bucket(self._account, self._region, name) for name, _ in amounts]
        args: list[str | float] = [call, ARRIVES_WITHIN_S]
        for name, amount in amounts:
            bucket = BUCKETS.get(name, _DESCRIBE)
            args += (bucket.size, bucket.rate, bucket.reserve, amount)
        before, wait_s = await self._store.scripts.bucket(keys=keys, args=args)
        return Granted(float(wait_s), int(float(before)))

    async def budget(self) -> Budget:
        """What launches may spend now, and how fast that comes back."""
        if self._unlimited:
            return Budget(inf, inf, inf, inf)
        now, spend = self._store.now(), []
        for action in ("RunInstances", INSTANCES):
            held = (await self.take([(action, 0)])).before
            name = names.bucket(self._account, self._region, action)
            slow_until, factor = await self._store.redis.hmget(name, "slow_until", "factor")
            slowed = slow_until is not None and now < float(slow_until)
            spend += [held, BUCKETS[action].rate * (float(factor) if slowed else 1.0)]
        return Budget(*spend)

    async def take_one(self, action: str, *, until: float) -> bool:
        """Take one token, waiting for it until a time (of Redis); whether it was had."""
        while (granted := await self.take([(action, 1)])).wait_s > 0:
            if self._store.now() + granted.wait_s > until:
                return False
            await asyncio.sleep(min(granted.wait_s, LONGEST_NAP_S))
        return True

    async def reserve(self, amounts: Mapping[str, int]) -> Reservation | float:
        """Take tokens for a call that is still to be prepared; if they are not there, when to ask again."""
        call = secrets.token_hex(4)
        granted = await self.take(list(amounts.items()), call=call)
        return granted.wait_s or Reservation(self, call, amounts)

    async def arrived(self, actions: Iterable[str], *, call: str) -> None:
        """A call whose tokens were reserved has reached EC2, or will not any more."""
        if self._unlimited:
            return
        async with self._store.redis.pipeline(transaction=False) as pipe:
            for action in actions:
                pipe.hdel(names.bucket(self._account, self._region, action), f"sent:{call}")
            await pipe.execute()

    async def pace(self, action: str, _weight: int) -> None:
        """Return when one call of this action may be sent; of those TAKEN_BEFORE, at once."""
        if action in TAKEN_BEFORE:
            return
        await self.take_one(action, until=inf)

    async def slow_down(self, action: str) -> None:
        """EC2 refused a call for being one too many: spend less for a while, and start from nothing."""
        now = self._store.now()
        name = names.bucket(self._account, self._region, action)
        _log.warning("rate.lowered", action=action, region=self._region, for_s=SLOW_FOR_S)
        async with self._store.redis.pipeline(transaction=True) as pipe:
            pipe.hset(name, mapping={"tokens": 0, "at": now, "slow_until": now + SLOW_FOR_S, "factor": SLOW_FACTOR})
            pipe.expire(name, 7_200)
            await pipe.execute()
