"""A limit for answers that does not count the time in which the process stood still."""

from __future__ import annotations

import asyncio
import time

import pytest

from puter_client.store.answer_limit import answer_limit


async def test_what_does_not_come_in_time_is_given_up() -> None:
    with pytest.raises(TimeoutError):
        async with answer_limit(0.2):
            await asyncio.Event().wait()


@pytest.mark.parametrize("parts_before", [0, 1, 3.5])
async def test_a_process_that_stood_still_has_the_rest_of_its_time_to_read_the_answer(parts_before: float) -> None:
    limit_s = 0.4
    async with answer_limit(limit_s):
        await asyncio.sleep(limit_s / 4 * parts_before)
        time.sleep(2 * limit_s)  # noqa: ASYNC251 - nothing of this process goes on
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # in this turn of the loop all that was due meanwhile is handled


async def test_a_limit_ends_after_a_standstill_too() -> None:
    async def stands_still() -> None:
        async with answer_limit(0.2):
            time.sleep(1.0)  # noqa: ASYNC251
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await stands_still()


async def test_a_process_that_keeps_standing_still_does_not_wait_for_ever() -> None:
    turns: list[int] = []

    async def stands_still_again_and_again() -> None:
        async with answer_limit(0.2):
            while len(turns) < 1_000:
                turns.append(len(turns))
                time.sleep(0.11)  # noqa: ASYNC251
                await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await stands_still_again_and_again()
    assert len(turns) < 20


async def test_what_is_inside_keeps_its_own_error_and_its_end_ends_the_limit() -> None:
    with pytest.raises(KeyError):
        async with answer_limit(10.0):
            raise KeyError
    async with answer_limit(0.01):
        pass
    await asyncio.sleep(0.05)
