"""What EC2 shows of living machines, carried over into their records.

May run twice, and on stale data: a record only moves on, and is written only if it is still as it was read. Killed
before a quota is set free: it is requested again within a minute all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from puter_client.contract.phase import ENDED, LIVE
from puter_client.contract.record import Record
from puter_worker.ec2.instances import Instance
from puter_worker.stages.backoffs import after_an_end
from puter_worker.stages.facts import gone, with_instance
from puter_worker.stages.settle import Adoption
from puter_worker.store.base import Kept, Stored
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target

_log = structlog.get_logger("puter.confirm")
Confirmed = tuple[Kept[Record], Record]


async def confirm(
    store: WorkerStore, target: Target, living: Sequence[Kept[Record]], shown: Mapping[str, Instance]
) -> None:
    """Bring records of living machines up to what EC2 shows of them, by the ids of their instances."""
    now = store.now()
    confirmed: list[Confirmed] = []
    for kept in living:
        instance = shown.get(kept.value.instance_id or "")
        changed = with_instance(kept.value, instance, target.target_id, now) if instance else gone(kept.value, now)
        if changed is not None:
            confirmed.append((kept, changed))

    def put(txn: Txn, one: Confirmed) -> None:
        kept, changed = one
        store.put_record(txn, kept, changed, event=_event(one))

    written = await store.commit_each(confirmed, put)
    for kept, changed in written:
        if (event := _event((kept, changed))) is not None:
            _log.info(
                event,
                namespace=changed.namespace,
                tag=changed.tag,
                generation=changed.generation,
                instance_id=changed.instance_id,
                reason=changed.reason,
            )
    if any(changed.phase in ENDED for _, changed in written):
        await _free_quota(store, str(target))


def put_adopted(
    store: WorkerStore, txn: Txn, old: Stored[Record] | Kept[Record], adoption: Adoption, *, tells: bool
) -> None:
    """Write down a machine that was found. `tells`: whether the record is a request's, whose batch is to know of it."""
    record = adoption.record
    detail = {"instance": record.instance_id or ""}
    if adoption.notice:
        detail["notice"] = adoption.notice
    store.put_record(txn, old, record, event="instance.found", detail=detail)
    if adoption.spec is not None:
        store.put_spec(txn, record.key, adoption.spec)
    if tells and record.batch_id and record.phase in LIVE:
        store.put_row(txn, record.key, record.batch_id, adoption.row)


def _event(one: Confirmed) -> str | None:
    kept, changed = one
    if changed.phase is not kept.value.phase:
        return f"instance.{changed.phase.value}"
    return "instance.overdue" if changed.overdue and not kept.value.overdue else None


async def _free_quota(store: WorkerStore, target: str) -> None:
    """A machine has ended, and its place under the quota is free: whoever waits for it tries again."""
    txn = Txn()
    for name, backoff in (await store.backoffs(target)).items():
        if name.startswith("quota/"):
            store.put_backoff(txn, target, name, after_an_end(backoff))
    if txn:
        await store.commit(txn)
