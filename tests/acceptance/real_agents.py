"""Machines of a simulated EC2 that run their own user data's workloads, each by the real agent, many on one host.

A machine is a folder (`AgentBed`); what is on its console is posted to the simulator. A few run the whole agent, which
watches its workload and obeys orders; for hundreds, the agent's code for workloads and end frames is enough.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from puter_client.contract.key import PuterKey
from tests.ec2sim.client import ControlClient
from tests.ec2sim.reports import Seen
from tests.integration.agent_bed import AgentBed, commands_in

AT_ONCE = 4
LOOK_EVERY_S = 0.2
TAKEN = ("Server.SpotInstanceTermination", "Server.SpotInstanceTermination: Spot instance termination")


class RealAgents:
    """The machines of one simulator.

    Attributes:
        ran: how many machines have begun each key's workload.
    """

    def __init__(self, sim: ControlClient, folder: Path, fate: Callable[[PuterKey, int], str]) -> None:
        """`fate` of a key's generation: `watched` has the whole agent; `taken` and `dies` end in their workload."""
        self._sim = sim
        self._folder = folder
        self._fate = fate
        self._commands = commands_in(folder / "commands")
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._tags: dict[str, dict[str, str]] = {}
        self.ran: Counter[PuterKey] = Counter()

    async def work(self, over: threading.Event) -> None:
        """Run every machine's workload until the event is set."""
        try:
            while not over.is_set():
                await self._look()
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            for life in self._lives.values():
                life.cancel()
            await asyncio.wait(self._lives.values())

    async def _look(self) -> None:
        for life in self._lives.values():
            if life.done():
                life.result()
        seen = await self._sim.instances()
        self._tags = {one.id: one.tags for one in seen}
        if any(one.state == "running" and one.id not in self._lives for one in seen):
            for one in await self._sim.instances(user_data=True):
                if one.state == "running" and one.id not in self._lives:
                    self._tags.setdefault(one.id, one.tags)  # it may be younger than the first look
                    self._lives[one.id] = asyncio.create_task(self._live(one))

    async def _live(self, one: Seen) -> None:
        bed = AgentBed(self._folder / one.id, one.user_data, index=one.launch_index, commands=self._commands)
        key, generation = told(bed)
        self.ran[key] += 1
        fate = self._fate(key, generation)
        if fate == "watched":
            await self._watched(one, bed)
            return
        async with self._at_once:
            process = await bed.run_alone()
            try:
                if fate in {"taken", "dies"}:
                    while "begun" not in bed.output:
                        await asyncio.sleep(LOOK_EVERY_S)
                else:
                    await process.wait()
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if fate == "taken":
            await self._sim.end(one.id, *TAKEN)
        else:
            await self._end(one, bed)

    async def _watched(self, one: Seen, bed: AgentBed) -> None:
        """The whole agent, until it shuts its machine down."""
        bed.boot()
        bed.start(BED_SLEEP_S="0.5")
        try:
            while not bed.shutdowns:
                if order := self._tags[one.id].get("puter:order"):
                    bed.metadata("tags/instance/puter:order", order)
                await asyncio.sleep(LOOK_EVERY_S)
        finally:
            bed.close()
        await self._end(one, bed)

    async def _end(self, one: Seen, bed: AgentBed) -> None:
        await self._sim.write_console(one.id, bed.console.read_bytes())
        await self._sim.shut_down(one.id)


def told(bed: AgentBed) -> tuple[PuterKey, int]:
    """Whose machine it is, by its own part of the user data."""
    text = (bed.bed / "000-puter-4-task").read_text()
    stored = re.search(r"^task (\S+) (\d+) ", text, re.MULTILINE)
    assert stored is not None, text
    return PuterKey.parse(stored[1]), int(stored[2])


@contextmanager
def at_work(sim_url: str, folder: Path, fate: Callable[[PuterKey, int], str]) -> Iterator[RealAgents]:
    """All machines of the simulator run while inside, in a thread of their own."""
    over, ready = threading.Event(), threading.Event()
    made: list[RealAgents] = []
    errors: list[BaseException] = []

    async def work() -> None:
        async with ControlClient(sim_url) as sim:
            made.append(RealAgents(sim, folder, fate))
            ready.set()
            await made[0].work(over)

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # noqa: BLE001 - the test raises it below
            errors.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait()
    try:
        yield made[0]
    finally:
        over.set()
        thread.join()
        if errors:
            raise errors[0]
