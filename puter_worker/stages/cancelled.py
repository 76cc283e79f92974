"""What goes with the record of a cancelled request: it leaves the queues, and its batch's row says so."""

from __future__ import annotations

from puter_client.contract.batch import BatchRow
from puter_client.contract.outcome import Outcome
from puter_client.contract.record import Record
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn


def put_cancelled(store: Store, txn: Txn, record: Record, message: str | None = None) -> None:
    """Write all of a cancellation but its record; `message`: why, where it was not its owner."""
    if record.target:
        store.launch_queue.remove(txn, record.target, record.key)
        store.look_ups.remove(txn, record.target, record.key)
    if record.batch_id:
        row = BatchRow(
            outcome=Outcome.CANCELLED,
            generation=record.generation,
            request_number=record.request_number,
            message=message,
        )
        store.batches.put_row(txn, record.key, record.batch_id, row)
