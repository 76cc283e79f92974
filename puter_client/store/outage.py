"""A Redis that is away for a while: what a client does that waits for something else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from puter_client.contract.errors import NotPermitted, StoreUnavailable
from puter_client.store.answer_limit import answer_limit
from puter_client.store.redis_errors import is_not_permitted, may_pass, why_refused
from puter_client.store.redis_url import RedisUrl
from puter_client.timings import ClientTimings

T = TypeVar("T")
Tell = Callable[[str], None]
"""Called with a line about a Redis that is away, or is there again."""


class Outages:
    """Asks one Redis: each question ends within a limit, and is asked again while Redis is away.

    Only a Redis that has answered before is waited for: one that never has is likelier to be the wrong one. Everything
    that is asked must be harmless if it is repeated, for the answer may have been lost, not the question.

    Attributes:
        answer_s: limit of one question, with all that connecting takes.
        outlasted: how often Redis was away and came back.
    """

    def __init__(
        self, url: str, *, named_by: str, answer_s: float, timings: ClientTimings, tell: Tell | None = None
    ) -> None:
        """`tell`: None waits for nothing."""
        self._url = url
        self._named_by = named_by
        self.answer_s = answer_s
        self._timings = timings
        self._tell = tell
        self._has_answered = False
        self._began: float | None = None
        self.outlasted = 0
        self._told_at = 0.0

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """The answer to a question of one round trip.

        Raises:
            StoreUnavailable: Redis has refused it, has never answered, or has been away for too long.
        """
        from redis.exceptions import RedisError

        while True:
            try:
                async with answer_limit(self.answer_s):
                    answer = await question()
            except (RedisError, OSError) as error:
                await self.pause(error)
            else:
                self._has_answered = True
                self._ended()
                return answer

    async def pause(self, error: Exception) -> None:
        """Return when it is time to ask again.

        Raises:
            StoreUnavailable: see `ask`.
        """
        why = why_refused(self._url, error, named_by=self._named_by)
        if self._tell is None or not self._has_answered or not may_pass(error):
            raise (NotPermitted if is_not_permitted(error) else StoreUnavailable)(why) from None
        now, most_s = time.monotonic(), self._timings.outlast_s
        if self._began is None:
            self._began, self._told_at = now, float("-inf")
        left_s = most_s - (now - self._began)
        if left_s <= 0:
            raise StoreUnavailable(
                f"{why}\nit has not answered for {most_s:.0f} s; what was requested goes on without this command"
            ) from None
        if now - self._told_at >= self._timings.outlast_line_s:
            self._told_at = now
            self._tell(f"Redis at {RedisUrl.parse(self._url)} does not answer; trying again for {left_s:.0f} s more")
        await asyncio.sleep(min(left_s, self._timings.outlast_again_s))

    def _ended(self) -> None:
        if self._began is None or self._tell is None:
            return
        self._began = None
        self.outlasted += 1
        self._tell(f"Redis at {RedisUrl.parse(self._url)} answers again")


class Limit:
    """A time limit for something that cannot happen while Redis is away: it begins anew when Redis is back."""

    def __init__(self, outages: Outages, seconds: float) -> None:
        self._outages = outages
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._began, self._outlasted = time.monotonic(), self._outages.outlasted

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        if self._outages.outlasted != self._outlasted:
            self.restart()
        return time.monotonic() - self._began >= self._seconds
