"""Token buckets in Redis: how many calls all workers together may still send in an account and region."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from puter_worker.rates import Rates
from puter_worker.store import names
from puter_worker.store.database import Database

# A bucket that was not used for two hours is full again and needs no key.
KEPT_S = 7_200
_LOOK = "?"


class TokenBuckets:
    """The buckets of one account and region. One script counts them, so any number of workers may share them."""

    def __init__(self, db: Database, account: str, region: str, rates: Rates) -> None:
        self._db = db
        self._account = account
        self._region = region
        self._rates = rates

    async def available(self, action: str, amount: int = 1) -> tuple[int, float]:
        """How many whole tokens an action's bucket can give, and the seconds until it has `amount` (0: now)."""
        return await self._ask({action: amount}, _LOOK)

    async def reserve(self, amounts: Mapping[str, int], *, call: str = "") -> float:
        """Take from several buckets, by action, or from none; returns 0 if they were taken, else seconds to wait.

        `call`: a name for the call that needs the tokens, if it does not reach EC2 at once. The tokens do not refill
        until `arrived` is called with this name, or `arrives_s` has passed.
        """
        return (await self._ask(amounts, call))[1]

    async def refund(self, amounts: Mapping[str, int], *, call: str = "") -> None:
        """Put back tokens that are not spent after all."""
        await self._ask({action: -amount for action, amount in amounts.items()}, call)

    async def arrived(self, actions: Iterable[str], *, call: str) -> None:
        """A call whose tokens were reserved has reached EC2, or will not be sent any more."""
        await self._ask(dict.fromkeys(actions, 0), f"!{call}")

    async def slow_down(self, action: str, *, factor: float) -> None:
        """EC2 refused a call because of its rate limit: empty the bucket, and refill it more slowly for a while."""
        now, name = self._db.now(), self._name(action)
        slowed = {"tokens": 0, "at": now, "slow_until": now + self._db.timings.slow_s, "factor": factor}
        async with self._db.redis.pipeline(transaction=True) as pipe:
            pipe.hset(name, mapping=slowed)
            pipe.expire(name, KEPT_S)
            await pipe.execute()

    async def rate(self, action: str) -> float:
        """How many tokens a second an action's bucket regains now."""
        slow_until, factor = await self._db.redis.hmget(self._name(action), "slow_until", "factor")
        slowed = slow_until is not None and 0 < float(slow_until) - self._db.now() < 600
        return self._rates.of(action).rate * (float(factor) if slowed else 1.0)

    async def _ask(self, amounts: Mapping[str, int], call: str) -> tuple[int, float]:
        numbers: list[float] = []
        for action, amount in amounts.items():
            bucket = self._rates.of(action)
            numbers += (bucket.size, bucket.rate, bucket.reserve, amount)
        return await self._db.scripts.bucket(
            [self._name(action) for action in amounts],
            call=call,
            arrives_s=self._db.timings.arrives_s,
            amounts=numbers,
        )

    def _name(self, action: str) -> str:
        return names.bucket(self._account, self._region, action)
