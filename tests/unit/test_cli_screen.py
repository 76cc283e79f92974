"""What is drawn over all of a terminal."""

from __future__ import annotations

import asyncio
import signal

from puter_client.cli.screen import resizes

PATIENCE_S = 60.0


async def test_a_terminal_that_is_resized_is_noticed_at_once_each_time() -> None:
    with resizes() as resized:
        for _ in range(2):
            signal.raise_signal(signal.SIGWINCH)
            assert await resized(PATIENCE_S)


async def test_a_wait_for_a_resize_ends_in_time() -> None:
    with resizes() as resized:
        assert not await resized(0.001)


async def test_a_ctrl_c_ends_it() -> None:
    with resizes() as resized:
        waiting = asyncio.ensure_future(resized(PATIENCE_S))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()


async def test_afterwards_nobody_listens() -> None:
    with resizes():
        pass
    assert signal.getsignal(signal.SIGWINCH) is signal.SIG_DFL
