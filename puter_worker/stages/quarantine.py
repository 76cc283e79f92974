"""quarantine: keeps a target from launching while Redis may have forgotten launches that EC2 does not show yet.

Every leader checks this gate before it launches or replays. While Redis has got as far as this worker remembers, the
gate is open. If Redis was emptied or restored to an older state, the target waits, and adopts its living machines
before anything is launched; of those that have ended it counts the launches of the last hour, which a policy may limit.
It waits 10 s, which is longer than EC2 takes to show a launch, counted from when the last
remembered launch of any worker must have reached EC2. After a launch of long ago it only adopts. A worker that has
never seen the target has nothing to wait for, unless another one has noted that Redis has lost something of it.
An intent is opened only in the epoch that was checked: its transaction has the epoch as a guard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

import structlog

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import ENDED, ON_ITS_WAY, Phase
from puter_client.contract.record import Record
from puter_worker.clock import Clock
from puter_worker.ec2.instances import ENDED_STATES, LIVE_STATES, Instance, find_managed
from puter_worker.ec2.tags import BATCH, EXPIRES_AT, OWNER, is_labelled, members_of, namespace_of
from puter_worker.errors import StageError, is_final
from puter_worker.memory import Epoch, Memory
from puter_worker.stages.confirm import put_adopted
from puter_worker.stages.decide import adopted
from puter_worker.stages.facts import choose
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.usage import HOUR_S, launch_name
from puter_worker.target import Target
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.quarantine")


class Quarantine:
    """The gate of one target, in one leader.

    Attributes:
        epoch: how far Redis had got when the gate was last open; None while it is shut.
    """

    def __init__(
        self, store: Store, target: Target, memory: Memory, *, clock: Clock, timings: Timings, quarantine_s: float
    ) -> None:
        self._store = store
        self._target = target
        self._memory = memory
        self._clock = clock
        self._timings = timings
        self._quarantine_s = quarantine_s
        self._until: float | None = None
        self.epoch: Epoch | None = None

    @property
    def left_s(self) -> float | None:
        """Seconds until the target may launch again; None: it may launch."""
        return None if self._until is None else max(0.0, self._until - self._clock.monotonic())

    async def open(self) -> bool:
        """Whether the target may launch now."""
        name = str(self._target)
        known = self._memory.of(name)  # before Redis is read: what is remembered meanwhile is no contradiction
        shown = await self._store.epochs.read()
        noted = name in await self._store.unsure.all()
        forgot = known is not None and known.contradicts(shown)
        # Of a launch that only another worker remembers it is not known how long ago it was.
        ago_s = known.launched_ago_s(self._clock) if known is not None and forgot else 0.0
        recent = name in self._memory.seen_alive or ago_s < self._timings.remembered_s
        if (forgot or noted) and recent and not self._is_over(name, ago_s):
            self.epoch = None
            return False
        if forgot or noted:
            await self._adopt_living()
            await self._store.unsure.remove(name)
        self._until = None
        self._memory.saw(name, shown)
        self.epoch = shown
        return True

    def _is_over(self, name: str, launched_ago_s: float) -> bool:
        """Whether the quarantine, which begins now if it has not begun, is over."""
        if self._until is None:
            # The sender of a launch waits for its answer for in_flight_s: by then EC2 has received it.
            wait_s = self._quarantine_s + max(0.0, self._timings.in_flight_s - launched_ago_s)
            _log.warning("redis.forgot", target=name, wait_s=wait_s)
            self._until = self._clock.monotonic() + wait_s
        return self._clock.monotonic() >= self._until

    async def _adopt_living(self) -> None:
        try:
            await Adopter(self._store, self._target, self._timings).adopt_living()
        except StageError as error:
            if not is_final(error):
                raise
            # Nobody with these credentials will ever see these machines: this must not stop all launches.
            _log.error("instances.not_looked_through", target=str(self._target), code=error.code)

    def remember_launch(self) -> None:
        """Remember that a launch is about to be sent, independently of Redis."""
        self._memory.launches(str(self._target))

    async def saw_launch(self) -> bool:
        """Remember how far Redis has got with an intent that was just opened; whether that is further than before.

        If it is not, Redis has lost something since: another server may be the primary now, and lack the intent. Where
        the intent is sent, this worker must be able to tell later that Redis has forgotten it.
        """
        known, shown = self._memory.of(str(self._target)), await self._store.epochs.read()
        if known is not None and known.contradicts(shown):
            return False
        self._memory.saw(str(self._target), shown)
        return True


class Adopter:
    """Makes records again for living machines of a target that Redis has forgotten."""

    def __init__(self, store: Store, target: Target, timings: Timings) -> None:
        self._store = store
        self._target = target
        self._timings = timings

    async def adopt_living(self) -> None:
        """Make a record for every living machine of the target that Redis does not know; count what has ended."""
        by_key: dict[tuple[str, str], list[Instance]] = {}
        unassigned: set[PuterKey] = set()
        # With one look: a machine that ends between two might be in neither.
        states = LIVE_STATES if self._target.rules.policy is None else (*LIVE_STATES, *ENDED_STATES)
        shown = await self._target.assigned(await find_managed(self._target.caller, states))
        await self._count([one for one in shown if one.state not in LIVE_STATES])
        for instance in shown:
            if instance.state not in LIVE_STATES:
                continue
            name = instance.name
            if name is not None:
                by_key.setdefault((name[0].namespace, name[0].tag), []).append(instance)
            elif instance.is_unassigned:
                unassigned |= set(members_of(instance.tags))
        chosen = [one for instances in by_key.values() if (one := choose(instances)) is not None]
        for key in unassigned:
            await self._look_up_first(key)
        users = await self._target.ssh_users(chosen)
        adopted_count = 0
        for instance in chosen:
            adopted_count += await self._adopt(instance, users.get(instance.instance_id))
        _log.warning("instances.adopted", target=str(self._target), found=len(by_key), adopted=adopted_count)

    async def _count(self, ended: Sequence[Instance]) -> None:
        """Count the launches of machines that have ended; nothing else of them is adopted."""
        for namespace, launches in launches_since(ended, self._store.now() - HOUR_S).items():
            txn = Txn()
            self._store.usage.put_launches(txn, namespace, launches)
            await self._store.commit(txn)
            _log.warning("launches.counted", target=str(self._target), namespace=namespace, count=len(launches))

    async def _look_up_first(self, key: PuterKey) -> None:
        """A machine of a Spot launch that EC2 shows in part may be the key's: nothing is launched before that is known.

        A Redis that was put back to an older state may have the key in its launch queue, past its look-up.
        """
        stored = await self._store.records.read_one(key)
        record = stored.value
        if record is None or record.phase not in ON_ITS_WAY or record.intent is not None or not record.target:
            return
        txn = Txn()
        self._store.records.expect(txn, key, stored)
        self._store.launch_queue.remove(txn, record.target, key)
        self._store.look_ups.add(txn, record.target, key, self._store.now())
        await self._store.commit(txn)

    async def _adopt(self, instance: Instance, user: str | None) -> bool:
        """Make the record of a machine; whether it was needed. A record that changes meanwhile is read again."""
        name = instance.name
        assert name is not None
        key, generation = name
        while True:
            stored = await self._store.records.read_one(key)
            now, txn = self._store.now(), Txn()
            record = stored.value
            if stored.rev is not None and record is None:
                return False  # the record was written by another version of Puter
            older = record is not None and record.phase in ENDED and record.generation < generation
            if record is not None and not older and (record.phase not in ON_ITS_WAY or record.intent is not None):
                return False  # the machine is known, or its intent's outcome will be found out
            bare = found_record(instance, self._target, now) if older or record is None else record
            if bare is None:
                return False
            if older and record is not None:
                bare = bare.replace(request_number=record.request_number)
            (spec,) = await self._store.records.specs([key]) if bare is record else [None]
            of_it = bare.replace(
                generation=generation,
                labelled=is_labelled(instance.tags),
                ssh_user=(spec.ssh_user if spec else None) or user or bare.ssh_user,
            )
            allowed = self._target.rules.of(key.namespace)
            adoption = adopted(of_it, spec, instance, self._target.target_id, now, self._timings, allowed=allowed)
            put_adopted(self._store, txn, stored, adoption, tells=bare is record)
            waits_in = bare.target or str(self._target)  # it may have been requested for another target
            self._store.launch_queue.remove(txn, waits_in, key)
            self._store.look_ups.remove(txn, waits_in, key)
            if not await self._store.commit(txn):
                return True


def launches_since(ended: Iterable[Instance], since: float) -> dict[str, dict[str, float]]:
    """The launches of these machines after a moment, by namespace and name: when each was. Pure.

    Where EC2 does not tell (any more) which key a machine was for, its launch has the instance's id as name.
    """
    launches: dict[str, dict[str, float]] = {}
    for one in ended:
        namespace, at, name = namespace_of(one.tags), one.launch_time, one.name
        if namespace is not None and at is not None and at > since:
            of_key = None if name is None else launch_name(name[0].tag, name[1])
            launches.setdefault(namespace, {})[of_key or one.instance_id] = at
    return launches


def found_record(instance: Instance, target: Target, now: float) -> Record | None:
    """The record of a machine that only EC2 knows, made from its tags; None if they name no key."""
    name = instance.name
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
