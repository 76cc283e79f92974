"""Agents of all machines of a simulated EC2, in bulk: they obey tags, and end workloads with a frame."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from puter_client.contract.result import Result
from puter_worker.ec2.tags import MEMBER, UNASSIGNED
from tests.ec2sim.client import ControlClient
from tests.ec2sim.reports import Seen
from tests.frames import frame

SIGTERM = 143
LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class End:
    """How a machine's workload ends.

    Attributes:
        result: what is known of it then.
        exit_code: of the workload, as the frame says; None: the machine ends without a frame.
        output: what it has printed.
        machine_ends: whether the machine ends with it.
    """

    result: Result
    exit_code: int | None = None
    output: str = ""
    machine_ends: bool = True

    @classmethod
    def exits(cls, code: int, output: str = "", *, machine_ends: bool = True) -> End:
        """It exits with this code."""
        return cls(Result.FAILED if code else Result.SUCCEEDED, code, output, machine_ends)


INTERRUPTED = End(Result.INTERRUPTED)
"""EC2 takes the machine, which has no time to say so."""
LOST = End(Result.LOST)
"""The machine shuts itself down, and says nothing."""
STOPPED = End(Result.STOPPED, SIGTERM)
"""By an order of its owner."""
STOPPED_BEFORE_IT_BEGAN = End(Result.STOPPED)
"""The same, of a Spot machine that does not know yet which workload is its own: it has nothing to say."""


class Agents:
    """What runs on the machines of a simulator.

    Attributes:
        ended: how the workloads of machines have ended, by the machines' ids.
    """

    def __init__(self, sim: ControlClient, ends: Callable[[Seen], End | None] = lambda _: None) -> None:
        """`ends`: how a running machine's workload ends now; None: it goes on."""
        self._sim = sim
        self._ends = ends
        self._expires_at: dict[str, str] = {}
        self.ended: dict[str, End] = {}

    async def look(self) -> None:
        """Do for each running machine what its agent does now."""
        for one in await self._sim.instances():
            if one.state == "running" and one.id not in self.ended:
                await self._see_to(one)

    async def _see_to(self, one: Seen) -> None:
        nonce = one.tags.get("puter:intent", "")
        expires_at = one.tags.get("puter:expires-at", "")
        if self._expires_at.setdefault(one.id, expires_at) != expires_at:
            self._expires_at[one.id] = expires_at
            await self._sim.write_console(one.id, f"\r\nputer: order {nonce} expires-at {expires_at}\r\n")
        if one.tags.get("puter:order") == "stop":
            await self._sim.write_console(one.id, f"\r\nputer: order {nonce} stop\r\n")
            await self._end(one, nonce, STOPPED if one.tags.get(MEMBER) != UNASSIGNED else STOPPED_BEFORE_IT_BEGAN)
        elif one.tags.get(MEMBER) != UNASSIGNED and (end := self._ends(one)) is not None:
            await self._end(one, nonce, end)

    async def _end(self, one: Seen, nonce: str, end: End) -> None:
        self.ended[one.id] = end
        if end.exit_code is not None:
            why = "its owner has ordered it" if end.result is Result.STOPPED else ""
            member = one.tags.get(MEMBER)
            text = frame(nonce, end.exit_code, end.output, result=end.result, reason=why, member=member)
            await self._sim.write_console(one.id, text)
        if end == INTERRUPTED:
            await self._sim.end(one.id, "Server.SpotInstanceTermination", "Server.SpotInstanceTermination")
        elif end.machine_ends:
            await self._sim.shut_down(one.id)


@asynccontextmanager
async def running(agents: Agents, *, look_every_s: float = LOOK_EVERY_S) -> AsyncIterator[None]:
    """The agents do their work while inside."""

    async def work() -> None:
        while True:
            await agents.look()
            await asyncio.sleep(look_every_s)

    task = asyncio.create_task(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error
