"""label: writes each group-launched instance its own tags, at AWS's pace. A loop of every worker.

May run twice: the same tags are written again. Killed anywhere: a label is claimed for a time and taken off the list
only in the transaction that notes it in the record, so it comes up again.
"""

from __future__ import annotations

import asyncio

import structlog

from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.ec2.tags import own_tags
from puter_worker.fleet import Fleet, FleetId, Fleets
from puter_worker.store.base import Stored
from puter_worker.store.machines import Label
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore

_log = structlog.get_logger("puter.label")
AT_ONCE = 20
# A token is spent soon after it is taken: while it is not, EC2's own bucket may be full and get nothing back for it.
SENT_AT_ONCE = 8
CLAIM_S = 12.0  # what a dead worker had claimed is another's within 15 s
AGAIN_S = 2.0
# EC2 may refuse tags of an instance that it does not show yet, as not found or as not permitted (a policy that
# asks for tags cannot see them yet).
NEWBORN_S = 60.0
GIVE_UP_S = 300.0


async def label(store: WorkerStore, fleets: Fleets) -> int:
    """Write the labels that are due, up to AT_ONCE a fleet; how many were at hand."""
    at_hand = 0
    for text in await store.fleets():
        fleet_id = FleetId.parse(text)
        if await fleets.reaches(fleet_id):
            at_hand += await _label_fleet(store, fleets.get(fleet_id))
    return at_hand


async def _label_fleet(store: WorkerStore, fleet: Fleet) -> int:
    if not await store.labels_due(str(fleet)):
        return 0
    # No more than can be written soon: the others are for whoever has time before.
    tokens = await fleet.pacer.take([("CreateTags", 0)])
    until = store.now() + CLAIM_S
    claimed = await store.claim_labels(str(fleet), min(AT_ONCE, tokens.before), until)
    stored = await store.records([one.key for one in claimed])
    at_once = asyncio.Semaphore(SENT_AT_ONCE)

    async def write(one: Label, read: Stored[Record]) -> bool:
        async with at_once:
            return await _write(store, fleet, one, read, until)

    written = await asyncio.gather(*map(write, claimed, stored))
    labelled = [one for one, done in zip(claimed, written, strict=True) if done]
    while labelled:
        stored = await store.records([one.key for one in labelled])
        noted = await store.commit_each(
            list(zip(labelled, stored, strict=True)), lambda txn, pair: _note(store, txn, fleet, *pair)
        )
        # What was observed meanwhile is read anew.
        labelled = [one for one in labelled if one not in {label for label, _ in noted}]
    return len(claimed)


def _wants(record: Record | None, one: Label) -> bool:
    return record is not None and record.generation == one.generation and record.phase in LIVE


async def _write(store: WorkerStore, fleet: Fleet, one: Label, stored: Stored[Record], until: float) -> bool:
    """Whether one label is written now; what is no longer wanted is dropped, what is refused is put off."""
    record, txn = stored.value, Txn()
    if record is None or not record.instance_id or not _wants(record, one):
        store.expect_record(txn, one.key, stored)
        store.put_labelled(txn, str(fleet), one)
        await store.commit(txn)
        return False
    if not await fleet.pacer.take_one("CreateTags", until=until):
        return False  # by then it may be somebody else's
    try:
        await ec2.create_tags(fleet.caller, [record.instance_id], own_tags(one.key, one.generation))
    except Ec2Error as error:
        now = store.now()
        age = now - (record.launched_at or now)
        newborn = error.handling is Handling.JUST_MADE or (error.code == "UnauthorizedOperation" and age < NEWBORN_S)
        if error.handling is Handling.FAIL and not newborn:
            _log.error("label.refused", namespace=one.key.namespace, tag=one.key.tag, code=error.code)
            again_s = GIVE_UP_S
        else:
            again_s = AGAIN_S
        store.put_label_off(txn, str(fleet), one, now + again_s)
        await store.commit(txn)
        return False
    return True


def _note(store: WorkerStore, txn: Txn, fleet: Fleet, one: Label, stored: Stored[Record]) -> None:
    """Take a label off the list, and say in the record that it is written, if the record still speaks of it."""
    if stored.value is not None and _wants(stored.value, one):
        store.put_record(txn, stored, stored.value.but(labelled=True), event="instance.labelled")
    store.put_labelled(txn, str(fleet), one)
