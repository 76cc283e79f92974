"""consoles: reads the consoles that people want to see now, and publishes them for a minute.

A stage of the target's leader. May run twice: the same console is read and published twice. A machine is claimed for a
time; if the worker is killed, its console is read again. What is published names its generation, so one that comes
late is taken for no other machine's. However often somebody asks, a machine's console is read at most every
`console_again_s`; it is read once, also if EC2 refuses, so nothing is repeated that nobody waits for any more. The
calls leave room for those that results and orders rest on, which share their rate limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from puter_client.contract.console import MAX_CONSOLE, Console
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.frame import without_frames
from puter_worker.errors import StageError
from puter_worker.stages.stage import Stage, until_due
from puter_worker.store import wakeups
from puter_worker.store.generation import Generation
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from puter_worker.timings import Timings

ACTION = "GetConsoleOutput"
# Of a bucket of 95: the consoles of forty machines that have just ended never wait for those that people look at.
LEFT_FOR_OTHERS = 40
READ_AT_ONCE = 8


class ShowConsoles(Stage):
    """Reads consoles of one target's machines for those who asked for them."""

    name = "consoles"
    least_gap_s = 0.1

    def __init__(self, store: Store, target: Target, timings: Timings) -> None:
        super().__init__()
        self.topics = frozenset({wakeups.consoles(str(target))})
        self._store = store
        self._target = target
        self._timings = timings

    async def run_once(self) -> float:
        """Read a few of the consoles that are due, if the rate limit has room for them."""
        now = self._store.now()
        due = await self._store.consoles.of(str(self._target)).next_due()
        if due is None or due > now:
            return until_due(due, now, at_most=self._timings.sweep_s)
        room = await self._target.pacer.available(ACTION) - LEFT_FOR_OTHERS
        if room < 1:
            return self._timings.console_room_s
        until = now + self._timings.console_claim_s
        claimed = await self._store.consoles.claim(str(self._target), min(room, READ_AT_ONCE), until)
        if claimed:
            await self._see_to(claimed)
        return 0.0

    async def _see_to(self, claimed: Sequence[Generation]) -> None:
        keys = [one.key for one in claimed]
        stored, published = await self._store.records.read(keys), await self._store.consoles.published(keys)
        now = self._store.now()
        unwanted: list[tuple[Generation, Versioned[Record | None]]] = []
        too_soon: list[tuple[Generation, float]] = []
        reads: list[tuple[Generation, Record]] = []
        for machine, one, shown in zip(claimed, stored, published, strict=True):
            record = one.value
            if record is None or record.generation != machine.generation or record.phase not in LIVE:
                unwanted.append((machine, one))
            elif (at := next_read_at(shown, machine, now, self._timings)) > now:
                too_soon.append((machine, at))
            else:
                reads.append((machine, record))
        await self._store.commit_each(unwanted, self._put_unwanted)
        await self._store.commit_each(too_soon, self._put_off)
        consoles = await asyncio.gather(*(self._read(record) for _, record in reads))
        done = [(machine, console) for (machine, _), console in zip(reads, consoles, strict=True)]
        await self._store.commit_each(done, self._put)

    async def _read(self, record: Record) -> Console:
        generation = record.generation
        try:
            text = await ec2.console_output(self._target.caller, record.instance_id or "", latest=True)
        except StageError as error:
            return Console(generation=generation, read_at=self._store.now(), problem=str(error))
        return Console(generation=generation, read_at=self._store.now(), text=without_frames(text)[-MAX_CONSOLE:])

    def _put(self, txn: Txn, one: tuple[Generation, Console]) -> None:
        machine, console = one
        self._store.consoles.publish(txn, machine.key, console)
        self._store.consoles.of(str(self._target)).remove(txn, str(machine))

    def _put_off(self, txn: Txn, one: tuple[Generation, float]) -> None:
        machine, at = one
        self._store.consoles.of(str(self._target)).reschedule(txn, str(machine), at)

    def _put_unwanted(self, txn: Txn, one: tuple[Generation, Versioned[Record | None]]) -> None:
        machine, stored = one
        self._store.records.expect(txn, machine.key, stored)
        self._store.consoles.of(str(self._target)).remove(txn, str(machine))


def next_read_at(shown: Console | None, machine: Generation, now: float, timings: Timings) -> float:
    """From when the machine's console may be read again (Redis TIME); `shown`: what is published of it. Pure."""
    if shown is None or shown.generation != machine.generation or shown.read_at > now:
        return now
    return shown.read_at + timings.console_again_s
