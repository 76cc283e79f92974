"""resolve: looks keys up in EC2, many with one call: is the machine there already? A loop of the target's leader.

May run twice: every new key is decided in a transaction that rests on its record, and is taken off the list in it;
killed before, the key comes up again when its claim runs out. A living one is taken off when its parked requests are
settled; one that is parked in that moment is seen to when its stage is run again. An empty look-up means unknown,
not absent: what protects against a second launch is the record, its intent, the intent's tag and its token, never
this look-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress

import structlog

from puter_client.contract.batch import BatchRow
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import LIVE, Phase
from puter_client.contract.record import Record
from puter_client.contract.request import UpRequest
from puter_client.contract.spec import Spec
from puter_worker.ec2.errors import Ec2Error
from puter_worker.ec2.instances import TAGS_A_CALL, Instance
from puter_worker.ec2.tags import LABELLED, key_of
from puter_worker.stages import ensure, intake
from puter_worker.stages.confirm import confirm, put_adopted
from puter_worker.stages.facts import ALIVE, DEAD, choose
from puter_worker.stages.settle import adopted
from puter_worker.stages.waiting import reason_after
from puter_worker.store.base import Kept, Stored
from puter_worker.store.machines import Admission
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target

_log = structlog.get_logger("puter.resolve")
# A few calls' worth: what comes meanwhile waits for the end of it.
AT_ONCE = 2 * TAGS_A_CALL
CLAIM_S = 12.0  # what a dead leader had claimed is another's within 15 s, its lease included
LOOK_EVERY_S = 0.025
# Look-ups that are not full begin at least so long apart: each costs a token however few keys it is for.
APART_S = 0.2
# A batch that is still coming in is worth the wait; so long after its latest key it is no longer.
IDLE_S = 0.1
LONGEST_WAIT_S = 1.0
SETTLE_AT_ONCE = 20
AGAIN_S = 2.0
# For so long EC2 may still show a machine that the record knows to have ended.
STALE_VIEW_S = 60.0


class Resolver:
    """The resolve stage of one target, as one leader runs it: no namespace's look-ups wait for another's."""

    def __init__(self, store: WorkerStore, target: Target) -> None:
        self._store = store
        self._target = target
        self._at_work: dict[str, asyncio.Task[None]] = {}

    async def turn(self) -> float:
        """Begin with namespaces that nobody is at; after how long to look again. Raises what a look-up has raised."""
        for namespace, task in list(self._at_work.items()):
            if task.done():
                del self._at_work[namespace]
                task.result()
        for namespace in await self._store.looking(str(self._target)):
            if namespace not in self._at_work:
                self._at_work[namespace] = asyncio.create_task(self._look_up(namespace))
        return LOOK_EVERY_S

    async def _look_up(self, namespace: str) -> None:
        if await resolve(self._store, self._target, namespace):
            await asyncio.sleep(APART_S)

    async def drain(self) -> None:
        """Wait until what is claimed is looked up."""
        if self._at_work:
            await asyncio.wait(self._at_work.values())


async def resolve(store: WorkerStore, target: Target, namespace: str) -> bool:
    """Look up keys of a namespace that are due, up to AT_ONCE; whether a call was made that was not full."""
    now = store.now()
    since = await store.look_ups(str(target), namespace, now, AT_ONCE)
    keys = [PuterKey(namespace, tag) for tag in since]
    full = len(keys) // TAGS_A_CALL * TAGS_A_CALL
    part = full < len(keys) and (waited_enough(since.values(), now) or await _none_is_missing(store, keys))
    if keys := keys if part else keys[:full]:
        await store.claim_look_ups(str(target), keys, now + CLAIM_S)
        await _look_up(store, target, namespace, keys)
    return part


def waited_enough(since: Iterable[float], now: float) -> bool:
    """Whether keys that are due since these times wait no longer for others to come. Pure."""
    times = list(since)
    return now - max(times) >= IDLE_S or now - min(times) >= LONGEST_WAIT_S


async def _none_is_missing(store: WorkerStore, keys: Sequence[PuterKey]) -> bool:
    # The last one alone most often tells that others are to come.
    latest = await store.records(keys[-1:])
    return all_there(latest, among=len(keys)) and all_there(await store.records(keys), among=len(keys))


def all_there(stored: Iterable[Stored[Record]], *, among: int) -> bool:
    """Whether the batches of these keys, which are among so many, have no others that may still come. Pure.

    Of those that live nobody knows how many are still to be confirmed.
    """
    expected: dict[str | None, int] = {}
    for record in (one.value for one in stored):
        if record is not None and record.phase not in LIVE:
            expected[record.batch_id] = record.batch_size or 1
    return bool(expected) and among >= sum(expected.values())


async def _look_up(store: WorkerStore, target: Target, namespace: str, keys: Sequence[PuterKey]) -> None:
    stored = await store.records(keys)
    kept = [k for one in stored if (k := one.kept) is not None]
    new = [k for k in kept if k.value.phase in (Phase.RESOLVING, Phase.LAUNCHING) and k.value.intent is None]
    live = [k for k in kept if k.value.phase in LIVE]
    moved_on = set(keys) - {k.value.key for k in (*new, *live)}
    for key, as_read in zip(keys, stored, strict=True):
        if key in moved_on:
            await intake.settle_parked(store, key)
            txn = Txn()
            store.expect_record(txn, key, as_read)
            store.put_off_look_up(txn, key, str(target))
            await store.commit(txn)
    await asyncio.gather(_resolve_new(store, target, namespace, new), _confirm_live(store, target, live))


async def _resolve_new(store: WorkerStore, target: Target, namespace: str, new: Sequence[Kept[Record]]) -> None:
    if not new:
        return
    try:
        found = await target.look_up(namespace, [kept.value.tag for kept in new])
    except Ec2Error as error:
        for kept in new:
            await ensure.refused(store, kept, error)
        return
    specs = await store.specs([kept.value.key for kept in new])
    look_ups = [(kept, spec, choose(found[kept.value.tag])) for kept, spec in zip(new, specs, strict=True)]
    # What has moved on meanwhile is left to whoever moved it.
    await store.commit_each(look_ups, lambda txn, one: _decide(store, txn, target, *one))


def _decide(
    store: WorkerStore, txn: Txn, target: Target, kept: Kept[Record], spec: Spec | None, instance: Instance | None
) -> None:
    """Adopt what is there, or put the key in the launch queue."""
    record, now = kept.value, store.now()
    name = key_of(instance.tags, instance.ami_launch_index) if instance else None
    generation = name[1] if name else 1
    if instance is not None and instance.state not in DEAD:
        if generation < record.generation and instance.state in ALIVE and now - record.created_at < STALE_VIEW_S:
            waiting = record.replace(reason=f"EC2 still shows {instance.instance_id}, which has ended; looking again")
            store.put_record(txn, kept, waiting)
            store.put_on_look_up(txn, record.key, str(target), now + AGAIN_S)
            return
        of_it = record.replace(generation=generation, labelled=instance.tags.get(LABELLED) == "yes")
        adoption = adopted(of_it, spec, instance, target.target_id, now)
        put_adopted(store, txn, kept, adoption, tells=True)
        if adoption.record.phase in LIVE:
            cidrs = spec.ssh_from if spec else ()
            door = Admission(record.namespace, record.tag, cidrs, instance.vpc_id, instance.group_ids)
            store.put_admission(txn, door, now)
    else:
        # Tags of the dead tell how far generations have got, should Redis have forgotten it.
        following = max(record.generation, generation + 1) if instance else record.generation
        waiting = record.replace(
            phase=Phase.LAUNCHING,
            generation=following,
            account_id=target.target_id.account,
            region=target.target_id.region,
            reason="waiting for its launch",
            changed_at=now,
        )
        store.put_record(txn, kept, waiting, event="launch.awaited")
        store.put_on_launch_queue(txn, waiting.key, str(target), now)
        if following != record.generation:
            _tell(store, txn, record, Outcome.CREATED, following)
    store.put_off_look_up(txn, record.key, str(target))


def _tell(store: WorkerStore, txn: Txn, record: Record, outcome: Outcome, generation: int) -> None:
    if record.batch_id:
        row = BatchRow(outcome=outcome, generation=generation, request_number=record.request_number)
        store.put_row(txn, record.key, record.batch_id, row)


async def _confirm_live(store: WorkerStore, target: Target, live: Sequence[Kept[Record]]) -> None:
    """Bring old records up to date by the ids of their instances, and decide the requests that wait for it."""
    ids = [kept.value.instance_id for kept in live if kept.value.instance_id]
    try:
        shown = await target.describe(ids)
    except Ec2Error as error:
        # The requests wait with what is known; nothing is launched on an old record.
        _log.warning("records.unconfirmed", target=str(target), count=len(live), code=error.code)
        for kept in live:
            await _tell_parked(store, target, kept.value.key, f"{kept.value.instance_id}: {reason_after(error)}")
        return
    await confirm(store, target, live, shown)
    at_once = asyncio.Semaphore(SETTLE_AT_ONCE)

    async def settle(key: PuterKey) -> None:
        async with at_once:
            await intake.settle_parked(store, key)
            txn = Txn()
            store.put_off_look_up(txn, key, str(target))
            await store.commit(txn)

    await asyncio.gather(*(settle(kept.value.key) for kept in live))


async def _tell_parked(store: WorkerStore, target: Target, key: PuterKey, why: str) -> None:
    """Say in the batches of a key's parked requests what they wait for, and look again."""
    txn = Txn()
    for raw in (await store.parked(key))[0]:
        with suppress(InvalidInput):
            request = intake.decode_request(raw)
            if isinstance(request, UpRequest):
                store.put_row(txn, key, request.batch, BatchRow(message=why))
    store.put_off_look_up(txn, key, str(target))
    store.look_again(txn, key, store.now() + ensure.CREDENTIALS_AGAIN_S)
    await store.commit(txn)
