"""Agents of all machines of a simulated EC2, in bulk: they obey tags, and end workloads with a frame."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from puter_client.contract.result import Result
from tests.ec2sim.client import ControlClient
from tests.ec2sim.reports import Seen
from tests.frames import frame

SIGTERM = 143
LOOK_EVERY_S = 0.1


class Agents:
    """What runs on the machines of a simulator."""

    def __init__(self, sim: ControlClient, ends: Callable[[Seen], int | None] = lambda _: None) -> None:
        """`ends`: the exit code with which a running machine's workload ends now; None: it goes on."""
        self._sim = sim
        self._ends = ends
        self._expires_at: dict[str, str] = {}
        self._over: set[str] = set()

    async def look(self) -> None:
        """Do for each running machine what its agent does now."""
        for one in await self._sim.instances():
            if one.state == "running" and one.id not in self._over:
                await self._see_to(one)

    async def _see_to(self, one: Seen) -> None:
        nonce = one.tags.get("puter:intent", "")
        expires_at = one.tags.get("puter:expires-at", "")
        if self._expires_at.setdefault(one.id, expires_at) != expires_at:
            self._expires_at[one.id] = expires_at
            await self._sim.write_console(one.id, f"\r\nputer: order {nonce} expires-at {expires_at}\r\n")
        if one.tags.get("puter:order") == "stop":
            await self._sim.write_console(one.id, f"\r\nputer: order {nonce} stop\r\n")
            await self._end(one, frame(nonce, SIGTERM, result=Result.STOPPED, reason="its owner has ordered it"))
        elif (code := self._ends(one)) is not None:
            await self._end(one, frame(nonce, code, f"output of {one.id}\n"))

    async def _end(self, one: Seen, text: str) -> None:
        self._over.add(one.id)
        await self._sim.write_console(one.id, text)
        await self._sim.shut_down(one.id)


@asynccontextmanager
async def running(agents: Agents) -> AsyncIterator[None]:
    """The agents do their work while inside."""

    async def work() -> None:
        while True:
            await agents.look()
            await asyncio.sleep(LOOK_EVERY_S)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
