"""What came of an intent, told to its members. The third part of launch.

May run twice: members are told in transactions that rest on their records still naming the intent; who fails them or
gives them back to the launch queue also rests on the intent being as it was, for somebody who has taken it up meanwhile
may be sending it.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from puter_client.contract.phase import Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_worker.ec2.errors import Ec2Error
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.tags import LABELLED, key_of
from puter_worker.stages.backoffs import after_success
from puter_worker.stages.facts import generation_of, with_instance
from puter_worker.store.backoff import Backoff
from puter_worker.store.base import Kept
from puter_worker.store.intent import Intent
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target

_log = structlog.get_logger("puter.launch")


async def tell(
    store: WorkerStore,
    target: Target,
    intent: Intent,
    found: Mapping[str, Instance],
    *,
    request_id: str | None = None,
    missing_ended: bool = False,
) -> None:
    """Give each member its instance, put those without one back in the launch queue, and close the intent.

    `missing_ended`: EC2 has said that the machines of those without one have ended.
    """
    single = len(intent.members) == 1
    backoffs = await store.backoffs(intent.target)
    while True:
        now, txn = store.now(), Txn()
        for member, stored in await _members(store, intent):
            record = stored.value
            instance = found.get(member)
            if instance is None and missing_ended:
                over = record.replace(
                    phase=Phase.TERMINATED,
                    reason="it has ended before it was seen",
                    intent=None,
                    changed_at=now,
                    ended_at=now,
                )
                store.put_record(txn, stored, over, event="instance.terminated")
                continue
            if instance is None:
                reason = "EC2 launched fewer machines than requested; waiting for the next launch"
                _put_back(store, txn, target, stored, record, reason, now, 0.0)
                continue
            labelled = single or instance.tags.get(LABELLED) == "yes"
            generation = max(record.generation, generation_of(instance))
            launched = record.replace(labelled=labelled, short_since=None, generation=generation)
            alive = with_instance(launched, instance, target.target_id, now)
            detail = {"instance": instance.instance_id, "intent": intent.intent_id}
            store.put_record(txn, stored, alive, event="instance.launched", request_id=request_id, detail=detail)
        for name in (intent.capacity, intent.quota):
            if found and name in backoffs:
                store.put_backoff(txn, intent.target, name, after_success(backoffs[name], len(found)))
        if 0 < len(found) < len(intent.members) and not missing_ended:
            # Not all fitted: ask for one, which is told why it does not.
            store.put_backoff(txn, intent.target, intent.capacity, Backoff(now, 1, "EC2 launched fewer than requested"))
        store.close_intent(txn, intent)
        if not await store.commit(txn):
            break
    _log.info(
        "intent.closed",
        intent=intent.intent_id,
        namespace=intent.namespace,
        members=len(intent.members),
        launched=len(found),
        request_id=request_id,
        instance_ids=[instance.instance_id for instance in found.values()],
    )


async def fail(store: WorkerStore, kept: Kept[Intent], error: Ec2Error) -> None:
    """Close the intent and fail its members, unless somebody else has taken it up: they may be sending it."""
    intent = kept.value
    while True:
        now, txn = store.now(), Txn()
        ours = store.expect_intent(txn, kept)
        info = ErrorInfo(code=error.code, message=error.message, request_id=error.request_id)
        for tag, stored in await _members(store, intent):
            record = stored.value
            failed = record.replace(
                phase=Phase.FAILED,
                reason=error.message,
                error=info,
                intent=None,
                changed_at=now,
                ended_at=now,
            )
            store.put_record(txn, stored, failed, event="puter.failed", request_id=error.request_id)
            _log.warning("puter.failed", namespace=intent.namespace, tag=tag, code=error.code)
        store.close_intent(txn, intent)
        broken = await store.commit(txn)
        if not broken or ours in broken:
            return


async def give_back(
    store: WorkerStore,
    target: Target,
    kept: Kept[Intent],
    reason: str,
    pause_s: float,
    *,
    error: Ec2Error | None = None,
    ended: Mapping[str, Instance] | None = None,
    backoffs: Mapping[str, Backoff] | None = None,
    anew: bool = False,
) -> None:
    """Close the intent and put its members back, unless somebody else has taken it up: they may be sending it.

    `error`: what EC2 refused them with. `ended`: machines of generations that Redis has forgotten. `backoffs`: what the
    refusal taught. `anew`: what they were to be launched with is made anew.
    """
    intent = kept.value
    while True:
        now, txn = store.now(), Txn()
        ours = store.expect_intent(txn, kept)
        for name, backoff in (backoffs or {}).items():
            store.put_backoff(txn, intent.target, name, backoff)
        for tag, stored in await _members(store, intent):
            record = stored.value
            if backoffs is not None:
                # Waiting for a quota does not count as waiting for capacity.
                short = record.short_since or now if intent.capacity in backoffs else None
                record = record.replace(short_since=short)
            if anew:
                record = record.replace(made_anew=record.made_anew + 1)
            if ended is None:
                _put_back(store, txn, target, stored, record, reason, now, pause_s, error)
                continue
            known = key_of(ended[tag].tags, ended[tag].ami_launch_index) if tag in ended else None
            reached = max(record.generation, known[1] if known else 0)
            _put_back(store, txn, target, stored, record.replace(generation=reached + 1), reason, now, pause_s)
        store.close_intent(txn, intent)
        broken = await store.commit(txn)
        if not broken or ours in broken:
            return


def _put_back(
    store: WorkerStore,
    txn: Txn,
    target: Target,
    stored: Kept[Record],
    record: Record,
    reason: str,
    now: float,
    pause_s: float,
    error: Ec2Error | None = None,
) -> None:
    waiting = record.replace(intent=None, attempt=record.attempt + 1, reason=reason, changed_at=now)
    request_id = error.request_id if error else None
    store.put_record(txn, stored, waiting, event="launch.put_off", request_id=request_id)
    store.put_on_launch_queue(txn, record.key, str(target), now + pause_s)


async def put_off(
    store: WorkerStore,
    kept: Kept[Intent],
    intent: Intent,
    reason: str,
    pause_s: float,
    *,
    error: Ec2Error | None = None,
) -> None:
    """Leave an intent open, to be taken up after a pause, and tell its members why; `error` is EC2's, if it was."""
    request_id = error.request_id if error else None
    while True:
        now, txn = store.now(), Txn()
        store.put_intent(txn, kept, intent, lease_until=now + pause_s)
        guards = txn.guards
        for _, member in await _members(store, intent):
            record = member.value
            if record.reason != reason:
                told = record.replace(reason=reason, changed_at=now)
                store.put_record(txn, member, told, event="launch.delayed", request_id=request_id)
        broken = await store.commit(txn)
        if not broken or broken[0] < guards:
            return  # written, or the intent itself has been taken up by somebody else


async def made_anew(store: WorkerStore, intent: Intent) -> int:
    """How often what it is launched with was made anew, for the member for which it was most."""
    return max((kept.value.made_anew for _, kept in await _members(store, intent)), default=0)


async def _members(store: WorkerStore, intent: Intent) -> list[tuple[str, Kept[Record]]]:
    """The members whose records still wait for this intent, by tag."""
    records = await store.records(intent.keys)
    return [
        (member.tag, kept)
        for member, stored in zip(intent.members, records, strict=True)
        if (kept := stored.kept) is not None and kept.value.intent == intent.intent_id
    ]
