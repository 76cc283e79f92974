"""The names in Redis that clients use; those that only workers use are in `puter_worker.store.names`.

A namespace never begins with `_`, so `puter:<namespace>:…` and `puter:_…` are never equal.
"""

from __future__ import annotations

from puter_client.contract.key import PuterKey

READY = "puter:_ready"  # set of inboxes that hold something; channel: "" when a client has added one
WORKERS = "puter:_public:workers"  # sorted set: worker id → when it last announced itself
BATCH_INFO = "_info"  # field of a batch's hash; no tag begins with "_"


def inbox(inbox: str) -> str:
    """List of an inbox's requests that no worker has taken yet; see contract.inbox for what an inbox is called."""
    return f"puter:_in:{inbox}"


def record(key: PuterKey) -> str:
    """Hash of a record: `doc` (its JSON) and `rev` (incremented with each write)."""
    return f"puter:{key.namespace}:record:{key.tag}"


def output(key: PuterKey) -> str:
    """String: the JSON of the last of what the key's workload printed (contract.output)."""
    return f"puter:{key.namespace}:output:{key.tag}"


def console(key: PuterKey) -> str:
    """String: the JSON of what the console of the key's machine showed (contract.console); it expires in a minute."""
    return f"puter:{key.namespace}:console:{key.tag}"


def events(key: PuterKey) -> str:
    """List of a key's latest events, oldest first."""
    return f"puter:{key.namespace}:events:{key.tag}"


def index(namespace: str) -> str:
    """Sorted set of a namespace's tags by the time of their end; +inf for a tag that has not ended."""
    return f"puter:{namespace}:index"


def observed(namespace: str) -> str:
    """Hash of a namespace's living machines: tag → when EC2 last showed the machine, seconds of Redis TIME.

    It is apart from the records, so that a look at a thousand machines with nothing new to tell is one write.
    """
    return f"puter:{namespace}:observed"


def batches(namespace: str) -> str:
    """Sorted set of a namespace's batch ids by the time of their first request."""
    return f"puter:{namespace}:batches"


def batch(namespace: str, batch_id: str) -> str:
    """Hash of a batch: tag → row, and `_info`."""
    return f"puter:{namespace}:batch:{batch_id}"


def channel(namespace: str) -> str:
    """Channel on which every changed tag of a namespace is published."""
    return f"puter:{namespace}:changed"


def own_health(namespace: str, worker_id: str) -> str:
    """What a worker publishes for one namespace alone (contract.health.OwnHealth); it expires after 30 s."""
    return f"puter:{namespace}:worker:{worker_id}"


def worker(worker_id: str) -> str:
    """A worker's health, written by the worker; it expires after 30 s."""
    return f"puter:_public:worker:{worker_id}"
