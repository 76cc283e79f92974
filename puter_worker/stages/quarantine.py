"""quarantine: keeps a target from launching while Redis may have forgotten launches that EC2 does not show yet.

Every leader asks here before it launches or replays. As long as Redis is as far as this worker remembers, nothing
waits. When it has been emptied, or put back, the target waits and adopts what lives there before anything is launched:
10 s, longer than EC2 takes to show a launch, and so long after the last launch that is remembered, which may be on its
way to EC2 still, wherever it was begun. Whoever never saw the target before has nothing to wait for. An intent is
opened only in the epoch that was checked: the transaction rests on it.
"""

from __future__ import annotations

import time
from datetime import datetime

import structlog

from puter_client.contract.phase import ENDED, ON_ITS_WAY, Phase
from puter_client.contract.record import Record
from puter_worker.ec2.instances import Instance, find_managed
from puter_worker.ec2.session import READ_TIMEOUT_S
from puter_worker.ec2.tags import BATCH, EXPIRES_AT, LABELLED, OWNER, key_of
from puter_worker.memory import Epoch, Memory, Remembered
from puter_worker.stages.confirm import put_adopted
from puter_worker.stages.facts import choose
from puter_worker.stages.settle import adopted
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target

_log = structlog.get_logger("puter.quarantine")
# Longer than this no launch is waited for by whoever has sent it; EC2 has had it by then.
IN_FLIGHT_S = float(READ_TIMEOUT_S)
# EC2 forgets nothing that was launched longer ago than this: look-ups find it.
REMEMBERED_S = 600.0


class Quarantine:
    """The gate of one target, as one leader keeps it."""

    def __init__(self, store: WorkerStore, target: Target, memory: Memory, *, quarantine_s: float) -> None:
        self._store = store
        self._target = target
        self._memory = memory
        self._quarantine_s = quarantine_s
        self._until: float | None = None
        self.epoch: Epoch | None = None

    @property
    def left_s(self) -> float | None:
        """For how long nothing of the target is launched; None: it may be."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    async def open(self) -> bool:
        """Whether the target may launch now."""
        name = str(self._target)
        shown = await self._store.epoch()
        known = self._memory.of(name)
        forgot = known is not None and known.contradicts(shown)
        recent = known is not None and (
            name in self._memory.seen_alive or time.time() - known.launched_at < REMEMBERED_S
        )
        if forgot and recent:
            if self._until is None:
                in_flight_s = max(0.0, known.launched_at + IN_FLIGHT_S - time.time()) if known else 0.0
                wait_s = self._quarantine_s + min(in_flight_s, IN_FLIGHT_S)
                _log.warning("redis.forgot", target=name, wait_s=wait_s)
                self._until = time.monotonic() + wait_s
            if time.monotonic() < self._until:
                self.epoch = None
                return False
            await adopt_living(self._store, self._target)
        self._until = None
        self._memory.saw(name, shown, time.time())
        self.epoch = shown
        return True

    def launched(self) -> None:
        """A launch is about to be sent: remember it, whatever becomes of Redis."""
        known = self._memory.of(str(self._target))
        if known is not None:
            self._memory.keep(str(self._target), Remembered(known.epoch, time.time()))


async def adopt_living(store: WorkerStore, target: Target) -> None:
    """Give every living machine of the target that Redis does not know its record back."""
    by_key: dict[tuple[str, str], list[Instance]] = {}
    for instance in await find_managed(target.caller):
        name = key_of(instance.tags, instance.ami_launch_index)
        if name is not None:
            by_key.setdefault((name[0].namespace, name[0].tag), []).append(instance)
    adopted = 0
    for instances in by_key.values():
        chosen = choose(instances)
        if chosen is not None:
            adopted += await _adopt(store, target, chosen)
    _log.warning("instances.adopted", target=str(target), found=len(by_key), adopted=adopted)


async def _adopt(store: WorkerStore, target: Target, instance: Instance) -> bool:
    name = key_of(instance.tags, instance.ami_launch_index)
    assert name is not None
    key, generation = name
    stored = await store.record(key)
    now, txn = store.now(), Txn()
    record = stored.value
    if stored.rev is not None and record is None:
        return False  # another version's
    older = record is not None and record.phase in ENDED and record.generation < generation
    if record is not None and not older and (record.phase not in ON_ITS_WAY or record.intent is not None):
        return False  # known, or being found out
    bare = found_record(instance, target, now) if older or record is None else record
    if bare is None:
        return False
    (spec,) = await store.specs([key]) if bare is record else [None]
    of_it = bare.replace(generation=generation, labelled=instance.tags.get(LABELLED) == "yes")
    adoption = adopted(of_it, spec, instance, target.target_id, now)
    put_adopted(store, txn, stored, adoption, tells=bare is record)
    store.put_off_launch_queue(txn, key, str(target))
    store.put_off_look_up(txn, key, str(target))
    return not await store.commit(txn)


def found_record(instance: Instance, target: Target, now: float) -> Record | None:
    """The record of a machine of which only EC2 knows, as its tags tell; None if they tell no key."""
    name = key_of(instance.tags, instance.ami_launch_index)
    if name is None:
        return None
    expires_at = _seconds(instance.tags.get(EXPIRES_AT, ""))
    launched_at = instance.launch_time or now
    return Record(
        namespace=name[0].namespace,
        tag=name[0].tag,
        generation=name[1],
        phase=Phase.QUEUED,
        created_at=launched_at,
        changed_at=now,
        batch_id=instance.tags.get(BATCH),
        owner=instance.tags.get(OWNER),
        target=str(target),
        profile=target.target_id.profile or None,
        ttl_s=None if expires_at is None else max(0, round(expires_at - launched_at)),
    )


def _seconds(text: str) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
