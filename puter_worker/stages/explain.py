"""explain: tells keys in launch queues what they wait for, mostly EC2's call budget, and for how long. A leader's loop.

May run twice, and on stale data: it writes nothing but a reason, into records that are still as they were read.
"""

from __future__ import annotations

from collections.abc import Callable

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_worker.stages import plan
from puter_worker.store.base import Kept
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target
from puter_worker.turns import take_turns

EVERY_S = 5.0
# A wait shorter than this needs no explanation.
AFTER_S = 2.0
READ_AT_ONCE = 500
# So many keys are looked through each time; more of them less often.
EVERY_FOR = 2_000
MOST = 50_000
_BUDGET = "waiting for EC2's API rate limit, about "
_SHUT = "waiting until EC2 shows what Redis has forgotten, about "


async def explain(
    store: WorkerStore,
    target: Target,
    *,
    most: int,
    shut_s: float | None = None,
    busy: Callable[[PuterKey], bool] = lambda _: False,
) -> float:
    """Explain all waits that are due to the budget, `most` machines a call; after how long to do so again.

    `shut_s`: for how long nothing of the target is launched, if so. `busy`: whether a key is being launched right now;
    to write its record would only undo that.
    """
    since = store.now() - AFTER_S
    due = [
        PuterKey(namespace, tag)
        for namespace in await store.launch_queues(str(target))
        # What waits for a place, a quota or its batch is in the launch queue from a later time on, and has its reason.
        for tag in await store.on_launch_queue(str(target), namespace, since, MOST)
    ]
    why = _BUDGET if shut_s is None else _SHUT
    budget = await target.pacer.budget()
    machines, calls = 0, plan.Calls(most)
    keys = take_turns(due, lambda key: key.namespace)
    for start in range(0, len(keys), READ_AT_ONCE):
        some = keys[start : start + READ_AT_ONCE]
        told: list[tuple[Kept[Record], Record]] = []
        for one, spec in zip(await store.records(some), await store.specs(some), strict=True):
            kept = one.kept
            if kept is None or spec is None or kept.value.phase is not Phase.LAUNCHING or kept.value.intent:
                continue
            machines += 1
            wait_s = plan.estimate_s(budget, machines=machines, calls=calls.until(plan.Waiting(kept, spec)))
            if shut_s is None and wait_s < AFTER_S:
                continue  # there is nothing to tell, or it is not the budget that it waits for
            reason = why + plan.about(wait_s if shut_s is None else shut_s)
            if kept.value.reason != reason and not busy(kept.value.key):
                told.append((kept, kept.value.replace(reason=reason, changed_at=store.now())))

        def put(txn: Txn, one: tuple[Kept[Record], Record]) -> None:
            kept, changed = one
            # Its timeline tells once that it waits, not each new estimate.
            first = not (kept.value.reason or "").startswith(why)
            store.put_record(txn, kept, changed, event="launch.delayed" if first else None)

        await store.commit_each(told, put)
    return EVERY_S * max(1.0, len(keys) / EVERY_FOR)
