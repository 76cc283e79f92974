"""results: reads on their consoles how the workloads of machines have ended. A stage of the target's leader.

May run twice: a result is written with the record's revision as a guard, in the transaction that ends the reading, so
it is written once. A machine is claimed for a time; if the worker is killed, its console is read again. Consoles are
never trusted: a frame is taken if its checksums hold and it has the id of the machine's launch, and all of it is text.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence, Set

import structlog

from puter_client.contract import transitions
from puter_client.contract.output import Output
from puter_client.contract.phase import LIVE
from puter_client.contract.record import EventKind, Record
from puter_client.contract.spec import Spec
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.frame import Frame, read_frame
from puter_worker.errors import Handling, StageError, reason_after
from puter_worker.stages.cancelled import put_cancelled
from puter_worker.stages.stage import Stage, until_due
from puter_worker.stages.workload import (
    is_retried,
    is_wanted,
    next_read_s,
    unread,
    waits_for_its_end,
    with_frame,
    without_frame,
)
from puter_worker.store import wakeups
from puter_worker.store.failures import BatchLimit
from puter_worker.store.generation import Generation
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.results")
# EC2 lets 20 GetConsoleOutput calls a second through after the first hundred; other calls share that rate.
AT_ONCE = 40
READ_AT_ONCE = 8

Read = tuple[Generation, Versioned[Record], Frame | StageError | None]


class ReadResults(Stage):
    """Reads the consoles of one target's machines."""

    name = "results"
    least_gap_s = 0.1

    def __init__(self, store: Store, target: Target, timings: Timings) -> None:
        super().__init__()
        self.topics = frozenset({wakeups.results(str(target))})
        self._store = store
        self._target = target
        self._timings = timings

    async def run_once(self) -> float:
        """Read the consoles that are due."""
        items = self._store.results.of(str(self._target))
        until = self._store.now() + self._timings.result_claim_s
        claimed = await self._store.results.claim(str(self._target), AT_ONCE, until)
        if claimed:
            await self._read(claimed)
            return 0.0
        return until_due(await items.next_due(), self._store.now(), at_most=self._timings.sweep_s)

    async def _read(self, claimed: Sequence[Generation]) -> None:
        stored = await self._store.records.read([one.key for one in claimed])
        at_once = asyncio.Semaphore(READ_AT_ONCE)

        async def read(machine: Generation, current: Versioned[Record]) -> Read:
            async with at_once:
                return machine, current, await self._frame(current.value)

        unwanted: list[tuple[Generation, Versioned[Record | None]]] = []
        reads: list[asyncio.Task[Read]] = []
        async with asyncio.TaskGroup() as group:
            for machine, one in zip(claimed, stored, strict=True):
                current = one.found()
                if current is None or not is_wanted(current.value, machine.generation):
                    unwanted.append((machine, one))
                else:
                    reads.append(group.create_task(read(machine, current)))
        await self._store.commit_each(unwanted, self._put_unwanted)
        done = [task.result() for task in reads]
        specs = await self._store.records.specs([machine.key for machine, _, _ in done])
        served = dict(zip((machine for machine, _, _ in done), specs, strict=True))
        limits = [limit for _, one, _ in done if (limit := BatchLimit.of(one.value)) is not None]
        over = await self._store.failures.reached(limits)
        written = await self._store.commit_each(done, lambda txn, one: self._put(txn, one, served[one[0]], over))
        for machine, _, found in written:
            if isinstance(found, Frame):
                key = machine.key
                _log.info("workload.finished", namespace=key.namespace, tag=key.tag, result=found.result.value)
        # A record that has changed meanwhile stays claimed, and its console is read again.

    async def _frame(self, record: Record) -> Frame | StageError | None:
        """The frame on a machine's console; None if there is none, or the error that kept it from being read."""
        if record.launched_by is None or record.instance_id is None:
            return None
        # The live console is there until the machine has ended, and has what was not posted yet.
        just_ended = self._store.db.clock.age(record.ended_at or 0.0) < self._timings.result_live_s
        try:
            console = await ec2.console_output(
                self._target.caller, record.instance_id, latest=record.phase in LIVE or just_ended
            )
        except StageError as error:
            return error
        frame = read_frame(console, record.launched_by)
        # A machine that took itself for another member of its launch has run another workload.
        return frame if frame is not None and frame.member == record.member else None

    def _put_unwanted(self, txn: Txn, one: tuple[Generation, Versioned[Record | None]]) -> None:
        machine, stored = one
        self._store.records.expect(txn, machine.key, stored)
        self._store.results.of(str(self._target)).remove(txn, str(machine))

    def _put(self, txn: Txn, read: Read, spec: Spec | None, over: Set[BatchLimit]) -> None:
        """Write what was read; `over`: batches with so many failures that nothing of them is run again."""
        machine, current, found = read
        record, now = current.value, self._store.now()
        items = self._store.results.of(str(self._target))
        if isinstance(found, Frame):
            ended = with_frame(record, found, now)
            output = Output(generation=record.generation, text=found.output, total_bytes=found.output_bytes)
            self._store.results.put_output(txn, machine.key, output)
        elif (isinstance(found, StageError) and found.handling is not Handling.FAIL) or record.phase in LIVE:
            self._store.records.expect(txn, machine.key, current)
            items.reschedule(txn, str(machine), now + self._timings.result_again_s)
            return
        elif (in_s := next_read_s(record, self._timings.result_reads_s)) is not None:
            self._store.records.put(txn, current, waits_for_its_end(record, in_s, now))
            items.reschedule(txn, str(machine), now + in_s)
            return
        elif isinstance(found, StageError):
            ended = unread(record, reason_after(found), now)
        else:
            ended = without_frame(record, now)
        detail = {"result": ended.result.value if ended.result else ""}
        if ended.exit_code is not None:
            detail["exit_code"] = str(ended.exit_code)
        items.remove(txn, str(machine))
        if spec is not None and is_retried(ended, spec):
            self._put_retried(txn, current, ended, spec, detail, over)
        else:
            self._store.records.put(txn, current, ended, event=EventKind.WORKLOAD_FINISHED, detail=detail)

    def _put_retried(
        self,
        txn: Txn,
        current: Versioned[Record],
        ended: Record,
        spec: Spec,
        detail: Mapping[str, str],
        over: Set[BatchLimit],
    ) -> None:
        """Have the workload run again, unless too many of its batch have failed."""
        now, limit = self._store.now(), BatchLimit.of(ended)
        again = transitions.retried(ended, spec, now)
        if limit is not None and limit in over:
            record = transitions.cancelled(again, limit.owner, now, why=limit.reason)
            event = EventKind.REQUEST_CANCELLED
            self._store.records.put(txn, current, record, event=event, detail=detail, through=(ended, again))
            put_cancelled(self._store, txn, record, limit.reason)
            return
        if limit is not None:
            self._store.failures.expect_not_reached(txn, limit)
        event = EventKind.WORKLOAD_RETRIED
        self._store.records.put(txn, current, again, event=event, detail=detail, through=(ended,))
        self._store.jobs.enqueue(txn, ended.key)
