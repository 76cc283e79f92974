"""When a Redis that does not answer is waited for, for how long, and what is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis.exceptions import AuthenticationError, OutOfMemoryError
from redis.exceptions import ConnectionError as RedisConnectionError

from puter_client.contract.errors import StoreUnavailable
from puter_client.store.outage import Limit, Outages
from puter_client.timings import ClientTimings

URL = "redis://betty:hunter2@r.example"
AT = "Redis at redis://r.example:6379/0"
AWAY = RedisConnectionError("hunter2")
QUICK = ClientTimings(outlast_again_s=0.0, outlast_line_s=3_600.0)


def outages(told: list[str] | None, timings: ClientTimings = QUICK) -> Outages:
    tell = None if told is None else told.append
    return Outages(URL, named_by="PUTER_REDIS_URL", answer_s=60.0, timings=timings, tell=tell)


def answers(*what: Exception | str) -> Callable[[], Awaitable[str]]:
    """A question that gets these answers in turn, then `yes`."""
    left = list(what)

    async def question() -> str:
        answer = left.pop(0) if left else "yes"
        if isinstance(answer, Exception):
            raise answer
        return answer

    return question


async def test_one_that_has_answered_is_asked_until_it_answers_again() -> None:
    told: list[str] = []
    redis = outages(told)
    await redis.ask(answers())

    assert await redis.ask(answers(AWAY, AWAY, TimeoutError(), OSError())) == "yes"

    assert told == [f"{AT} does not answer; trying again for 30 s more", f"{AT} answers again"]
    assert redis.outlasted == 1


async def test_one_that_never_has_is_not() -> None:
    told: list[str] = []
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await outages(told).ask(answers(AWAY))
    assert told == []


async def test_nobody_waits_who_does_not_say_so() -> None:
    redis = outages(None)
    await redis.ask(answers())
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await redis.ask(answers(AWAY))


@pytest.mark.parametrize("refusal", [AuthenticationError(), OutOfMemoryError()], ids=type)
async def test_a_refusal_is_told_at_once_also_while_it_is_away(refusal: Exception) -> None:
    redis = outages([])
    await redis.ask(answers())
    with pytest.raises(StoreUnavailable, match=r"refuses|is out of memory"):
        await redis.ask(answers(AWAY, refusal))


async def test_in_the_end_it_is_told_why_and_that_requests_go_on() -> None:
    redis = outages([], ClientTimings(outlast_s=0.0))
    await redis.ask(answers())
    with pytest.raises(StoreUnavailable) as caught:
        await redis.ask(answers(AWAY))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"{AT} does not answer")
    assert second == "it has not answered for 0 s; what was requested goes on without this command"
    assert "hunter2" not in str(caught.value)


async def test_those_who_ask_at_the_same_time_share_an_outage() -> None:
    told: list[str] = []
    redis = outages(told)
    await redis.ask(answers())

    await asyncio.gather(*(redis.ask(answers(AWAY, AWAY)) for _ in range(9)))

    assert [line for line in told if "trying again" in line] == told[:1]


async def test_a_limit_begins_anew_after_an_outage() -> None:
    redis = outages([])
    limit, short = Limit(redis, 3_600.0), Limit(redis, 0.0)
    await redis.ask(answers())
    assert (limit.is_over, short.is_over) == (False, True)
    limit._began -= 7_200.0
    assert limit.is_over

    await redis.ask(answers(AWAY))

    assert not limit.is_over
