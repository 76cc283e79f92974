"""Decides requests in one transaction: for intake when they come, and later for those that were parked.

Each record that they change is written only if it has not changed since it was read. The caller adds a guard of its own
(how often the inbox was taken from, or the length of the parked list), so no request is decided twice.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import msgspec

from puter_client.contract import transitions
from puter_client.contract.batch import BatchInfo, BatchRow
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import PuterKey
from puter_client.contract.order import OrderKind, OrderRefusal
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import LIVE, ON_ITS_WAY
from puter_client.contract.record import EventKind, Record
from puter_client.contract.request import (
    CancelRequest,
    ConsoleRequest,
    ExtendRequest,
    Origin,
    Request,
    StopRequest,
    UpRequest,
)
from puter_client.contract.spec import Spec
from puter_client.policy.names import RECORDS, REQUESTS
from puter_client.policy.rule import Refusal
from puter_worker.policy import Rules, reason_of
from puter_worker.stages.admission import Admission
from puter_worker.stages.cancelled import put_cancelled
from puter_worker.stages.decide import after_cancel, decide, has_console, may_be_cancelled, must_be_confirmed, ordered
from puter_worker.stages.decode import addressee_of, decode_request, parked, read_parked
from puter_worker.stages.removed import why_removed
from puter_worker.stages.rows import TOO_MANY, Rows
from puter_worker.store.failures import BatchLimit
from puter_worker.store.ingress import IngressRule
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned

_ORDER_S = 1e-6
_UNREADABLE = "its record is of another version of Puter: use another tag, or run workers of the version that wrote it"


class Draft:
    """One transaction that is being composed: the new records, and the old ones as they were read.

    `user`: who has sent the requests, if Redis vouches for it; None goes by what each of them says.

    Attributes:
        txn: the transaction; the caller may add its own guards.
        outcomes: how many requests had which outcome.
        refused: how many requests were refused for which reason.
        examples: a whole sentence for each reason that is a rule of the policy.
    """

    def __init__(self, store: Store, namespace: str, rules: Rules, *, user: str | None = None) -> None:
        """`rules`: the workers' policy; `user`: who sent the requests, if Redis vouches for it."""
        self.txn = Txn()
        self.outcomes: dict[str, int] = {}
        self.refused: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._store = store
        self._namespace = namespace
        self._admission = Admission(store, rules, namespace)
        self._user = user
        self._now = store.now()
        self._decided = 0
        self._ordered: set[PuterKey] = set()  # whose last change is an order
        self._not_allowed: set[PuterKey] = set()  # whose last change is an order that was refused
        self._read: dict[PuterKey, Versioned[Record | None]] = {}
        self._served: dict[PuterKey, Spec | None] = {}
        self._new: dict[PuterKey, list[Record]] = defaultdict(list)  # what the requests make of it, one by one
        self._over: set[BatchLimit] = set()  # batches of which nothing is launched any more
        self._open: set[BatchLimit] = set()  # those that rest on a guard
        self._rows = Rows(store, namespace, user)

    async def read(self, keys: Sequence[PuterKey], requests: Sequence[Request]) -> None:
        """Read what is needed to decide these requests for these keys."""
        distinct, records = list(dict.fromkeys(keys)), self._store.records
        self._read = dict(zip(distinct, await records.read(distinct), strict=True))
        known = [key for key, stored in self._read.items() if stored.value is not None]
        self._served = dict(zip(known, await records.specs(known), strict=True))
        ups = [one for one in requests if isinstance(one, UpRequest)]
        limits = [self._limit(one) for one in ups]
        self._over = await self._store.failures.reached(one for one in limits if one is not None)
        await self._rows.read(ups)
        await self._admission.read()

    async def overtaken(self) -> list[PuterKey]:
        """Keys whose parked requests would be decided after these, though they were made before."""
        known = [key for key, stored in self._read.items() if stored.value is not None and not self.must_wait(key)]
        return [key for key, count in (await self._store.requests.parked_counts(known)).items() if count]

    def is_repeated(self, request: Request) -> bool:
        """Whether the request has come before: a client whose connection breaks sends again what may have arrived.

        Its tag's machine may have ended in between: decided again, `up` and `--again` would launch another one.
        """
        if not isinstance(request, UpRequest) or not self._rows.is_there(request.batch, request.tag):
            return False
        self._count("repeated")
        return True

    def _limit(self, request: UpRequest) -> BatchLimit | None:
        return BatchLimit.of_request(self._namespace, request)

    def _record(self, key: PuterKey) -> Record | None:
        """The key's record after the requests that were decided so far."""
        return self._new[key][-1] if key in self._new else self._read[key].value

    def must_wait(self, key: PuterKey) -> bool:
        """Whether EC2 must confirm the key's record before a request is decided."""
        return must_be_confirmed(self._record(key))

    def park(self, key: PuterKey, request: Request) -> None:
        """Park the request until EC2 has confirmed the key's record, and have the key looked up.

        Who has sent it is kept with it, so that it is known later too.
        """
        if isinstance(request, UpRequest):
            if not self._rows.has_room(request):
                self._refuse_too_many(key, request)
                return
            self._put_row(key, request, BatchRow())
        self._store.requests.park(self.txn, key, parked(request, self._user), self._now)
        self._store.records.expect(self.txn, key, self._read[key])  # what has ended meanwhile needs no look
        record = self._record(key)
        if record is not None and record.target:
            self._store.look_ups.add(self.txn, record.target, key, self._now)
        else:
            self._store.jobs.enqueue(self.txn, key)
        self._count("parked")

    def add(self, key: PuterKey, request: Request, *, vouched: bool | None = None) -> None:
        """Decide one request. `vouched`: whether Redis vouches for who sent it; None: as for all of the draft."""
        stored = self._read[key]
        if stored.rev is not None and stored.value is None:
            # The record does not decode: its machine may exist, so nothing is launched.
            self.refused[_UNREADABLE] += 1
            self._count(Outcome.REFUSED)
            if isinstance(request, UpRequest):
                self._refuse(key, request, _UNREADABLE)
        elif isinstance(request, CancelRequest):
            self._cancel(key, request)
        elif isinstance(request, StopRequest | ExtendRequest):
            self._order(key, request)
        elif isinstance(request, ConsoleRequest):
            self._console(key, request)
        else:
            self._up(key, request, vouched=self._user is not None if vouched is None else vouched)

    def _cancel(self, key: PuterKey, request: CancelRequest) -> None:
        changed = after_cancel(self._record(key), request, self._now)
        self._count("cancel" if changed else "cancel too late")
        if changed is None:
            return
        self._new[key].append(changed)
        put_cancelled(self._store, self.txn, changed)

    def _order(self, key: PuterKey, request: StopRequest | ExtendRequest) -> None:
        record = self._record(key)
        if isinstance(request, StopRequest) and (record is None or may_be_cancelled(record)):
            self._cancel(key, CancelRequest(tag=request.tag, user=request.user, batch=request.batch))
            return
        order = ordered(record, request, self._now)
        self._count("order" if order else "order too late")
        if record is None or order is None:
            return
        if order.kind is OrderKind.EXTEND:
            refusal = self._admission.admit_end(record, order.expires_at, self._now)
            if refusal is not None:
                self._not_allowed_by(refusal)
                refused = OrderRefusal(self._now, str(refusal))
                self._new[key].append(record.replace(order_refusal=refused))
                self._not_allowed.add(key)
                return
        self._new[key].append(record.replace(order=order))
        self._ordered.add(key)

    def _console(self, key: PuterKey, request: ConsoleRequest) -> None:
        record = self._record(key)
        if record is None or not has_console(record, request):
            self._count("console of no machine")
            return
        self._store.consoles.ask(self.txn, record, self._now)
        self._count("console")

    def _up(self, key: PuterKey, request: UpRequest, *, vouched: bool) -> None:
        served = self._served.get(key)
        # The requests of one transaction keep their order: it decides who is launched first under max_parallel.
        self._decided += 1
        now, before = self._now + self._decided * _ORDER_S, self._record(key)
        decision = decide(before, served, request, key, now)
        if (refusal := self._admission.admit(before, request, decision, now)) is not None:
            self._not_allowed_by(refusal)
            self._count(Outcome.REFUSED)
            of_a_flood = refusal.rule in (REQUESTS, RECORDS)  # nobody asks why of each of its tags

            def put_line(txn: Txn, why: str) -> None:
                self._store.records.put_refusal(txn, key, before, why, now)

            self._refuse(key, request, str(refusal), put_line=None if of_a_flood else put_line)
            return
        if not self._rows.has_room(request):
            self._refuse_too_many(key, request)
            return
        if decision.record is not None:
            created = self._admission.with_profile(decision.record).replace(vouched=vouched)
            decision = msgspec.structs.replace(decision, record=created)
        self._put_row(key, request, decision.row)
        if decision.record is not None and (limit := self._limit(request)) is not None:
            if limit in self._over:
                self._cancel_over(key, request, decision.record, limit)
                return
            if limit not in self._open:
                self._open.add(limit)
                self._store.failures.expect_not_reached(self.txn, limit)
        outcome = decision.row.outcome
        self._count(str(outcome))
        if (record := decision.record or decision.changed) is not None:
            self._new[key].append(record)
            self._served[key] = spec = decision.spec or request.spec
            self._store.records.put_spec(self.txn, key, spec)
            if record.order is not None and record.order.given_at == now:
                self._ordered.add(key)
        if decision.record or (decision.changed and decision.changed.phase in ON_ITS_WAY):
            self._store.jobs.enqueue(self.txn, key)  # a stage that has just read it loses its race
        if outcome in (Outcome.EXISTING, Outcome.JOINED) and before is not None and before.phase in ON_ITS_WAY | LIVE:
            # What has ended lets nobody in; the rule would be added to the key's next machine, which the policy was not
            # asked about.
            self._let_in(key, request, outcome, served)

    def _cancel_over(self, key: PuterKey, request: UpRequest, record: Record, limit: BatchLimit) -> None:
        """Cancel a request that comes after too many of its batch have failed."""
        cancelled = transitions.cancelled(record, limit.owner, record.created_at, why=limit.reason)
        self._new[key] += [record, cancelled]
        self._store.records.put_spec(self.txn, key, request.spec)
        self._served[key] = request.spec
        put_cancelled(self._store, self.txn, cancelled, limit.reason)
        self._count(Outcome.CANCELLED)

    def _let_in(self, key: PuterKey, request: UpRequest, outcome: Outcome, served: Spec | None) -> None:
        """Add ingress rules for addresses that the machine does not let in yet."""
        cidrs = set(request.spec.ssh_from)
        # `up` is for a user who is about to sign in: the rule also restores a security group that somebody has removed.
        up_again = outcome is Outcome.EXISTING and request.origin is Origin.UP
        if not up_again:
            cidrs -= set(served.ssh_from if served else ())
        if cidrs or up_again:
            rule = IngressRule(key.namespace, key.tag, tuple(sorted(cidrs)))
            self._store.ingress.add(self.txn, rule, self._now)

    def refuse(self, raw: bytes, why: str) -> None:
        """Refuse a request that cannot be used; if its batch can be read, the batch gets a row with the reason."""
        self.refused[why] += 1
        to = addressee_of(raw)
        if to is None:
            return
        key = PuterKey(self._namespace, to.tag)
        info = BatchInfo(
            batch_id=to.batch,
            namespace=self._namespace,
            size=to.size,
            owner=self._user or to.user,
            created_at=self._now,
        )
        self._rows.refuse(key, info, why)

    def refuse_of_removed(self, raw: bytes, user: str) -> None:
        """Refuse a request whose user has no right to anything any more."""
        self.refuse(raw, why_removed(user))

    async def commit(self) -> bool:
        """Write what was decided, with guards on all records that were read; returns whether it was written."""
        for key, (*through, record) in self._new.items():
            event = EventKind.REQUEST_CANCELLED if record.ended_at else EventKind.REQUEST_ACCEPTED
            detail = {"batch": record.batch_id or "", "owner": record.owner or ""}
            if key in self._ordered and record.order is not None:
                event, detail = EventKind.ORDER_GIVEN, {"order": record.order.kind.value, "user": record.order.user}
            if key in self._not_allowed and key not in self._ordered and record.order_refusal is not None:
                event, detail = EventKind.ORDER_REFUSED, {"why": record.order_refusal.why}
            self._store.records.put(self.txn, self._read[key], record, event=event, detail=detail, through=through)
        if left_out := await self._rows.finish(self.txn):
            self.outcomes["not kept"] = left_out
        self._admission.expect(self.txn)
        return not await self._store.commit(self.txn)

    def _put_row(self, key: PuterKey, request: UpRequest, row: BatchRow) -> None:
        self._rows.put(self.txn, key, self._info(request), row)

    def _refuse(
        self, key: PuterKey, request: UpRequest, why: str, *, put_line: Callable[[Txn, str], None] | None = None
    ) -> None:
        self._rows.note(request.batch, key.tag)
        self._rows.refuse(key, self._info(request), why, put_line=put_line)

    def _refuse_too_many(self, key: PuterKey, request: UpRequest) -> None:
        self.refused[TOO_MANY] += 1
        self._count(Outcome.REFUSED)
        self._refuse(key, request, TOO_MANY)

    def _info(self, request: UpRequest) -> BatchInfo:
        return BatchInfo(
            batch_id=request.batch,
            namespace=self._namespace,
            size=request.size,
            owner=request.user,
            created_at=self._now,
        )

    def _not_allowed_by(self, refusal: Refusal) -> None:
        why = reason_of(refusal)
        self.refused[why] += 1
        self.examples.setdefault(why, str(refusal))

    def _count(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1


async def decide_parked(store: Store, key: PuterKey, rules: Rules, *, most: int | None = None) -> None:
    """Decide the parked requests of a key, after EC2 has confirmed the key's record as far as it can.

    `rules`: the workers' policy; `most`: only so many of them, the oldest first; None is all. May run twice: if two
    workers read the same requests, the second one's transaction fails, and it reads again.
    """
    left = most
    while left is None or left > 0:
        raws, rest = await store.requests.parked(key, most=left)
        if not raws:
            return
        waiting = [read_parked(raw) for raw in raws]
        gone = await store.users.removed({one.user for one in waiting if one.user is not None})
        draft = Draft(store, key.namespace, rules)
        requests: list[tuple[Request, bool]] = []
        for one in waiting:
            raw = bytes(one.request)
            if one.user in gone:
                draft.refuse_of_removed(raw, one.user)
                continue
            try:
                requests.append((decode_request(raw), one.user is not None))
            except InvalidInput as error:  # parked by a worker of another version
                draft.refuse(raw, str(error))
        await draft.read([key], [request for request, _ in requests])
        store.requests.remove_parked(draft.txn, key, raws, rest=rest)
        for request, vouched in requests:
            draft.add(key, request, vouched=vouched)
        if not await draft.commit():
            continue
        for why, times in draft.refused.items():
            rules.count(key.namespace, why, times, example=draft.examples.get(why))
        left = None if left is None else left - len(raws)
