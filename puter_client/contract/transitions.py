"""How a record may change: the one table of transitions, and the changes themselves by name.

`Records.put` of the workers' store checks every write of a record against the table. docs/architecture.md shows it;
tests/unit/test_transitions.py compares the two. Within one request a phase never moves back; a key that has ended
begins again with the next request, or with a machine of a later generation that EC2 shows. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from puter_client.contract.errors import PuterError
from puter_client.contract.order import OrderKind
from puter_client.contract.phase import ENDED, LIVE, Phase
from puter_client.contract.record import Attempt, ErrorInfo, Record
from puter_client.contract.spec import Spec

# What a record has from its request.
_REQUESTED = (
    "batch_id",
    "batch_size",
    "max_parallel",
    "max_fails",
    "keep_running",
    "owner",
    "spec_digest",
    "profile",
    "region",
    "os",
    "ttl_s",
    "private_key_path",
    "has_workload",
    "ends_with_workload",
)
_FOUND = frozenset({Phase.PENDING, Phase.RUNNING, Phase.TERMINATED, Phase.FAILED})

ALLOWED: Mapping[Phase | None, frozenset[Phase]] = MappingProxyType(
    {
        # An unknown key: its first request comes, or EC2 shows a machine that Redis has forgotten.
        None: frozenset({Phase.QUEUED}) | _FOUND,
        Phase.QUEUED: frozenset({Phase.RESOLVING, Phase.CANCELLED}) | _FOUND,
        Phase.RESOLVING: frozenset({Phase.LAUNCHING, Phase.CANCELLED}) | _FOUND,
        Phase.LAUNCHING: frozenset({Phase.CANCELLED}) | _FOUND,
        Phase.PENDING: frozenset({Phase.RUNNING, Phase.TERMINATED, Phase.FAILED}),
        Phase.RUNNING: frozenset({Phase.TERMINATED, Phase.FAILED}),
        # A key that has ended begins again: with a request, or with a later generation that EC2 shows.
        Phase.TERMINATED: frozenset({Phase.QUEUED}) | _FOUND,
        Phase.FAILED: frozenset({Phase.QUEUED}) | _FOUND,
        Phase.CANCELLED: frozenset({Phase.QUEUED}) | _FOUND,
    }
)
"""A record's phase (None: there is no record) → the phases that may follow it. A phase may always stay the same."""

AWAITS_LAUNCH = "waiting for launch"
"""The reason of a key in the launch queue that no stage has looked at there yet."""


class IllegalTransition(PuterError):
    """A write would change a record in a way that the contract does not allow: a defect of the code that writes it."""


def check_transition(old: Record | None, new: Record) -> None:
    """Check that a record may change in this way.

    Raises:
        IllegalTransition: the change is not allowed.
    """
    was = old.phase if old is not None else None
    if was is not new.phase and new.phase not in ALLOWED[was]:
        raise IllegalTransition(f"{new.key}: {was.value if was else 'no record'} → {new.phase.value} is not allowed")
    if old is None:
        return
    if new.request_number < old.request_number:
        raise IllegalTransition(f"{new.key}: request {new.request_number} is older than request {old.request_number}")
    if old.phase in ENDED and new.phase in LIVE and new.generation <= old.generation:
        raise IllegalTransition(f"{new.key}: generation {new.generation} has ended, it cannot be {new.phase.value}")


def resolving(record: Record, target: str, now: float) -> Record:
    """The request's target is known; EC2 is asked whether the machine exists already."""
    return record.replace(
        phase=Phase.RESOLVING, target=target, reason="checking whether the machine exists", changed_at=now
    )


def waiting(
    record: Record,
    reason: str,
    now: float,
    *,
    phase: Phase | None = None,
    estimate_s: int | None = None,
    **known: Any,
) -> Record:
    """The key waits, for this reason; `changed_at` does not change if phase and reason stay the same.

    `phase`: None keeps the record's phase; `estimate_s`: how long the wait is expected to be, if that is known;
    `known`: further fields to set.
    """
    phase = phase or record.phase
    same = record.reason == reason and record.phase is phase
    changed_at = record.changed_at if same else now
    return record.replace(phase=phase, reason=reason, changed_at=changed_at, estimate_s=estimate_s, **known)


def queued_for_launch(
    record: Record, target: str, now: float, *, generation: int, account_id: str, region: str
) -> Record:
    """EC2 shows no machine for the key, so the key waits for its launch."""
    return record.replace(
        phase=Phase.LAUNCHING,
        target=target,
        generation=generation,
        account_id=account_id,
        region=region,
        reason=AWAITS_LAUNCH,
        estimate_s=None,
        changed_at=now,
    )


def launching(
    record: Record,
    intent: str,
    now: float,
    *,
    ssh_user: str,
    private_key_path: str | None,
    vcpus: int | None = None,
) -> Record:
    """The key is a member of an intent: the call to EC2 for it is sent next."""
    return record.replace(
        intent=intent,
        reason="launching in EC2",
        estimate_s=None,
        changed_at=now,
        ssh_user=ssh_user,
        private_key_path=private_key_path or record.private_key_path,
        vcpus=vcpus,
    )


def back_in_queue(record: Record, reason: str, now: float, **changes: Any) -> Record:
    """The intent has launched nothing for the key: the key waits for the next launch, which needs another token."""
    # The next launch has a ttl that was named meanwhile from its birth: an order would count from the request.
    order = None if record.order is not None and record.order.of_ttl else record.order
    attempt = record.attempt + 1
    return record.replace(intent=None, attempt=attempt, reason=reason, changed_at=now, **{"order": order} | changes)


def pending(record: Record, now: float) -> Record:
    """The machine is launched."""
    return record.replace(phase=Phase.PENDING, changed_at=now)


def running(record: Record, now: float) -> Record:
    """The machine runs."""
    return record.replace(phase=Phase.RUNNING, running_at=now, changed_at=now)


def retried(record: Record, spec: Spec, now: float) -> Record:
    """The workload of an ended machine is run again, on a machine of the next generation."""
    assert record.result is not None
    attempt = Attempt(
        generation=record.generation,
        instance_id=record.instance_id,
        result=record.result,
        exit_code=record.exit_code,
        finished_at=record.finished_at,
        ended_at=record.ended_at,
    )
    number = len(record.attempts) + 1
    kept = ("namespace", "tag", "request_number", "created_at", *_REQUESTED)
    return Record(
        **{name: getattr(record, name) for name in kept},
        generation=record.generation + 1,
        instance_type=spec.instance_type,
        key_name=spec.key_name,
        phase=Phase.QUEUED,
        reason=f"retry {number} of {spec.retries}: {record.reason}",
        changed_at=now,
        attempts=(*record.attempts, attempt),
    )


def terminated(record: Record, reason: str, now: float) -> Record:
    """The machine has ended."""
    return record.replace(
        phase=Phase.TERMINATED, reason=reason, intent=None, ended_at=now, changed_at=now, overdue=False
    )


def failed(record: Record, error: ErrorInfo, now: float) -> Record:
    """The request cannot be served, for this reason."""
    return record.replace(
        phase=Phase.FAILED,
        reason=error.message,
        error=error,
        intent=None,
        estimate_s=None,
        ended_at=now,
        changed_at=now,
    )


def cancelled(record: Record, user: str, now: float, *, why: str | None = None) -> Record:
    """The request was cancelled before anything was launched for it.

    `why`: the reason, if it was not the user who did it; None is that of an order to stop, if there is one.
    """
    if why is None and record.order is not None and record.order.kind is OrderKind.STOP:
        why = record.order.reason
    reason = f"cancelled: {why}" if why else f"cancelled by {user}"
    return record.replace(phase=Phase.CANCELLED, reason=reason, estimate_s=None, changed_at=now, ended_at=now)
