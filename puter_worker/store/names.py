"""Names in Redis that only workers know, beside the published ones of `puter_client.store.names`."""

from __future__ import annotations

from puter_client.contract.key import PuterKey

QUEUE = "arq:queue"  # sorted set: arq's own
JOB = "arq:job:"  # + job id: arq's own
TARGETS = "puter:_targets"  # sorted set: target id → when it last had something to do
MOVING = "puter:_moving"  # sorted set: key → when it shall be looked at again if nothing has moved it
BACKLOGS = "puter:_backlogs"  # set: namespaces whose backlog holds something
PARKED = "puter:_parked_keys"  # sorted set: keys with parked requests → when their stage runs again
EPOCH = "puter:_epoch"  # hash: a random id, made when Redis was first seen empty, and how many launches since

ADMISSIONS = "puter:_admissions"  # sorted set: JSON of [namespace, tag, CIDRs, …] → when to let them in
TAKEN = "puter:_taken"  # hash: namespace → how often its inbox has been taken from


def taking(namespace: str) -> str:
    """String: a short lock, so that two intakes seldom read the same requests in vain."""
    return f"puter:_taking:{namespace}"


def spec(key: PuterKey) -> str:
    """String: the JSON of the spec that the key's record serves."""
    return f"puter:_spec:{key}"


def parked(key: PuterKey) -> str:
    """List: requests for a key whose record must first be checked in EC2."""
    return f"puter:_parked:{key}"


def backlog(namespace: str) -> str:
    """List: tags that wait for a place in arq's queue."""
    return f"puter:_backlog:{namespace}"


def fed(namespace: str) -> str:
    """Sorted set: tags with a place in arq's queue, by the time they got it."""
    return f"puter:_fed:{namespace}"


def looking(target: str) -> str:
    """Set: namespaces with keys that are to be looked up in EC2."""
    return f"puter:_looking:{target}"


def look_ups(target: str, namespace: str) -> str:
    """Sorted set: tags to be looked up in EC2 → from when, or until when somebody is at it."""
    return f"puter:_look_ups:{target}:{namespace}"


def launch_queues(target: str) -> str:
    """Set: namespaces with keys on a launch queue of the target."""
    return f"puter:_launch_queues:{target}"


def launch_queue(target: str, namespace: str) -> str:
    """Sorted set, the launch queue: tag → the time from which it may be launched."""
    return f"puter:_launch_queue:{target}:{namespace}"


def backoffs(target: str) -> str:
    """Hash: name of a place or a quota → JSON of how much may be requested there."""
    return f"puter:_backoffs:{target}"


def parallel(namespace: str, batch_id: str) -> str:
    """Set: tags of a batch with `max_parallel` that are launched or alive."""
    return f"puter:_parallel:{namespace}:{batch_id}"


def intents(target: str) -> str:
    """Sorted set: open intents of the target → until when somebody works on them."""
    return f"puter:_intents:{target}"


def intent(intent_id: str) -> str:
    """Hash of an intent: `doc` and `rev`."""
    return f"puter:_intent:{intent_id}"


def live(target: str) -> str:
    """Sorted set: keys of the target whose machine is alive, by the time it became so."""
    return f"puter:_live:{target}"


def starting(target: str) -> str:
    """Set: keys of the target whose machine is launched but does not run yet, or has no public address yet."""
    return f"puter:_starting:{target}"


def labels(target: str) -> str:
    """Sorted set: `<key>#<generation>` whose own tags are still to be written → until when somebody is at it."""
    return f"puter:_labels:{target}"


def lease(target: str) -> str:
    """String: id of the worker that leads the target."""
    return f"puter:_lease:{target}"


def bucket(account: str, region: str, name: str) -> str:
    """Hash: one token bucket of an account and region."""
    return f"puter:_public:bucket:{account}:{region}:{name}"
