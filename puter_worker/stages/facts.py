"""What EC2 shows of an instance, carried over into a record. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from puter_client.contract.duration import format_duration
from puter_client.contract.phase import LIVE, Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_client.contract.spec import Spec
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.tags import key_of
from puter_worker.target import TargetId

OVERDUE_AFTER_S = 300.0  # a machine needs a moment to shut down; after this it is told as overdue
# EC2 shows an ended instance for about an hour; until then, not to be shown means nothing.
FORGOTTEN_AFTER_S = 3_600.0
# States of an instance that will not come back to life.
DEAD = frozenset({"shutting-down", "terminated"})
STOPPED = frozenset({"stopping", "stopped"})
ALIVE = frozenset({"pending", "running"})


def choose(instances: list[Instance]) -> Instance | None:
    """Of all that EC2 shows under one key, the one that counts: the living first, then the latest."""
    rank = {"running": 0, "pending": 0, "stopping": 1, "stopped": 1}
    return min(instances, key=lambda i: (rank.get(i.state, 2), -(i.launch_time or 0.0), i.instance_id), default=None)


def generation_of(instance: Instance) -> int:
    """The generation that its tags tell; 0 if they tell none."""
    name = key_of(instance.tags, instance.ami_launch_index)
    return name[1] if name else 0


def with_instance(record: Record, instance: Instance, target: TargetId, now: float) -> Record:
    """The record with everything that EC2 shows of its instance; phases only move on, never back."""
    launched_at = record.launched_at or instance.launch_time or now
    expires_at = launched_at + record.ttl_s if record.ttl_s is not None else None
    known = record.replace(
        target=str(target),
        account_id=target.account,
        region=target.region,
        instance_id=instance.instance_id,
        instance_type=instance.instance_type or record.instance_type,
        ami_id=instance.image_id or record.ami_id,
        availability_zone=instance.availability_zone or record.availability_zone,
        vpc_id=instance.vpc_id or record.vpc_id,
        # An ended instance has no addresses any more; what it had is worth keeping.
        public_dns_name=instance.public_dns_name or record.public_dns_name,
        public_ip=instance.public_ip or record.public_ip,
        private_ip=instance.private_ip or record.private_ip,
        key_name=instance.key_name or record.key_name,
        launched_at=launched_at,
        expires_at=expires_at,
        observed_at=now,
        intent=None,
    )
    if instance.state in DEAD:
        return _ended(known, instance, now)
    if instance.state in STOPPED:
        return _failed(
            known,
            now,
            "InstanceStopped",
            f"{instance.instance_id} is {instance.state}; Puter neither starts it, for its end is no longer "
            "planned, nor deletes it: terminate it in EC2 and request again, or use another tag",
        )
    overdue = expires_at is not None and now > expires_at + OVERDUE_AFTER_S
    known = known.replace(overdue=overdue, reason=_overdue(now, expires_at) if overdue and expires_at else None)
    if instance.state == "running" and known.phase is not Phase.RUNNING:
        return known.replace(phase=Phase.RUNNING, running_at=now, changed_at=now)
    if known.phase not in LIVE:
        return known.replace(phase=Phase.PENDING, changed_at=now)
    return known.replace(changed_at=now) if overdue != record.overdue else known


def seen_otherwise(
    spec: Spec, *, instance_type: str | None, image_id: str | None, subnet_id: str | None = None, spot: bool = False
) -> Spec | None:
    """What was requested, with what EC2 shows to be otherwise; None if nothing that it shows speaks against it.

    What EC2 does not tell (workload, user data) is nobody's then.
    """
    shown: dict[str, Any] = {}
    if instance_type and instance_type not in (spec.instance_type, *spec.instance_types):
        shown |= {"instance_type": instance_type, "instance_types": ()}
    if spec.ami and image_id and image_id != spec.ami:
        shown["ami"] = image_id
    if spec.subnet and subnet_id and subnet_id not in (spec.subnet, *spec.subnets):
        shown |= {"subnet": subnet_id, "subnets": ()}
    if spot and not spec.spot:
        shown["spot"] = True
    return msgspec.structs.replace(spec, **shown, run=None, env={}, user_data=None) if shown else None


def gone(record: Record, now: float) -> Record | None:
    """The record of an instance that EC2 does not show; None while that means nothing."""
    if now - (record.observed_at or now) < FORGOTTEN_AFTER_S:
        return None
    return record.replace(
        phase=Phase.TERMINATED,
        reason="EC2 no longer knows it; it ended some time after it was last seen",
        ended_at=now,
        changed_at=now,
        overdue=False,
    )


def _overdue(now: float, expires_at: float) -> str:
    late = format_duration(now - expires_at)
    return f"should have ended itself {late} ago; look at it, and terminate it in EC2 if it is not needed"


def _ended(record: Record, instance: Instance, now: float) -> Record:
    why = instance.state_reason or instance.state_reason_code
    if record.phase is not Phase.RUNNING and record.running_at is None and not _ended_itself(instance):
        # It never ran: EC2 took it back (no disk could be made, an encryption key is missing …).
        return _failed(record, now, instance.state_reason_code or "NeverRan", why or "it ended before it ran")
    return record.replace(
        phase=Phase.TERMINATED, reason=why or "it has ended", ended_at=now, changed_at=now, overdue=False
    )


def _ended_itself(instance: Instance) -> bool:
    return instance.state_reason_code in {
        "Client.InstanceInitiatedShutdown",
        "Client.UserInitiatedShutdown",
        "Server.SpotInstanceTermination",
    }


def _failed(record: Record, now: float, code: str, message: str) -> Record:
    return record.replace(
        phase=Phase.FAILED,
        reason=message,
        error=ErrorInfo(code=code, message=message),
        ended_at=now,
        changed_at=now,
    )
