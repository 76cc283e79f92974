"""Keys in a launch queue: read with their specs, and written while they wait or fail there."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from puter_client.contract import transitions
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import EventKind, Record
from puter_worker.errors import SpecLost, StageError
from puter_worker.stages.plan import Waiting
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned

_log = structlog.get_logger("puter.launch")


async def read_waiting(store: Store, target: str, keys: Sequence[PuterKey]) -> list[Waiting]:
    """The keys that still wait in a target's launch queue, with their specs; the others are removed from it."""
    # A spec is written with its record: read after it, it is never older than the record, on which a launch rests.
    stored = await store.records.read(keys)
    specs = await store.records.specs(keys)
    waiting: list[Waiting] = []
    for key, one, spec in zip(keys, stored, specs, strict=True):
        current, txn = one.found(), Txn()
        if current is None or not _waits(current.value, target):
            store.records.expect(txn, key, one)
            store.launch_queue.remove(txn, target, key)
            await store.commit(txn)
        elif spec is None:
            lost = SpecLost("Redis no longer holds what was requested: submit it again")
            put_failed(store, txn, target, current, lost, store.now())
            await store.commit(txn)
        else:
            waiting.append(Waiting(current, spec))
    return waiting


def _waits(record: Record, target: str) -> bool:
    """Whether the key waits for its launch in this target; it may have been requested again for another one."""
    return record.phase is Phase.LAUNCHING and record.intent is None and record.target == target


def put_waiting(
    store: Store, txn: Txn, one: Waiting, reason: str, at: float, *, short_since: float | None = None
) -> None:
    """Write that a key waits for its launch until then, and why; a key that was cancelled meanwhile is left out."""
    waiting = transitions.waiting(one.record, reason, store.now(), short_since=short_since)
    if waiting != one.record:
        event = EventKind.LAUNCH_DELAYED if reason != one.record.reason else None
        store.records.put(txn, one.stored, waiting, event=event)
    else:
        store.records.expect(txn, one.key, one.stored)
    store.launch_queue.add(txn, one.record.target or "", one.key, at)


def put_failed(store: Store, txn: Txn, target: str, current: Versioned[Record], error: StageError, now: float) -> None:
    """Fail the request of a key that waits for its launch."""
    record = current.value
    failed = transitions.failed(record, error.info, now)
    store.records.put(txn, current, failed, event=EventKind.PUTER_FAILED, request_id=error.request_id)
    store.launch_queue.remove(txn, target, record.key)
    _log.warning("puter.failed", namespace=record.namespace, tag=record.tag, code=error.code, message=error.message)
