"""label: writes the own tags of each instance that was launched in a group, at AWS's pace. A stage of every worker.

May run twice: the same tags are written again. May be killed anywhere: a label is claimed for a time, and removed only
in the transaction that notes it in the record (if it is still wanted there); until then it becomes due again. All
workers take their tokens from one bucket, and leave labels that they cannot write before their claim ends.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from puter_client.contract.phase import LIVE
from puter_client.contract.record import EventKind, Record
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.tags import own_tags
from puter_worker.errors import Handling, StageError
from puter_worker.rates import CREATE_TAGS
from puter_worker.stages.stage import Stage, until_due
from puter_worker.store import wakeups
from puter_worker.store.generation import Generation
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target, TargetId
from puter_worker.targets import Targets
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.label")
AT_ONCE = 20
# Tokens are used soon after they are taken: until the call arrives, EC2's own bucket may be full and regain nothing.
SENT_AT_ONCE = 8


class Labelling(Stage):
    """Writes the labels of all targets that this worker reaches, with a task for each target that has any."""

    name = "label"
    topics = frozenset({wakeups.LABELS})
    least_gap_s = 0.05

    def __init__(self, store: Store, targets: Targets, timings: Timings) -> None:
        super().__init__()
        self._store = store
        self._targets = targets
        self._timings = timings
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._draining = False

    async def run_once(self) -> float:
        """Begin with targets for which this worker has no running task."""
        pause_s = self._timings.sweep_s
        for text in await self._store.targets.all():
            if text in self._at_work:
                continue  # the end of its task wakes this stage
            due = await self._store.labels.of(text).next_due()
            wait_s = until_due(due, self._store.now(), at_most=self._timings.sweep_s)
            if wait_s <= 0 and await self._targets.reaches(TargetId.parse(text)):
                writer = LabelWriter(self._store, self._targets.get(TargetId.parse(text)), self._timings)
                self._at_work[text] = task = asyncio.create_task(self._write_all(writer))
                task.add_done_callback(partial(self._ended, text))
            elif wait_s > 0:
                pause_s = min(pause_s, wait_s)
        return pause_s

    def _ended(self, text: str, _: asyncio.Task[None]) -> None:
        del self._at_work[text]
        self.wake()

    async def drain(self) -> None:
        """Wait until the claimed labels are written."""
        self._draining = True
        while self._at_work:
            await asyncio.wait(list(self._at_work.values()))

    async def _write_all(self, writer: LabelWriter) -> None:
        try:
            while not self._draining and await writer.write_due():
                pass
        except self._store.errors as error:
            _log.warning("redis.unavailable", stage="label", error=type(error).__name__)
            await asyncio.sleep(self._timings.after_error_s)
        except Exception:  # noqa: BLE001 - a defect in one target must not end the others
            _log.exception("stage.failed", stage="label", target=str(writer.target))
            await asyncio.sleep(self._timings.after_error_s)


class LabelWriter:
    """Writes the labels of one target."""

    def __init__(self, store: Store, target: Target, timings: Timings) -> None:
        self.target = target
        self._store = store
        self._timings = timings

    async def write_due(self) -> int:
        """Write due labels, at most AT_ONCE and as many as there are tokens for; returns how many were claimed."""
        tokens = await self.target.pacer.available(CREATE_TAGS)
        until = self._store.now() + self._timings.label_claim_s
        # Claim no more than can be written soon: another worker may have time for the others.
        claimed = await self._store.labels.claim(str(self.target), min(AT_ONCE, tokens), until)
        stored = await self._store.records.read([label.key for label in claimed])
        at_once = asyncio.Semaphore(SENT_AT_ONCE)

        async def write(label: Generation, read: Versioned[Record | None]) -> bool:
            async with at_once:
                return await self._write(label, read, until)

        outcomes = await asyncio.gather(*map(write, claimed, stored), return_exceptions=True)
        await self._note([label for label, outcome in zip(claimed, outcomes, strict=True) if outcome is True])
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return len(claimed)

    async def _write(self, label: Generation, stored: Versioned[Record | None], until: float) -> bool:
        """Write one label; returns whether it is written. An unwanted one is dropped, a refused one delayed."""
        record, txn = stored.value, Txn()
        labels = self._store.labels.of(str(self.target))
        if record is None or not record.instance_id or not _wants(record, label):
            self._store.records.expect(txn, label.key, stored)
            labels.remove(txn, str(label))
            await self._store.commit(txn)
            return False
        reservation = await self.target.pacer.reserve_one(CREATE_TAGS, until=until)
        if reservation is None:
            return False  # the claim ends before there is a token
        tags = own_tags(label.key, label.generation, record.member)
        try:
            async with reservation:
                await ec2.create_tags(self.target.caller, [record.instance_id], tags)
        except StageError as error:
            labels.reschedule(txn, str(label), self._store.now() + self._again_s(error, record, label))
            await self._store.commit(txn)
            return False
        return True

    def _again_s(self, error: StageError, record: Record, label: Generation) -> float:
        """After how many seconds a refused label is tried again.

        EC2 may refuse tags for an instance that it does not show yet: as not found, or as not permitted (an IAM policy
        with a condition on tags does not see them yet).
        """
        now = self._store.now()
        young = now - (record.launched_at or now) < self._timings.newborn_s
        newborn = error.handling is Handling.JUST_MADE or (error.code == "UnauthorizedOperation" and young)
        if error.handling is not Handling.FAIL or newborn:
            return self._timings.label_again_s
        _log.error("label.refused", namespace=label.key.namespace, tag=label.key.tag, code=error.code)
        return self._timings.label_refused_s

    async def _note(self, written: list[Generation]) -> None:
        """Remove labels that are written, and note it in the records that still want them."""
        left = written
        while left:
            stored = await self._store.records.read([label.key for label in left])
            noted = await self._store.commit_each(list(zip(left, stored, strict=True)), self._put_noted)
            # Records that have changed meanwhile (by `observe`) are read again.
            done = {label for label, _ in noted}
            left = [label for label in left if label not in done]

    def _put_noted(self, txn: Txn, one: tuple[Generation, Versioned[Record | None]]) -> None:
        label, stored = one
        if stored.value is None or not _wants(stored.value, label):
            self._store.records.expect(txn, label.key, stored)
        else:
            labelled = stored.value.replace(labelled=True)
            self._store.records.put(txn, stored, labelled, event=EventKind.INSTANCE_LABELLED)
        self._store.labels.of(str(self.target)).remove(txn, str(label))


def _wants(record: Record, label: Generation) -> bool:
    return record.generation == label.generation and record.phase in LIVE
