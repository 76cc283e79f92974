"""label: writes each group-launched instance its own tags, at AWS's pace. A loop of the fleet's leader.

May run twice: the same tags are written again. Killed anywhere: a label is claimed for a time and taken off the list
only in the transaction that notes it in the record, so it comes up again.
"""

from __future__ import annotations

import asyncio

import structlog

from puter_client.contract.phase import LIVE
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.ec2.tags import own_tags
from puter_worker.fleet import Fleet
from puter_worker.store.machines import Label
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore

_log = structlog.get_logger("puter.label")
# As many as the bucket refills in two seconds: what is claimed is soon written.
AT_ONCE = 20
CLAIM_S = 12.0  # what a dead worker had claimed is another's within 15 s
AGAIN_S = 2.0
# EC2 may refuse tags of an instance that it does not show yet, as not found or as not permitted (a policy that
# asks for tags cannot see them yet).
NEWBORN_S = 60.0
GIVE_UP_S = 300.0


async def label(store: WorkerStore, fleet: Fleet) -> int:
    """Write the labels that are due, up to AT_ONCE; how many were at hand."""
    claimed = await store.claim_labels(str(fleet), AT_ONCE, store.now() + CLAIM_S)
    await asyncio.gather(*(_label(store, fleet, one) for one in claimed))
    return len(claimed)


async def _label(store: WorkerStore, fleet: Fleet, one: Label) -> None:
    stored = await store.record(one.key)
    record = stored.value
    txn = Txn()
    if record is None or record.generation != one.generation or record.phase not in LIVE or not record.instance_id:
        store.put_labelled(txn, str(fleet), one)
        await store.commit(txn)
        return
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
        return
    while record is not None and record.generation == one.generation and record.phase in LIVE:
        txn = Txn()
        store.put_record(txn, stored, record.but(labelled=True), event="instance.labelled")
        store.put_labelled(txn, str(fleet), one)
        if not await store.commit(txn):
            return
        stored = await store.record(one.key)
        record = stored.value
