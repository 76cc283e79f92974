"""Nothing is launched any more for users who were removed from Redis: what they have queued is cancelled.

May run twice, and on stale data: the record's revision is a guard. A user who is removed between this look and the
launch has requested it before.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from puter_client.contract import transitions
from puter_client.contract.record import EventKind
from puter_worker.stages.cancelled import put_cancelled
from puter_worker.stages.plan import Waiting
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn

_log = structlog.get_logger("puter.launch")


def why_removed(user: str) -> str:
    """The reason of what a removed user has requested."""
    return f"user {user} was removed"


async def of_known_users(store: Store, waiting: Sequence[Waiting]) -> list[Waiting]:
    """The keys whose owners Redis knows, or does not vouch for; the others are cancelled."""
    owners = {one.record.owner for one in waiting if one.record.vouched and one.record.owner}
    gone = await store.users.removed(owners)
    if not gone:
        return list(waiting)
    left = [one for one in waiting if not (one.record.vouched and one.record.owner in gone)]
    kept = {one.key for one in left}

    def put(txn: Txn, one: Waiting) -> None:
        owner = one.record.owner or "?"
        record = transitions.cancelled(one.record, owner, store.now(), why=why_removed(owner))
        store.records.put(txn, one.stored, record, event=EventKind.REQUEST_CANCELLED)
        put_cancelled(store, txn, record, why_removed(owner))

    cancelled = [one for one in waiting if one.key not in kept]
    await store.commit_each(cancelled, put)
    _log.info("requests.dropped", users=sorted(gone), count=len(cancelled))
    return left
