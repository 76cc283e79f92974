"""ensure: the arq job, one a key: finds the key's target and has it looked up there.

May run twice, and be killed anywhere: it writes once, resting on the record's revision; whoever comes second finds
the record moved on and leaves it. A worker that dies leaves a key that nothing moves: the restart of stuck keys runs
the job again. It waits for nothing but the account's id: a job that waits would be looked at by every poll of arq's.
"""

from __future__ import annotations

import asyncio

import structlog

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import ENDED, LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.stages.intake import settle_parked
from puter_worker.stages.waiting import is_final, reason_after
from puter_worker.store.base import Kept, Stored
from puter_worker.store.records import NOT_RESTARTED_S
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import TargetId, Targets

_log = structlog.get_logger("puter.ensure")
# Shorter than the job's time-out: a job that outlives it would end without a word in the record.
ACCOUNT_S = 6.0
ANOTHER_WORKER_S = 0.5
AGAIN_S = 2.0
CREDENTIALS_AGAIN_S = 5.0


async def ensure(store: WorkerStore, targets: Targets, key: PuterKey) -> None:
    """Bring one key from `queued` to its target's look-up."""
    stored = await store.record(key)
    kept = stored.kept
    if kept is None or kept.value.phase in ENDED:
        # What ended while requests waited for EC2's word on it needs no further word.
        await settle_parked(store, key)
        if stored.rev is None:
            await _forget(store, key, stored)
        return
    record = kept.value
    if record.phase in LIVE and record.target:
        # It is restarted because requests wait for EC2's word on it.
        await _look_up(store, kept, TargetId.parse(record.target))
    elif record.phase is Phase.LAUNCHING:
        await _see_to_launch(store, kept)
    elif record.phase in ON_ITS_WAY:
        await _find_target(store, targets, kept)


async def _forget(store: WorkerStore, key: PuterKey, stored: Stored[Record]) -> None:
    """Nothing is known of the key any more, so there is nothing to move."""
    txn = Txn()
    store.expect_record(txn, key, stored)
    store.stop_moving(txn, key)
    await store.commit(txn)


async def _see_to_launch(store: WorkerStore, kept: Kept[Record]) -> None:
    """A key that nothing has moved for long: it is in its launch queue, or in an intent that somebody takes up."""
    record, txn = kept.value, Txn()
    if not record.target:
        return
    if record.intent is None:
        store.expect_record(txn, record.key, kept)
        store.put_on_launch_queue(txn, record.key, record.target, store.now(), again=True)
    elif (await store.intent(record.intent)).rev is None:
        # Redis has lost the intent, so nobody knows whether it was sent: EC2 is asked.
        _log.error("intent.lost", namespace=record.namespace, tag=record.tag, intent=record.intent)
        store.put_record(txn, kept, record.replace(intent=None), event="intent.lost")
        store.put_on_look_up(txn, record.key, record.target, store.now())
    store.look_again(txn, record.key, store.now() + NOT_RESTARTED_S)
    await store.commit(txn)


async def _find_target(store: WorkerStore, targets: Targets, kept: Kept[Record]) -> None:
    record = kept.value
    if not targets.offers(record.profile or "") and record.profile in await store.offered_profiles():
        await put_off(store, kept, f"waiting for the worker that has profile {record.profile!r}", ANOTHER_WORKER_S)
        return
    try:
        async with asyncio.timeout(ACCOUNT_S):
            target = await targets.find(record.profile, record.region)
    except TimeoutError:
        await put_off(store, kept, "AWS takes long to say whose the credentials are; asking again", AGAIN_S)
    except Ec2Error as error:
        await refused(store, kept, error)
    else:
        await _look_up(store, kept, target.target_id)


async def _look_up(store: WorkerStore, kept: Kept[Record], target: TargetId) -> None:
    now, txn = store.now(), Txn()
    if kept.value.phase is Phase.QUEUED:
        resolving = kept.value.replace(
            phase=Phase.RESOLVING, reason="looking whether it is there already", target=str(target), changed_at=now
        )
        store.put_record(txn, kept, resolving)
    store.put_on_look_up(txn, kept.value.key, str(target), now)
    await store.commit(txn)


async def refused(store: WorkerStore, kept: Kept[Record], error: Ec2Error) -> None:
    """What an error means for a key that is not on a launch queue yet: it fails, or waits and says why."""
    if is_final(error):
        await fail(store, kept, error)
    else:
        after_s = CREDENTIALS_AGAIN_S if error.handling is Handling.CREDENTIALS else AGAIN_S
        await put_off(store, kept, reason_after(error), after_s, request_id=error.request_id)


async def put_off(
    store: WorkerStore, kept: Kept[Record], reason: str, after_s: float, *, request_id: str | None = None
) -> None:
    """Run the key's stage again after a pause, and say why; `request_id` of the request that was refused."""
    record, now, txn = kept.value, store.now(), Txn()
    phase = Phase.LAUNCHING if record.phase is Phase.LAUNCHING else Phase.RESOLVING
    same = record.phase is phase and record.reason == reason
    waiting = record.replace(phase=phase, reason=reason, changed_at=record.changed_at if same else now)
    store.put_record(txn, kept, waiting, event=None if same else "request.delayed", request_id=request_id)
    store.look_again(txn, record.key, now + after_s)
    await store.commit(txn)


async def fail(store: WorkerStore, kept: Kept[Record], error: Ec2Error) -> None:
    """End the key's request, with the reason."""
    record, now, txn = kept.value, store.now(), Txn()
    info = ErrorInfo(code=error.code, message=error.message, request_id=error.request_id)
    failed = record.replace(phase=Phase.FAILED, reason=error.message, error=info, changed_at=now, ended_at=now)
    store.put_record(txn, kept, failed, event="puter.failed", request_id=error.request_id)
    _log.warning("puter.failed", namespace=record.namespace, tag=record.tag, code=error.code)
    await store.commit(txn)
