"""Decides the outcome of a request from its key's record alone. Pure: no I/O, no clock."""

from __future__ import annotations

import msgspec

from puter_client.contract import transitions
from puter_client.contract.batch import BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.order import Order, OrderKind
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import Record
from puter_client.contract.request import (
    LONGEST_EXTENSION_S,
    CancelRequest,
    ConsoleRequest,
    ExtendRequest,
    Origin,
    StopRequest,
    UpRequest,
)
from puter_client.contract.result import Result
from puter_client.contract.spec import TTL, Spec, differing_fields, not_applied, spec_digest
from puter_client.policy.policy import Allowed
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.keypairs import default_names
from puter_worker.ec2.own_resources import OwnResources
from puter_worker.ec2.tags import EXPIRES_AT, expiry, expiry_of
from puter_worker.stages.facts import seen_otherwise, with_instance
from puter_worker.stages.ttl import asks_another_ttl, is_about, with_ttl
from puter_worker.target import TargetId
from puter_worker.timings import Timings


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a request changes.

    Attributes:
        row: the request's row in its batch.
        record: the key's new record, if a machine is to be launched.
        changed: the record of what exists: with another ttl, or completed by the first request for a machine that was
            found in EC2.
        spec: what the record serves from now on, if there is one; None is what is requested.
    """

    row: BatchRow
    record: Record | None = None
    changed: Record | None = None
    spec: Spec | None = None


class Adoption(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a request whose machine exists in EC2 although Redis did not know it.

    Attributes:
        record: the key's record with what EC2 shows.
        spec: the machine's spec as EC2 shows it, if it differs from the requested one.
        row: the request's row in its batch.
        notice: what the user should know about it.
    """

    record: Record
    spec: Spec | None
    row: BatchRow
    notice: str | None


def must_be_confirmed(record: Record | None) -> bool:
    """Whether EC2 must show the key's machine before a request is answered from its record.

    A machine may have ended a moment ago: what was seen before the request was made says nothing about that.
    """
    return record is not None and record.phase in LIVE


def decide(old: Record | None, served: Spec | None, request: UpRequest, key: PuterKey, now: float) -> Decision:
    """Decide the outcome of a request.

    `old` is the key's record and `served` its spec (None if unknown); `now` is Redis TIME in seconds.
    """
    if old is None or old.phase in (Phase.FAILED, Phase.CANCELLED):
        return _created(old, request, key, now)
    if old.spec_digest is None and old.phase in LIVE:
        return _found(old, request, now)
    # A machine that was found in EC2 after Redis had forgotten it, and was not requested since, has no spec digest:
    # it counts as the requested one.
    same = old.spec_digest in (None, spec_digest(request.spec))
    if old.phase in ON_ITS_WAY or old.phase in LIVE:
        if not same:
            return Decision(row=_row(old, Outcome.CONFLICT, conflict(old, served, request.spec)))
        return _existing(old, served, request, now)
    if request.again or not same or not old.has_workload or request.origin is Origin.UP:
        return _created(old, request, key, now)
    if old.phase is Phase.TERMINATED and old.result is None:
        return Decision(row=_row(old, Outcome.EXISTING))  # its console is still to be read
    if old.result is Result.SUCCEEDED:
        return Decision(row=_row(old, Outcome.DONE, "its workload has succeeded; --again runs it again"))
    if request.retry_failed or _was_cut_short(old):
        return _created(old, request, key, now)
    return Decision(row=_row(old, Outcome.SKIPPED, f"{old.reason or old.result}; --retry-failed runs it again"))


def _was_cut_short(old: Record) -> bool:
    """Whether the workload was stopped because others of its batch had failed: as if it had been cancelled."""
    return old.result is Result.STOPPED and old.order is not None and old.order.reason is not None


def _existing(old: Record, served: Spec | None, request: UpRequest, now: float) -> Decision:
    """Decide a request for what exists already; `served` is None if it is lost."""
    outcome = Outcome.JOINED if old.phase in ON_ITS_WAY else Outcome.EXISTING
    left = not_applied(served, request.spec, request.given) if served else ()
    if not asks_another_ttl(old, request):
        return Decision(row=_row(old, outcome, not_applied=left))
    others = tuple(name for name in left if name != TTL)
    changed = with_ttl(old, served or request.spec, request.spec.ttl_s, request.user, now)
    if changed is None:
        return Decision(row=_row(old, outcome, not_applied=(*others, TTL)))
    row = _row(old, outcome, applied=(TTL,), not_applied=others)
    return Decision(row=row, changed=changed.record, spec=changed.spec)


def _found(old: Record, request: UpRequest, now: float) -> Decision:
    """Decide the first request for a machine that was found in EC2 after Redis had forgotten it."""
    spec = request.spec
    target = TargetId.parse(old.target) if old.target else None
    if other := seen_otherwise(spec, instance_type=old.instance_type, image_id=old.ami_id, target=target):
        return Decision(row=_row(old, Outcome.CONFLICT, conflict(old, other, spec)))
    ours = _is_ours(old.key_name, spec, old.namespace)
    path = old.private_key_path or (spec.private_key_path if ours else None)
    as_it_is = msgspec.structs.replace(spec, ttl_s=old.ttl_s)
    # Nobody else can say whom a machine without a request lets in: its image may be anybody's.
    taken = old.replace(
        ssh_user=spec.ssh_user or old.ssh_user,
        spec_digest=spec_digest(spec),
        private_key_path=path,
        has_workload=spec.run is not None,
        ends_with_workload=as_it_is.ends_with_its_workload,
    )
    row = _row(old, Outcome.EXISTING, _unknown_workload(spec), not_applied=() if ours else _key_field(spec))
    if not asks_another_ttl(old, request) or is_about(spec.ttl_s, old.ttl_s):
        return Decision(row=row, changed=taken, spec=as_it_is)
    changed = with_ttl(taken, as_it_is, spec.ttl_s, request.user, now)
    if changed is None:
        left = (*row.not_applied, TTL)
        return Decision(row=msgspec.structs.replace(row, not_applied=left), changed=taken, spec=as_it_is)
    row = msgspec.structs.replace(row, applied=(TTL,))
    return Decision(row=row, changed=changed.record, spec=changed.spec)


def _is_ours(key_name: str | None, spec: Spec, namespace: str) -> bool:
    """Whether a machine with this key pair may have been launched with the request's key."""
    if spec.key_name:
        return key_name == spec.key_name
    owns = (OwnResources(), OwnResources(namespace))
    return any(key_name in default_names(own, spec.public_key) for own in owns)


def _key_field(spec: Spec) -> tuple[str, ...]:
    return ("key_name" if spec.key_name else "public_key",)


def adopted(
    record: Record,
    spec: Spec | None,
    instance: Instance,
    target: TargetId,
    now: float,
    timings: Timings,
    *,
    allowed: Allowed | None = None,
) -> Adoption:
    """The outcome of a request for which EC2 shows a machine; `record`: its record, with the machine's generation.

    `allowed`: what the policy allows its namespace, which bounds the machine's whole life; None: all.
    """
    asked_s = record.ttl_s
    found = with_instance(_with_ttl_of(record, instance), instance, target, now, timings)
    other = spec and seen_otherwise(
        spec,
        instance_type=instance.instance_type,
        image_id=instance.image_id,
        subnet_id=instance.subnet_id,
        spot=instance.lifecycle == "spot",
        target=target,
        wanted=TargetId.parse(record.target) if record.target else None,
    )
    if spec and other:
        found = found.replace(spec_digest=spec_digest(other), has_workload=False)
        row = _row(found, Outcome.CONFLICT, conflict(found, other, spec))
        return Adoption(record=found, spec=other, row=row, notice=None)
    unknown = _unknown_workload(spec) if spec else None
    theirs = spec and instance.key_name and not _is_ours(instance.key_name, spec, record.namespace)
    left = _key_field(spec) if spec and theirs else ()
    row = _row(found, Outcome.EXISTING, not_applied=left)
    if spec is None or is_about(asked_s, found.ttl_s):
        return Adoption(record=found, spec=None, row=row, notice=unknown)
    as_it_is = msgspec.structs.replace(spec, ttl_s=found.ttl_s)
    found = found.replace(ends_with_workload=as_it_is.ends_with_its_workload)
    changed = None
    if record.ttl_given and found.phase in LIVE:
        changed = with_ttl(found, as_it_is, asked_s, record.owner or "?", now)
    if changed is not None and allowed is not None and changed.record.order is not None:
        expires_at = changed.record.order.expires_at
        life_s = None if expires_at is None else round(expires_at - (found.launched_at or now))
        if allowed.refusals_of_life(life_s):  # the request's ttl is allowed, but not on top of what has gone by
            row = msgspec.structs.replace(row, not_applied=(*row.not_applied, TTL))
            changed = None
    if changed is None:
        return Adoption(record=found, spec=as_it_is, row=row, notice=unknown)
    row = msgspec.structs.replace(row, applied=(TTL,))
    return Adoption(record=changed.record, spec=changed.spec, row=row, notice=unknown)


def _with_ttl_of(record: Record, instance: Instance) -> Record:
    """The record with the ttl that the tags of a found machine say, whatever is requested now."""
    expires_at = expiry_of(instance.tags)
    if expires_at is not None and instance.launch_time is not None:
        return record.replace(ttl_s=max(0, round(expires_at - instance.launch_time)))
    return record.replace(ttl_s=None) if instance.tags.get(EXPIRES_AT) == expiry(None) else record


def _unknown_workload(spec: Spec) -> str | None:
    if spec.run is None and spec.user_data is None:
        return None
    return "the machine existed already, and Redis had forgotten its request: it may run another workload"


def may_be_cancelled(record: Record) -> bool:
    """Whether nothing was launched for the record's request yet."""
    return record.phase in ON_ITS_WAY and record.intent is None


def ordered(old: Record | None, request: StopRequest | ExtendRequest, now: float) -> Order | None:
    """The order for a machine that is launched or being launched; None if there is none, or it is another batch's.

    Of a machine that has ended, a stop is an order too as long as it is not known how its workload did: it is not run
    again then. What is to end now stays so: a later order does not change it. An end in the past, or over two years
    away (the longest ttl and the longest extension), is no order.
    """
    if old is None or not (_is_launched(old) or (isinstance(request, StopRequest) and _may_run_again(old))):
        return None
    if request.batch is not None and request.batch != old.batch_id:
        return None
    if old.order is not None and old.order.kind is OrderKind.STOP:
        return None
    if isinstance(request, StopRequest):
        return Order(kind=OrderKind.STOP, user=request.user, given_at=now)
    if request.request_id is not None and old.order is not None and old.order.request_id == request.request_id:
        return None  # it has come before
    expires_at = request.expires_at
    if request.add_s is not None:
        if old.expires_at is None:
            return None  # it never ends itself, or it is not known yet when
        expires_at = old.expires_at + request.add_s
    # A client is not trusted: a time that no calendar has would stop the stage, and with it all orders.
    if expires_at is not None and not 0 < expires_at - now <= 2 * LONGEST_EXTENSION_S:
        return None
    return Order(
        kind=OrderKind.EXTEND,
        user=request.user,
        given_at=now,
        expires_at=expires_at,
        request_id=request.request_id,
    )


def has_console(record: Record, request: ConsoleRequest) -> bool:
    """Whether there is a machine of the request's batch whose console can be read."""
    alive = record.phase in LIVE and record.instance_id is not None and record.target is not None
    return alive and request.batch in (None, record.batch_id)


def _is_launched(record: Record) -> bool:
    return record.phase in LIVE or (record.phase in ON_ITS_WAY and record.intent is not None)


def _may_run_again(record: Record) -> bool:
    return record.phase is Phase.TERMINATED and record.has_workload and record.result is None


def after_cancel(old: Record | None, request: CancelRequest, now: float) -> Record | None:
    """The record after a cancel; None if the cancel came too late, or names another batch."""
    if old is None or not may_be_cancelled(old):
        return None
    if request.batch is not None and request.batch != old.batch_id:
        return None
    return transitions.cancelled(old, request.user, now)


def _row(
    old: Record,
    outcome: Outcome,
    message: str | None = None,
    *,
    applied: tuple[str, ...] = (),
    not_applied: tuple[str, ...] = (),
) -> BatchRow:
    return BatchRow(
        outcome=outcome,
        generation=old.generation,
        request_number=old.request_number,
        message=message,
        applied=applied,
        not_applied=not_applied,
    )


def conflict(old: Record, served: Spec | None, asked: Spec) -> str:
    """Why a request conflicts with the machine that exists: which fields differ, and what to do."""
    fields = differing_fields(served, asked) if served else ()
    named = ", ".join(field.replace("_", "-") for field in fields) or "its specification"
    remedy = "use another tag, or wait until it has ended"
    return f"{old.phase.value} with another {named}: {remedy}"


def _created(old: Record | None, request: UpRequest, key: PuterKey, now: float) -> Decision:
    spec = request.spec
    generation = 1 if old is None else old.generation + (1 if old.instance_id else 0)
    record = Record(
        namespace=key.namespace,
        tag=key.tag,
        request_number=1 if old is None else old.request_number + 1,
        generation=generation,
        # A later launch of the same generation needs another token: EC2 binds a token to its parameters for good.
        attempt=old.attempt + 1 if old is not None and generation == old.generation else 0,
        phase=Phase.QUEUED,
        reason="waiting for its turn in the queue",
        created_at=now,
        changed_at=now,
        batch_id=request.batch,
        batch_size=request.size,
        max_parallel=request.max_parallel,
        max_fails=request.max_fails,
        keep_running=request.keep_running,
        owner=request.user,
        spec_digest=spec_digest(spec),
        profile=spec.profile,
        region=spec.region,
        instance_type=spec.instance_type,
        os=spec.os,
        ttl_s=spec.ttl_s,
        ttl_given=TTL in request.given,
        ssh_user=spec.ssh_user or (spec.os.ssh_user if spec.ami is None else None),
        key_name=spec.key_name,
        private_key_path=spec.private_key_path,
        has_workload=spec.run is not None,
        ends_with_workload=spec.ends_with_its_workload,
    )
    row = BatchRow(outcome=Outcome.CREATED, generation=generation, request_number=record.request_number)
    return Decision(row=row, record=record)
