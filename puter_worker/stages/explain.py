"""explain: writes into records that their keys wait for EC2's rate limit, and how long. A stage of the leader.

May run twice, and on stale data: it writes only reasons and estimates, into records that have not changed since they
were read.
"""

from __future__ import annotations

from collections.abc import Callable

from puter_client.contract import transitions
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import EventKind, Record
from puter_worker.stages import plan
from puter_worker.stages.quarantine import Quarantine
from puter_worker.stages.stage import Stage
from puter_worker.store import wakeups
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.store.versioned import Versioned
from puter_worker.target import Target
from puter_worker.timings import Timings
from puter_worker.turns import take_turns

READ_AT_ONCE = 500
# Up to this many waiting keys are explained every time; if there are more, the stage runs less often.
EVERY_FOR = 2_000
MOST = 50_000
RATE_LIMIT = "waiting for EC2's API rate limit"
SHUT = "waiting until EC2 shows what Redis has forgotten"


class Explain(Stage):
    """Explains the waits in the launch queues of one target."""

    name = "explain"

    def __init__(
        self,
        store: Store,
        target: Target,
        gate: Quarantine,
        timings: Timings,
        *,
        most: int,
        busy: Callable[[PuterKey], bool] = lambda _: False,
    ) -> None:
        """`most`: machines a call; `busy`: whether a launch of a key has begun; writing its record would break it."""
        super().__init__()
        self.topics = frozenset({wakeups.launches(str(target))})
        self.least_gap_s = timings.explain_s
        self._store = store
        self._target = target
        self._gate = gate
        self._timings = timings
        self._most = most
        self._busy = busy

    async def run_once(self) -> float:
        """Explain all waits that are due to the rate limit, or to the quarantine."""
        since = self._store.now() - self._timings.explain_after_s
        queue, name = self._store.launch_queue, str(self._target)
        namespaces = await queue.namespaces(name)
        if not namespaces:
            return 10 * self._timings.explain_s  # the next key that is queued wakes this stage
        due = [
            PuterKey(namespace, tag)
            for namespace in namespaces
            # Keys that wait for a place, a quota or their batch are due later, and have a reason already.
            for tag in await queue.due(name, namespace, since, MOST)
        ]
        if due:
            await self._explain(take_turns(due, lambda key: key.namespace))
        return self._timings.explain_s * max(1.0, len(due) / EVERY_FOR)

    async def _explain(self, keys: list[PuterKey]) -> None:
        shut_s = self._gate.left_s
        reason = RATE_LIMIT if shut_s is None else SHUT
        budget = await self._target.pacer.budget()
        machines, calls = 0, plan.Calls(self._most)
        for start in range(0, len(keys), READ_AT_ONCE):
            some = keys[start : start + READ_AT_ONCE]
            told: list[tuple[Versioned[Record], Record]] = []
            records = self._store.records
            for one, spec in zip(await records.read(some), await records.specs(some), strict=True):
                current = one.found()
                if (
                    current is None
                    or spec is None
                    or current.value.phase is not Phase.LAUNCHING
                    or current.value.intent
                    or self._busy(current.value.key)  # its launch has its tokens already
                ):
                    continue
                machines += 1
                wait_s = plan.estimate_s(budget, machines=machines, calls=calls.until(plan.Waiting(current, spec)))
                if shut_s is None and wait_s < self._timings.explain_after_s:
                    continue  # the wait is short, or the rate limit is not its cause
                estimate_s = plan.rounded_up(wait_s if shut_s is None else shut_s)
                now = self._store.now()
                waiting = transitions.waiting(current.value, reason, now, estimate_s=estimate_s)
                if waiting != current.value:
                    told.append((current, waiting))
            await self._store.commit_each(told, self._put)

    def _put(self, txn: Txn, one: tuple[Versioned[Record], Record]) -> None:
        current, waiting = one
        # The timeline shows once that the key waits, not each new estimate.
        event = EventKind.LAUNCH_DELAYED if current.value.reason != waiting.reason else None
        self._store.records.put(txn, current, waiting, event=event)
