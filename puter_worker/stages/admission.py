"""What a policy lets in of the requests of one namespace. The counts are those of the transaction that decides them."""

from __future__ import annotations

from puter_client.contract.phase import ENDED, LIVE, ON_ITS_WAY
from puter_client.contract.record import Record
from puter_client.contract.request import UpRequest
from puter_client.policy.names import DEFAULT_PROFILE, RECORDS, REQUESTS
from puter_client.policy.policy import MACHINE, Allowed
from puter_client.policy.rule import About, Asked, Refusal
from puter_worker.policy import Rules
from puter_worker.stages.decide import Decision
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn

_EXISTS = frozenset({About.ACCESS})


class Admission:
    """Asks the policy about the requests of one transaction."""

    def __init__(self, store: Store, rules: Rules, namespace: str) -> None:
        self._store = store
        self._namespace = namespace
        self._allowed = rules.of(namespace)
        self._waiting = self._records = 0
        self._new_waiting: set[str] = set()
        self._new_records: set[str] = set()

    async def read(self) -> None:
        """Read how much the namespace has."""
        allowed = self._allowed
        if allowed is not None and any(allowed.limit(rule) is not None for rule in (REQUESTS, RECORDS)):
            self._waiting, self._records = await self._store.usage.requests(self._namespace)

    def admit(self, old: Record | None, request: UpRequest, decision: Decision, now: float) -> Refusal | None:
        """Take a request in, or say what is not allowed; `old`: the key's record before it."""
        if self._allowed is None:
            return None
        return self._refusal(self._allowed, old, request, decision, now)

    def admit_end(self, record: Record, expires_at: float | None, now: float) -> Refusal | None:
        """Whether a machine may be told to end then (None: never): its whole life counts, from its launch."""
        if self._allowed is None:
            return None
        life_s = None if expires_at is None else round(expires_at - (record.launched_at or now))
        return next(iter(self._allowed.refusals_of_life(life_s)), None)

    def with_profile(self, record: Record) -> Record:
        """The record of a new request, with the profile that the policy names for those that name none."""
        if self._allowed is None or record.profile is not None:
            return record
        return record.replace(profile=self._allowed.values[DEFAULT_PROFILE])

    def expect(self, txn: Txn) -> None:
        """Add guards: others have not taken the places that these requests take."""
        if self._allowed is None:
            return
        usage = self._store.usage
        if self._new_waiting and (most := self._allowed.limit(REQUESTS)) is not None:
            usage.expect_waiting(txn, self._namespace, most=most, more=len(self._new_waiting))
        if self._new_records and (most := self._allowed.limit(RECORDS)) is not None:
            usage.expect_records(txn, self._namespace, most=most, more=len(self._new_records))

    def _refusal(
        self, allowed: Allowed, old: Record | None, request: UpRequest, decision: Decision, now: float
    ) -> Refusal | None:
        spec = request.spec
        asked = Asked(spec=spec, profile=allowed.profile_of(spec), region=spec.region)
        if decision.record is None:
            if old is None or old.phase not in ON_ITS_WAY | LIVE:
                return None  # nothing is done
            refused = allowed.refusals(asked, _EXISTS)
            changed = decision.changed
            if not refused and changed is not None and (changed.order != old.order or changed.ttl_s != old.ttl_s):
                refused = allowed.refusals_of_life(_life_of(changed, now))
            return next(iter(refused), None)
        if refused := allowed.refusals(asked, MACHINE):
            return refused[0]
        return self._take_places(allowed, request.tag, old)

    def _take_places(self, allowed: Allowed, tag: str, old: Record | None) -> Refusal | None:
        waits = tag not in self._new_waiting and (old is None or old.phase in ENDED)
        is_new = tag not in self._new_records and old is None
        most = allowed.limit(REQUESTS)
        if waits and most is not None and self._waiting + len(self._new_waiting) >= most:
            return allowed.refusal(REQUESTS, f"one more than {most:,} requests that wait for their machine")
        most = allowed.limit(RECORDS)
        if is_new and most is not None and self._records + len(self._new_records) >= most:
            return allowed.refusal(RECORDS, f"one more than {most:,} tags of which a record is kept")
        if waits:
            self._new_waiting.add(tag)
        if is_new:
            self._new_records.add(tag)
        return None


def _life_of(changed: Record, now: float) -> int | None:
    """How long a machine lives in all, after a request for another ttl; None: for good."""
    if changed.order is not None and changed.order.given_at == now:
        expires_at = changed.order.expires_at
        return None if expires_at is None else round(expires_at - (changed.launched_at or now))
    return changed.ttl_s
