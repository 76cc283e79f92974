"""Records: what is published about a key, and the sets that a key is in because of its record's phase."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import ENDED, LIVE, Phase
from puter_client.contract.record import Event, EventKind, Record
from puter_client.contract.spec import Spec
from puter_client.contract.transitions import check_transition
from puter_client.store import names as public
from puter_worker.store import names
from puter_worker.store.batches import Batches
from puter_worker.store.database import Database
from puter_worker.store.failures import Failures
from puter_worker.store.labels import Labels
from puter_worker.store.machines import Machines
from puter_worker.store.on_its_way import OnItsWay
from puter_worker.store.orders import Orders
from puter_worker.store.results import Results
from puter_worker.store.row_shares import DAY_S
from puter_worker.store.txn import Txn
from puter_worker.store.usage import Usage
from puter_worker.store.versioned import Versioned, decode, encode, next_rev

KEEP_EVENTS = 200


class Records:
    """Reads and guarded writes of records and of the specs that they serve."""

    def __init__(
        self,
        db: Database,
        *,
        machines: Machines,
        labels: Labels,
        results: Results,
        orders: Orders,
        on_its_way: OnItsWay,
        batches: Batches,
        failures: Failures,
        usage: Usage,
    ) -> None:
        self._db = db
        self._machines = machines
        self._labels = labels
        self._results = results
        self._orders = orders
        self._on_its_way = on_its_way
        self._batches = batches
        self._failures = failures
        self._usage = usage

    async def read(self, keys: Sequence[PuterKey]) -> list[Versioned[Record | None]]:
        """Records with their revisions, in the order of the keys."""
        return [
            Versioned(decode(doc, Record, public.record(key)), rev)
            async for some in self._db.read(keys, public.record, "rev", "doc")
            for key, (rev, doc) in some
        ]

    async def read_one(self, key: PuterKey) -> Versioned[Record | None]:
        """One record with its revision."""
        return (await self.read([key]))[0]

    async def specs(self, keys: Sequence[PuterKey]) -> list[Spec | None]:
        """The specs that the keys' records serve, in the order of the keys."""
        return [
            decode(raw, Spec, names.spec(key)) async for some in self._db.read(keys, names.spec) for key, (raw,) in some
        ]

    def put_spec(self, txn: Txn, key: PuterKey, spec: Spec) -> None:
        """Store the spec that the key's record serves from now on."""
        txn.do("SET", names.spec(key), encode(spec), "EX", self._db.timings.keep_s)

    def expect(self, txn: Txn, key: PuterKey, as_read: Versioned[Record | None]) -> int:
        """Guard: the key's record is still as it was read."""
        return txn.expect(public.record(key), "rev", as_read.rev)

    def renew(self, txn: Txn, record: Record) -> None:
        """Extend the life of what is kept of a key whose machine is alive: it may live for longer than `keep_s`."""
        key, keep_s = record.key, self._db.timings.keep_s
        for name in (public.record(key), public.events(key), names.spec(key)):
            txn.keep(name, keep_s + max(0, (record.ttl_s or 0)))
        self._batches.renew(txn, record)

    async def observed_at(self, keys: Iterable[PuterKey]) -> dict[PuterKey, float]:
        """When EC2 last showed the machines of these keys, if it has; seconds of Redis TIME."""
        by_namespace: dict[str, list[PuterKey]] = {}
        for key in keys:
            by_namespace.setdefault(key.namespace, []).append(key)
        found: dict[PuterKey, float] = {}
        for namespace, of_it in by_namespace.items():
            raws = await self._db.redis.hmget(public.observed(namespace), [key.tag for key in of_it])
            found |= {key: float(raw) for key, raw in zip(of_it, raws, strict=True) if raw is not None}
        return found

    def put_observed(self, txn: Txn, keys: Iterable[PuterKey], now: float) -> None:
        """Note that EC2 has just shown the machines of these keys, and that nothing about them has changed.

        It becomes one command for many machines: otherwise a quiet worker would spend most of its time writing records.
        """
        for key in keys:
            txn.do("HSET", public.observed(key.namespace), key.tag, now)
            txn.keep(public.observed(key.namespace), self._db.timings.keep_s)

    def put(
        self,
        txn: Txn,
        old: Versioned[Record | None],
        new: Record,
        *,
        event: EventKind | None = None,
        request_id: str | None = None,
        detail: Mapping[str, str] | None = None,
        through: Sequence[Record] = (),
    ) -> Versioned[Record]:
        """Write a record if it has not changed since it was read, with its indexes, its timeline and its channel.

        `through`: the records in between, if several changes are written as one. Returns the record as it is after the
        transaction. Only here does a phase decide which sets a key is in, and is a transition checked against the
        contract.

        Raises:
            IllegalTransition: the contract does not allow the change: a defect.
        """
        before = old.value
        for after in (*through, new):
            check_transition(before, after)
            before = after
        key, rev, keep_s = new.key, next_rev(old.rev), self._db.timings.keep_s
        self.expect(txn, key, old)
        txn.do("HSET", public.record(key), "doc", encode(new), "rev", rev)
        txn.keep(public.record(key), keep_s + max(0, (new.ttl_s or 0)))
        txn.keep(public.events(key), keep_s)
        self._orders.follow(txn, old.value, new)
        self._failures.follow(txn, old.value, new)
        self._usage.follow(txn, old.value, new)
        if event is not None or old.value is None or old.value.phase is not new.phase:
            self._put_in_sets(txn, old.value, new)
            self._batches.put_member(txn, new)
            if event is not None:
                self._put_event(txn, key, new, event, request_id, detail or {})
            txn.once("PUBLISH", public.channel(new.namespace), new.tag)
        return Versioned(new, str(rev).encode())

    def put_refusal(self, txn: Txn, key: PuterKey, record: Record | None, reason: str, now: float) -> None:
        """Note in a key's timeline that a request for it was refused; the record, if there is one, stays as it is.

        Of a key without a record the note is kept for a day. How many are written is up to the caller.
        """
        line = Event(
            at=now,
            event=EventKind.REQUEST_REFUSED,
            generation=record.generation if record else 1,
            phase=record.phase if record else Phase.FAILED,
            reason=reason,
        )
        self._push_event(txn, key, line)
        txn.keep(public.events(key), self._db.timings.keep_s if record else DAY_S)

    def _put_event(
        self,
        txn: Txn,
        key: PuterKey,
        record: Record,
        event: EventKind,
        request_id: str | None,
        detail: Mapping[str, str],
    ) -> None:
        line = Event(
            at=record.changed_at,
            event=event,
            generation=record.generation,
            phase=record.phase,
            reason=record.reason,
            request_id=request_id,
            detail=dict(detail),
        )
        self._push_event(txn, key, line)

    def _push_event(self, txn: Txn, key: PuterKey, line: Event) -> None:
        txn.do("RPUSH", public.events(key), encode(line))
        txn.do("LTRIM", public.events(key), -KEEP_EVENTS, -1)

    def _put_in_sets(self, txn: Txn, old: Record | None, new: Record) -> None:
        if old is not None and old.phase is new.phase:
            return
        index = public.index(new.namespace)
        txn.do("ZADD", index, new.changed_at if new.phase in ENDED else "+inf", new.tag)
        txn.keep(index, self._db.timings.keep_s)
        self._on_its_way.follow(txn, old, new)
        if new.target and (new.phase in LIVE or new.phase is Phase.TERMINATED):
            self._results.follow(txn, new)
        if new.target and new.phase in LIVE:
            self._machines.put(txn, new)
            if not new.labelled:
                self._labels.add(txn, new)
        elif old and old.target and old.phase in LIVE:
            self._machines.remove(txn, old)
            self._labels.remove(txn, old)
            txn.do("HDEL", public.observed(old.namespace), old.tag)
