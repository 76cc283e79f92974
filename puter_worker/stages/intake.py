"""intake: takes requests from the inboxes, decides the outcome of each, and puts new ones into the queue.

May run twice, in any number of workers: one transaction trims the inbox and writes the outcomes. Its guard is the
number of times that the inbox was taken from, so if two intakes read the same requests, only one writes. If it is
killed before this transaction, nothing has happened (its short lock on the inbox runs out); after it, everything is
done. Decisions may be based on records that are a moment old: a record is written only if it has not changed.

Who sent a request is said by the name of the inbox, which Redis lets nobody else write to; what the request itself says
counts only where the name says nothing. What a user has written who was removed since is refused.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import structlog

from puter_client.contract.errors import InvalidInput
from puter_client.contract.inbox import Inbox
from puter_client.contract.key import PuterKey
from puter_client.contract.request import ConsoleRequest, ExtendRequest, Request, StopRequest
from puter_client.contract.userdata import texts_read
from puter_worker.metrics import NO_METRICS, Metrics
from puter_worker.policy import Rules
from puter_worker.stages.cuts import Cuts
from puter_worker.stages.decode import decode_request
from puter_worker.stages.draft import Draft, decide_parked
from puter_worker.stages.refused import Refused
from puter_worker.stages.stage import Stage
from puter_worker.store import wakeups
from puter_worker.store.database import is_wrong_type
from puter_worker.store.requests import READY_AT_ONCE, TAKE_REQUESTS
from puter_worker.store.store import Store
from puter_worker.tasks import in_slices
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.intake")
# Nothing is launched for these, so they need not wait until EC2 has confirmed the machine.
_OF_WHAT_RUNS = (StopRequest, ExtendRequest, ConsoleRequest)
_READY_SET = "(ready set)"
_NO_INBOX = "not an inbox"
# A name whose requests were taken is removed from the ready set too: a few at a time are no flood.
_MANY_NAMES = 100
_READS = 20
# With fewer requests in each transaction, most of its time would go into round trips.
_LEAST_SHARE = 20
# Of user data that was not read before, each may take 2 ms: so much of it is read in one turn of a namespace.
USER_DATA_AT_ONCE = 25
# Other stages have their turn after so many bytes of requests: some 50 ordinary ones, or two with user data.
TURN_BYTES = 32_768


class Intake(Stage):
    """Takes requests from the inboxes of all users, a limited number of each namespace in every run."""

    name = "intake"
    topics = frozenset({wakeups.REQUESTS})
    least_gap_s = 0.02  # a client may publish without end

    def __init__(
        self, store: Store, timings: Timings, *, rules: Rules | None = None, metrics: Metrics = NO_METRICS
    ) -> None:
        """`rules`: the workers' policy; None: all is allowed."""
        super().__init__()
        self._rules = rules or Rules()
        self._store = store
        self._timings = timings
        self._refused = Refused(store.db.clock, metrics)
        self._cuts = Cuts(store, timings, self._refused)
        self._cursor = 0  # where the next part of the ready set begins
        self._seen: set[str] = set()  # namespaces and inboxes in the parts since the first one
        self._served: dict[str, int] = {}  # namespaces and inboxes with requests → number of their latest turn
        self._turn = 0

    async def run_once(self) -> float:
        """Take some TAKE_REQUESTS requests of a part of the ready set: namespaces share them, and in each its users."""
        for namespace, sums in self._rules.take_counted().items():
            self._refused.add(namespace, sums.times, sums.examples)
        self._refused.tell_due()
        names, removed = await self._ready()
        if removed >= _MANY_NAMES:
            self._refused.add(_READY_SET, {"a name without requests": removed})
        inboxes = await self._checked(names)
        look_again_s = await self._cuts.run_due(inboxes)
        users = Counter(inbox.namespace for inbox in inboxes)
        failures: list[Exception] = []
        taken, share = 0, max(_LEAST_SHARE, TAKE_REQUESTS // max(1, len(users)))
        for inbox in self._in_turns(inboxes):
            if taken >= TAKE_REQUESTS:
                break  # whoever has come meanwhile is first in the next run
            self._turn += 1
            self._served[inbox.namespace] = self._served[str(inbox)] = self._turn
            try:
                taken += await self._take_checked(inbox, max(1, share // users[inbox.namespace]))
            except Exception as error:
                if isinstance(error, self._store.errors) and not isinstance(error, self._store.refusals):
                    raise  # Redis does not answer, so the other inboxes would fail too
                failures.append(error)
        if failures:
            raise failures[0]  # the runner logs it, and pauses this stage
        # Look again at once: there may be more requests, or another intake may have taken the same ones.
        return 0.0 if names or removed or self._cursor else min(look_again_s, self._timings.sweep_s)

    def _in_turns(self, inboxes: list[Inbox]) -> list[Inbox]:
        """Whose namespace, and then who, was served longest ago comes first: few requests do not wait for many."""
        self._seen.update(name for inbox in inboxes for name in (inbox.namespace, str(inbox)))
        if not self._cursor:  # all parts were read: others have no requests
            self._served = {name: turn for name, turn in self._served.items() if name in self._seen}
            self._seen.clear()
        random.shuffle(inboxes)  # workers that start at the same one would only meet each other
        served = self._served
        return sorted(inboxes, key=lambda inbox: (served.get(inbox.namespace, 0), served.get(str(inbox), 0)))

    async def _ready(self) -> tuple[list[str], int]:
        """Names of inboxes with requests, and how many without were removed: a flood of those is cleared soon.

        What follows in the ready set comes in the next run.
        """
        names: dict[str, None] = {}
        removed, too_long = 0, 0
        for _ in range(_READS):
            part = await self._store.requests.ready(self._cursor)
            self._cursor = part.cursor
            names |= dict.fromkeys(part.names)
            removed += part.empty
            too_long += part.too_long
            if not self._cursor or len(names) >= READY_AT_ONCE:
                break
        if too_long:
            self._refused.add(_READY_SET, {_NO_INBOX: too_long})
        return list(names), removed

    async def _checked(self, names: list[str]) -> list[Inbox]:
        """The inboxes of these names; what is no inbox's name is removed from the ready set."""
        inboxes: list[Inbox] = []
        for name in names:
            try:
                inboxes.append(Inbox.parse(name))
            except InvalidInput:
                self._refused.add(_READY_SET, {_NO_INBOX: 1})
                await self._store.requests.drop_ready(name)
        return inboxes

    async def _take_checked(self, inbox: Inbox, most: int) -> int:
        """Take from one inbox; returns how many requests."""
        try:
            return await self._take(inbox, most)
        except self._store.refusals as error:
            if not is_wrong_type(error):
                raise  # a full Redis, for example: the requests stay in the inbox, and are taken later
            # A client has put something else in place of its inbox: this must not stop the others.
            _log.error("inbox.refused", namespace=inbox.namespace, user=inbox.user, error=type(error).__name__)
            await self._store.requests.drop_ready(str(inbox))
            return 0

    async def _take(self, inbox: Inbox, most: int) -> int:
        raws, count = await self._store.requests.take(inbox, most=most)
        if not raws:
            return 0
        namespace = inbox.namespace
        draft = Draft(self._store, namespace, self._rules, user=inbox.user)
        taken, seen = await self._read(raws, inbox, draft)
        self._store.requests.put_taken(draft.txn, inbox, count, seen)
        await draft.read([key for key, _ in taken], [request for _, request in taken])
        if overtaken := await draft.overtaken():
            # A key that was run again needs no word from EC2 any more; what waited for that was requested before.
            for key in overtaken:
                await decide_parked(self._store, key, self._rules)
            await self._store.requests.give_back(inbox)
            return 0
        async for key, request in in_slices(taken):
            if draft.is_repeated(request):
                continue
            if draft.must_wait(key) and not isinstance(request, _OF_WHAT_RUNS):
                draft.park(key, request)
            else:
                draft.add(key, request)
        if await draft.commit():
            _log.info("requests.taken", namespace=namespace, user=inbox.user, count=seen, outcomes=draft.outcomes)
            self._refused.add(namespace, draft.refused, draft.examples)
        else:
            # Another intake took the requests, or a record has changed: what is left is read again.
            await self._store.requests.give_back(inbox)
        return seen

    async def _read(self, raws: list[bytes], inbox: Inbox, draft: Draft) -> tuple[list[tuple[PuterKey, Request]], int]:
        """The requests that can be used, and how many were read; `draft` refuses the others of those."""
        taken: list[tuple[PuterKey, Request]] = []
        seen, size, read_before = 0, 0, texts_read()
        gone = await self._store.users.removed([inbox.user] if inbox.user is not None else [])
        for raw in raws:
            if texts_read() - read_before >= USER_DATA_AT_ONCE:
                break  # the others stay in the inbox for the namespace's next turn
            seen += 1
            size += len(raw)
            if size >= TURN_BYTES:
                size = 0
                await asyncio.sleep(0)
            if inbox.user in gone:
                draft.refuse_of_removed(raw, inbox.user)
                continue
            try:
                request = decode_request(raw, user=inbox.user)
            except InvalidInput as error:
                draft.refuse(raw, str(error))
            else:
                taken.append((PuterKey(inbox.namespace, request.tag), request))
        return taken, seen
