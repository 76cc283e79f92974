"""What becomes of a request, decided from its key's record alone. Pure: no I/O, no clock."""

from __future__ import annotations

import msgspec

from puter_client.contract.batch import BatchRow
from puter_client.contract.key import PuterKey
from puter_client.contract.outcome import Outcome
from puter_client.contract.phase import LIVE, ON_ITS_WAY, Phase
from puter_client.contract.record import Record
from puter_client.contract.request import CancelRequest, Origin, UpRequest
from puter_client.contract.result import Result
from puter_client.contract.spec import Spec, differing_fields, spec_digest
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.keypairs import default_names
from puter_worker.stages.facts import seen_otherwise, with_instance
from puter_worker.target import TargetId

# A record that EC2 confirmed this recently is answered as it is; an older one is checked first.
FRESH_S = 30.0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a request changes.

    Attributes:
        row: of the request's batch.
        record: the key's new record, if the request asks for a machine that is not there.
        taken: the record of a machine that was found in EC2, as the first request that is for it completes it.
    """

    row: BatchRow
    record: Record | None = None
    taken: Record | None = None


class Adoption(msgspec.Struct, frozen=True, kw_only=True):
    """What a request comes to whose machine turns out to be there, although Redis did not know it.

    Attributes:
        record: with what EC2 shows.
        spec: what the machine is, if it is not what was requested.
        row: of the request's batch.
        notice: what the one who asked should know of it.
    """

    record: Record
    spec: Spec | None
    row: BatchRow
    notice: str | None


def is_stale(record: Record | None, now: float) -> bool:
    """Whether EC2 must confirm the record before a request is answered from it."""
    return record is not None and record.phase in LIVE and now - (record.observed_at or 0.0) > FRESH_S


def settle(old: Record | None, served: Spec | None, request: UpRequest, key: PuterKey, now: float) -> Verdict:
    """What becomes of a request.

    `old` is the key's record and `served` its spec (None if unknown); `now` is Redis TIME in seconds.
    """
    if old is None or old.phase in (Phase.FAILED, Phase.CANCELLED):
        return _created(old, request, key, now)
    if old.spec_digest is None and old.phase in LIVE:
        return _found(old, request)
    # What was found in EC2 by a Redis that had forgotten it, and was never requested, is what the key says.
    same = old.spec_digest in (None, spec_digest(request.spec))
    if old.phase in ON_ITS_WAY or old.phase in LIVE:
        if not same:
            return Verdict(row=_row(old, Outcome.CONFLICT, conflict(old, served, request.spec)))
        return Verdict(row=_row(old, Outcome.JOINED if old.phase in ON_ITS_WAY else Outcome.EXISTING))
    if request.again or not same or not old.has_workload or request.origin is Origin.UP:
        return _created(old, request, key, now)
    if old.result is Result.SUCCEEDED:
        return Verdict(row=_row(old, Outcome.DONE, "its workload has succeeded; --again runs it once more"))
    if request.retry_failed:
        return _created(old, request, key, now)
    ended = f"its workload ended {old.result}" if old.result else "how its workload ended is not known"
    return Verdict(row=_row(old, Outcome.SKIPPED, f"{ended}; --retry-failed runs it again"))


def _found(old: Record, request: UpRequest) -> Verdict:
    """The first request for a machine that was found in EC2 by a Redis that had forgotten it."""
    spec = request.spec
    if other := seen_otherwise(spec, instance_type=old.instance_type, image_id=old.ami_id):
        return Verdict(row=_row(old, Outcome.CONFLICT, conflict(old, other, spec)))
    ours = old.key_name in ([spec.key_name] if spec.key_name else default_names(spec.public_key))
    path = old.private_key_path or (spec.private_key_path if ours else None)
    taken = old.replace(spec_digest=spec_digest(spec), private_key_path=path)
    return Verdict(row=_row(old, Outcome.EXISTING, _unknown_workload(spec)), taken=taken)


def adopted(record: Record, spec: Spec | None, instance: Instance, target: TargetId, now: float) -> Adoption:
    """What a request comes to for which EC2 shows a machine. `record` is the request's, of the machine's generation."""
    found = with_instance(record, instance, target, now)
    other = spec and seen_otherwise(
        spec,
        instance_type=instance.instance_type,
        image_id=instance.image_id,
        subnet_id=instance.subnet_id,
        spot=instance.lifecycle == "spot",
    )
    if spec and other:
        found = found.replace(spec_digest=spec_digest(other), has_workload=False)
        row = _row(found, Outcome.CONFLICT, conflict(found, other, spec))
        return Adoption(record=found, spec=other, row=row, notice=None)
    unknown = _unknown_workload(spec) if spec else None
    return Adoption(record=found, spec=None, row=_row(found, Outcome.EXISTING), notice=unknown)


def _unknown_workload(spec: Spec) -> str | None:
    if spec.run is None and spec.user_data is None:
        return None
    return "it was there already, and Redis had forgotten its request: what it runs may be another workload"


def cancelled(old: Record | None, request: CancelRequest, now: float) -> Record | None:
    """The record after a cancel; None if the cancel came too late, or speaks of another batch."""
    if old is None or old.phase not in ON_ITS_WAY or old.intent is not None:
        return None
    if request.batch is not None and request.batch != old.batch_id:
        return None
    return old.replace(phase=Phase.CANCELLED, reason=f"cancelled by {request.user}", changed_at=now, ended_at=now)


def _row(old: Record, outcome: Outcome, message: str | None = None) -> BatchRow:
    return BatchRow(outcome=outcome, generation=old.generation, request_number=old.request_number, message=message)


def conflict(old: Record, served: Spec | None, asked: Spec) -> str:
    """Why a request for another machine cannot be granted while this one is there."""
    fields = differing_fields(served, asked) if served else ()
    named = ", ".join(field.replace("_", "-") for field in fields) or "its specification"
    remedy = "use another tag, or wait until it has ended"
    return f"{old.phase.value} with another {named}: {remedy}"


def _created(old: Record | None, request: UpRequest, key: PuterKey, now: float) -> Verdict:
    spec = request.spec
    generation = 1 if old is None else old.generation + (1 if old.instance_id else 0)
    record = Record(
        namespace=key.namespace,
        tag=key.tag,
        request_number=1 if old is None else old.request_number + 1,
        generation=generation,
        # A later launch of the same generation needs a token of its own: EC2 binds one to its parameters for good.
        attempt=old.attempt + 1 if old is not None and generation == old.generation else 0,
        phase=Phase.QUEUED,
        reason="waiting for its turn in the queue",
        created_at=now,
        changed_at=now,
        batch_id=request.batch,
        batch_size=request.size,
        max_parallel=request.max_parallel,
        owner=request.user,
        spec_digest=spec_digest(spec),
        profile=spec.profile,
        region=spec.region,
        instance_type=spec.instance_type,
        os=spec.os,
        ttl_s=spec.ttl_s,
        key_name=spec.key_name,
        private_key_path=spec.private_key_path,
        has_workload=spec.run is not None,
    )
    row = BatchRow(outcome=Outcome.CREATED, generation=generation, request_number=record.request_number)
    return Verdict(row=row, record=record)
