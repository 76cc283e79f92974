"""Names in Redis that only workers use; `puter_client.store.names` has the published ones."""

from __future__ import annotations

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase

WAKE = "puter:_wake"  # channel: topics for which something was written, one a line
TARGETS = "puter:_targets"  # sorted set: target id → when it last had work
UNSURE = "puter:_unsure"  # sorted set: targets that may hold machines that Redis has forgotten → when last noted
MOVING = "puter:_moving"  # sorted set: key → when its job runs again if no stage has moved it
BACKLOGS = "puter:_backlogs"  # set: namespaces whose backlog is not empty
PARKED = "puter:_parked_keys"  # sorted set: keys with parked requests → when their job runs again
EPOCH = "puter:_epoch"  # hash: a random id, made when Redis was first seen empty, and the launches since then

FAILURES = "puter:_failures"  # sorted set: JSON of [namespace, batch id, …] of which one has failed → when it is due
INGRESS = "puter:_ingress"  # set: namespaces with ingress rules that are to be added
TAKEN = "puter:_taken"  # hash: inbox → how often requests were taken from it


def taking(inbox: str) -> str:
    """String: a short lock, so that two intakes seldom read the same requests."""
    return f"puter:_taking:{inbox}"


def spec(key: PuterKey) -> str:
    """String: the JSON of the spec that the key's record serves."""
    return f"puter:_spec:{key}"


def parked(key: PuterKey) -> str:
    """List: requests for a key whose record EC2 must confirm first."""
    return f"puter:_parked:{key}"


def backlog(namespace: str) -> str:
    """List: tags that wait for a place in arq's queue."""
    return f"puter:_backlog:{namespace}"


def places(namespace: str) -> str:
    """Sorted set: tags with a place in arq's queue → when they got it."""
    return f"puter:_places:{namespace}"


def looking(target: str) -> str:
    """Set: namespaces with keys that are to be looked up in EC2."""
    return f"puter:_looking:{target}"


def look_ups(target: str, namespace: str) -> str:
    """Sorted set: tags to be looked up in EC2 → from when; if claimed, when the claim ends."""
    return f"puter:_look_ups:{target}:{namespace}"


def launch_queues(target: str) -> str:
    """Set: namespaces with keys in a launch queue of the target."""
    return f"puter:_launch_queues:{target}"


def launch_queue(target: str, namespace: str) -> str:
    """Sorted set, the launch queue: tag → the time from which it may be launched."""
    return f"puter:_launch_queue:{target}:{namespace}"


def backoffs(target: str) -> str:
    """Hash: name of a place or a quota → JSON of how much may be requested there."""
    return f"puter:_backoffs:{target}"


def refused(namespace: str) -> str:
    """String: how much was kept of refused requests within the last day (`store/row_shares.py`)."""
    return f"puter:_refused:{namespace}"


def requested(namespace: str, user: str) -> str:
    """String: what the requests that were taken of a user within the last day count (`store/row_shares.py`)."""
    return f"puter:_requested:{namespace}:{user}"


def parallel(namespace: str, batch_id: str) -> str:
    """Set: tags of a batch with `max_parallel` that are launched or alive."""
    return f"puter:_parallel:{namespace}:{batch_id}"


def ingress(namespace: str) -> str:
    """Sorted set: JSON of [namespace, tag, CIDRs, …] → when the rules are due."""
    return f"{INGRESS}:{namespace}"


def machines(namespace: str) -> str:
    """Hash: tags whose machine is alive or being launched → its vCPUs, 0 if they are not known."""
    return f"puter:_machines:{namespace}"


def launched(namespace: str) -> str:
    """Sorted set: `<tag>#<generation>` → when it was launched; for two hours."""
    return f"puter:_launched:{namespace}"


def in_phase(phase: Phase) -> str:
    """Set: keys that are resolving, or launching; what else is on its way is queued."""
    return f"puter:_phase:{phase}"


def waiting(namespace: str) -> str:
    """Set: tags that are on their way to a machine."""
    return f"puter:_waiting:{namespace}"


def profiles(worker_id: str) -> str:
    """String: JSON of all AWS profiles that a worker has; it expires after 30 s."""
    return f"puter:_profiles:{worker_id}"


def failed(namespace: str, batch_id: str) -> str:
    """Set: tags of a batch with `max_fails` that failed for good."""
    return f"puter:_failed:{namespace}:{batch_id}"


def ended(namespace: str, batch_id: str) -> str:
    """String: all of a batch that has reached its `max_fails` is cancelled, or told to stop."""
    return f"puter:_ended:{namespace}:{batch_id}"


def intent(intent_id: str) -> str:
    """Hash of an intent: `doc` and `rev`."""
    return f"puter:_intent:{intent_id}"


def live(target: str) -> str:
    """Sorted set: keys of the target whose machine is alive → when its phase last changed."""
    return f"puter:_live:{target}"


def targets_of(namespace: str) -> str:
    """Sorted set: targets of a namespace → when it last had something there."""
    return f"puter:_targets_of:{namespace}"


def starting(target: str) -> str:
    """Set: keys of the target whose machine is launched but does not run yet, or has no public address yet."""
    return f"puter:_starting:{target}"


INTENTS = "intents"  # what is due: open intents
LABELS = "labels"  # what is due: `<key>#<generation>` of machines whose own tags are still to be written

CONSOLES = "consoles"  # what is due: `<key>#<generation>` of machines whose console somebody wants to see
ORDERS = "orders"  # what is due: `<key>#<generation>` of machines with an order that is not written or not confirmed
RESULTS = (
    "results"  # what is due: `<key>#<generation>` of machines whose console is to be read for their workload's end
)


def due(what: str, target: str) -> str:
    """Sorted set: what a stage of the target has to do → when it is due; if claimed, when the claim ends."""
    return f"puter:_due:{what}:{target}"


def lease(target: str) -> str:
    """String: id of the worker that leads the target."""
    return f"puter:_lease:{target}"


def bucket(account: str, region: str, name: str) -> str:
    """Hash: one token bucket of an account and region."""
    return f"puter:_public:bucket:{account}:{region}:{name}"
