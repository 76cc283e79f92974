"""Writes what EC2 shows of living machines into their records.

May run twice, and on stale data: a record only moves forward, and is written only if it has not changed since it was
read. If it is killed before it frees a quota, the quota is tried again within a minute anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import ENDED, LIVE, Phase
from puter_client.contract.record import EventKind, Record
from puter_worker.ec2.instances import Instance
from puter_worker.stages.backoffs import after_an_end, is_of_quota
from puter_worker.stages.decide import Adoption
from puter_worker.stages.facts import gone, with_instance
from puter_worker.store import wakeups
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.confirm")
GONE_AFTER_LOOKS = 3
_EVENTS = {
    Phase.PENDING: EventKind.INSTANCE_PENDING,
    Phase.RUNNING: EventKind.INSTANCE_RUNNING,
    Phase.TERMINATED: EventKind.INSTANCE_TERMINATED,
    Phase.FAILED: EventKind.INSTANCE_FAILED,
}


class Confirm:
    """Writes what EC2 shows of one target's machines into their records."""

    def __init__(self, store: Store, target: Target, timings: Timings) -> None:
        self._store = store
        self._target = target
        self._timings = timings

    async def carry_over(
        self, living: Sequence[Versioned[Record]], shown: Mapping[str, Instance], *, asked_at: float
    ) -> list[Versioned[Record]]:
        """Update the records of living machines with what EC2 shows (`shown`: by instance id).

        `asked_at`: when it was asked, see `Absences.asked`.
        A record that has changed since it was read is read again. Returns all records as they are afterwards.
        """
        now = self._store.now()
        missing = [one.value.key for one in living if one.value.instance_id not in shown]
        observed_at = await self._store.records.observed_at(missing) if missing else {}
        same: list[Versioned[Record]] = []
        after: list[Versioned[Record]] = []
        left = list(living)
        while left:
            changed: list[tuple[Versioned[Record], Record]] = []
            for one in left:
                seen = self._seen(one.value, shown, observed_at.get(one.value.key), now, asked_at)
                if is_new(one.value, seen):
                    changed.append((one, seen))
                else:
                    same.append(one)
            written = await self._write(changed)
            after += written.values()
            moved_on = [one.value.key for one, _ in changed if one.value.key not in written]
            read = [current for one in await self._store.records.read(moved_on) if (current := one.found()) is not None]
            left = [one for one in read if one.value.phase in LIVE]
        seen_again = [one.value.key for one in same if one.value.instance_id in shown]
        if seen_again:
            txn = Txn()
            self._store.records.put_observed(txn, seen_again, now)
            await self._store.commit(txn)
        return [*same, *after]

    def _seen(
        self, record: Record, shown: Mapping[str, Instance], observed_at: float | None, now: float, asked_at: float
    ) -> Record:
        """The record updated with what EC2 shows, or no longer shows; the same record if that means nothing."""
        instance = shown.get(record.instance_id or "")
        if instance is not None:
            self._target.absences.shown(instance.instance_id)
            return with_instance(record, instance, self._target.target_id, now, self._timings)
        absences = self._target.absences
        absent = absences.missed(record.instance_id or "", looks=GONE_AFTER_LOOKS, asked_at=asked_at)
        seen_at = max(record.observed_at or 0.0, observed_at or 0.0)
        unseen_s = self._store.db.clock.age(seen_at) if seen_at else 0.0
        return gone(record, now, unseen_s=unseen_s, absent=absent, timings=self._timings) or record

    async def _write(self, changed: Sequence[tuple[Versioned[Record], Record]]) -> dict[PuterKey, Versioned[Record]]:
        """Write changed records; returns by key those that were written, as they are now."""
        after: dict[PuterKey, Versioned[Record]] = {}

        def put(txn: Txn, one: tuple[Versioned[Record], Record]) -> None:
            old, new = one
            after[new.key] = self._store.records.put(txn, old, new, event=_event(old.value, new))

        written = await self._store.commit_each(changed, put)
        for old, new in written:
            if (event := _event(old.value, new)) is not None:
                _log.info(
                    event.value,
                    namespace=new.namespace,
                    tag=new.tag,
                    generation=new.generation,
                    instance_id=new.instance_id,
                    reason=new.reason,
                )
        if any(new.phase in ENDED for _, new in written):
            await self._free_quota()
        return {new.key: after[new.key] for _, new in written}

    async def _free_quota(self) -> None:
        """A machine has ended, so there is room under its quota: keys that wait for the quota try again."""
        txn, target = Txn(), str(self._target)
        for name, backoff in (await self._store.backoffs.read(target)).items():
            if is_of_quota(name):
                self._store.backoffs.put(txn, target, name, after_an_end(backoff, self._timings))
        if txn:
            txn.wake(wakeups.launches(target))
            await self._store.commit(txn)


def is_new(record: Record, seen: Record) -> bool:
    """Whether EC2 shows anything new about a machine, apart from the time at which it was seen. Pure."""
    return seen.replace(observed_at=record.observed_at) != record


def put_adopted(store: Store, txn: Txn, old: Versioned[Record | None], adoption: Adoption, *, tells: bool) -> None:
    """Write the record of a machine that was found. `tells`: whether a request waits, whose batch gets a row."""
    record = adoption.record
    detail = {"instance": record.instance_id or ""}
    if adoption.notice:
        detail["notice"] = adoption.notice
    store.records.put(txn, old, record, event=EventKind.INSTANCE_FOUND, detail=detail)
    if adoption.spec is not None:
        store.records.put_spec(txn, record.key, adoption.spec)
    if tells and record.batch_id and record.phase in LIVE:
        store.batches.put_row(txn, record.key, record.batch_id, adoption.row)


def _event(old: Record, new: Record) -> EventKind | None:
    if new.phase is not old.phase:
        return _EVENTS[new.phase]
    return EventKind.INSTANCE_OVERDUE if new.overdue and not old.overdue else None
