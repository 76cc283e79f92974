"""label: writes each group-launched instance its own tags, at AWS's pace. A loop of every worker.

May run twice: the same tags are written again. Killed anywhere: a label is claimed for a time and taken off the list
only in a transaction that rests on the record, and notes it there if it is still wanted; so it comes up again. All
workers take their tokens from one bucket, and leave what they cannot write within their claim.
"""

from __future__ import annotations

import asyncio
from functools import partial

import structlog

from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.ec2.tags import own_tags
from puter_worker.store.base import Stored
from puter_worker.store.machines import Label
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target, TargetId, Targets

_log = structlog.get_logger("puter.label")
AT_ONCE = 20
# A token is spent soon after it is taken: while it is not, EC2's own bucket may be full and get nothing back for it.
SENT_AT_ONCE = 8
CLAIM_S = 12.0  # what a dead worker had claimed is another's within 15 s
AGAIN_S = 2.0
AFTER_ERROR_S = 1.0
# EC2 may refuse tags of an instance that it does not show yet, as not found or as not permitted (a policy that
# asks for tags cannot see them yet).
NEWBORN_S = 60.0
GIVE_UP_S = 300.0


class Labeller:
    """The label stage of one worker: a task for each target that has labels to be written."""

    def __init__(self, store: WorkerStore, targets: Targets) -> None:
        self._store = store
        self._targets = targets
        self._at_work: dict[str, asyncio.Task[None]] = {}
        self._draining = False

    async def turn(self) -> None:
        """Begin with targets that nobody of this worker is at; to be called again and again."""
        for text in await self._store.targets():
            if text in self._at_work or not await self._store.labels_due(text):
                continue
            target_id = TargetId.parse(text)
            if await self._targets.reaches(target_id):
                self._at_work[text] = task = asyncio.create_task(self._write_all(self._targets.get(target_id)))
                task.add_done_callback(partial(self._ended, text))

    def _ended(self, text: str, _: asyncio.Task[None]) -> None:
        del self._at_work[text]

    async def drain(self) -> None:
        """Let what is claimed be written."""
        self._draining = True
        while self._at_work:
            await asyncio.wait(list(self._at_work.values()))

    async def _write_all(self, target: Target) -> None:
        try:
            while not self._draining and await label(self._store, target):
                pass
        except self._store.errors as error:
            _log.warning("redis.unavailable", stage="label", error=type(error).__name__)
            await asyncio.sleep(AFTER_ERROR_S)
        except Exception:  # noqa: BLE001 - a defect in one target must not end the others
            _log.exception("stage.failed", stage="label", target=str(target))
            await asyncio.sleep(AFTER_ERROR_S)


async def label(store: WorkerStore, target: Target) -> int:
    """Write labels that are due, up to AT_ONCE and no more than there are tokens for; how many were at hand."""
    tokens = await target.pacer.take([("CreateTags", 0)])
    until = store.now() + CLAIM_S
    # No more than can be written soon: the others are for whoever has time before.
    claimed = await store.claim_labels(str(target), min(AT_ONCE, tokens.before), until)
    stored = await store.records([one.key for one in claimed])
    at_once = asyncio.Semaphore(SENT_AT_ONCE)

    async def write(one: Label, read: Stored[Record]) -> bool:
        async with at_once:
            return await _write(store, target, one, read, until)

    outcomes = await asyncio.gather(*map(write, claimed, stored), return_exceptions=True)
    labelled = [one for one, outcome in zip(claimed, outcomes, strict=True) if outcome is True]
    while labelled:
        stored = await store.records([one.key for one in labelled])
        noted = await store.commit_each(
            list(zip(labelled, stored, strict=True)), lambda txn, pair: _note(store, txn, target, *pair)
        )
        # What was observed meanwhile is read anew.
        labelled = [one for one in labelled if one not in {label for label, _ in noted}]
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
    return len(claimed)


def _wants(record: Record | None, one: Label) -> bool:
    return record is not None and record.generation == one.generation and record.phase in LIVE


async def _write(store: WorkerStore, target: Target, one: Label, stored: Stored[Record], until: float) -> bool:
    """Whether one label is written now; what is no longer wanted is dropped, what is refused is put off."""
    record, txn = stored.value, Txn()
    if record is None or not record.instance_id or not _wants(record, one):
        store.expect_record(txn, one.key, stored)
        store.put_labelled(txn, str(target), one)
        await store.commit(txn)
        return False
    if not await target.pacer.take_one("CreateTags", until=until):
        return False  # by then it may be somebody else's
    try:
        await ec2.create_tags(target.caller, [record.instance_id], own_tags(one.key, one.generation))
    except Ec2Error as error:
        now = store.now()
        age = now - (record.launched_at or now)
        newborn = error.handling is Handling.JUST_MADE or (error.code == "UnauthorizedOperation" and age < NEWBORN_S)
        if error.handling is Handling.FAIL and not newborn:
            _log.error("label.refused", namespace=one.key.namespace, tag=one.key.tag, code=error.code)
            again_s = GIVE_UP_S
        else:
            again_s = AGAIN_S
        store.put_label_off(txn, str(target), one, now + again_s)
        await store.commit(txn)
        return False
    return True


def _note(store: WorkerStore, txn: Txn, target: Target, one: Label, stored: Stored[Record]) -> None:
    """Take a label off the list, and say in the record that it is written, if the record still speaks of it."""
    if stored.value is None or not _wants(stored.value, one):
        store.expect_record(txn, one.key, stored)
    else:
        store.put_record(txn, stored, stored.value.replace(labelled=True), event="instance.labelled")
    store.put_labelled(txn, str(target), one)
