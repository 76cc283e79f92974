"""Computes records from what EC2 shows of instances. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from puter_client.contract import transitions
from puter_client.contract.duration import format_duration
from puter_client.contract.phase import LIVE, Phase
from puter_client.contract.record import ErrorInfo, Record
from puter_client.contract.spec import Spec
from puter_worker.ec2.instances import Instance
from puter_worker.ec2.tags import MEMBER, decode_manifest, expiry_of, intent_of
from puter_worker.target import TargetId
from puter_worker.timings import Timings

# States after which an instance never runs again.
DEAD = frozenset({"shutting-down", "terminated"})
STOPPED = frozenset({"stopping", "stopped"})
ALIVE = frozenset({"pending", "running"})
SHUT_ITSELF_DOWN = "Client.InstanceInitiatedShutdown"


def choose(instances: list[Instance]) -> Instance | None:
    """The instance that counts among all that EC2 shows for one key: a living one, else the latest.

    What may belong to another key counts only if no other is alive.
    """
    rank = {"running": 0, "pending": 0, "stopping": 2, "stopped": 2}
    return min(
        instances,
        key=lambda i: (max(rank.get(i.state, 3), i.is_unassigned), -(i.launch_time or 0.0), i.instance_id),
        default=None,
    )


def may_be_of(instance: Instance, tag: str, generation: int) -> bool:
    """Whether an instance that EC2 shows for a key may be the machine of this generation or of a later one.

    It may, unless it is a machine of a Spot launch that does not know yet which member of the launch it is, and the
    launch was of an earlier generation: that one has ended.
    """
    return not instance.is_unassigned or (tag, generation) <= max(
        (member for member in decode_manifest(instance.tags) or () if member[0] == tag), default=("", 0)
    )


def generation_of(instance: Instance, *, unknown: int = 1) -> int:
    """The generation that its tags say; `unknown` if they say none."""
    return instance.name[1] if instance.name else unknown


def with_instance(record: Record, instance: Instance, target: TargetId, now: float, timings: Timings) -> Record:
    """The record with everything that EC2 shows of its instance; a phase never moves back."""
    launched_at = record.launched_at or instance.launch_time or now
    expires_at = _expires_at(record, instance, launched_at)
    known = record.replace(
        target=str(target),
        account_id=target.account,
        region=target.region,
        instance_id=instance.instance_id,
        instance_type=instance.instance_type or record.instance_type,
        ami_id=instance.image_id or record.ami_id,
        vcpus=record.vcpus or instance.vcpus,
        availability_zone=instance.availability_zone or record.availability_zone,
        vpc_id=instance.vpc_id or record.vpc_id,
        # An ended instance has no addresses any more; the record keeps those that it had.
        public_dns_name=instance.public_dns_name or record.public_dns_name,
        public_ip=instance.public_ip or record.public_ip,
        private_ip=instance.private_ip or record.private_ip,
        key_name=instance.key_name or record.key_name,
        launched_at=launched_at,
        expires_at=expires_at,
        launched_by=intent_of(instance.tags) or record.launched_by,
        spot=instance.lifecycle == "spot",
        # The first one counts, for the machine's agent too: anybody in the account may write another on the tag.
        member=instance.number if record.member is None and MEMBER in instance.tags else record.member,
        observed_at=now,
        intent=None,
    )
    if instance.state in DEAD:
        return _ended(known, instance, now)
    if instance.state in STOPPED:
        message = (
            f"{instance.instance_id} is {instance.state}; Puter neither starts it, because its end is no longer "
            "planned, nor deletes it: terminate it in EC2 and request it again, or use another tag"
        )
        return transitions.failed(known, ErrorInfo(code="InstanceStopped", message=message), now)
    overdue = expires_at is not None and now > expires_at + timings.overdue_s
    reason = record.reason if record.result is not None else None
    known = known.replace(overdue=overdue, reason=_overdue(now, expires_at) if overdue and expires_at else reason)
    if instance.state == "running" and known.phase is not Phase.RUNNING:
        return transitions.running(known, now)
    if known.phase not in LIVE:
        return transitions.pending(known, now)
    return known.replace(changed_at=now) if overdue != record.overdue else known


def _expires_at(record: Record, instance: Instance, launched_at: float) -> float | None:
    """When the machine ends itself; None is never, or not known."""
    if record.order is not None and (record.order.sent_at is not None or record.launched_at is not None):
        return record.expires_at  # as its owner has ordered, or as it was before the order is sent
    if record.ttl_s is not None:
        return launched_at + record.ttl_s
    return expiry_of(instance.tags)  # of a machine that was found, only its tags tell it


def seen_otherwise(
    spec: Spec,
    *,
    instance_type: str | None,
    image_id: str | None,
    subnet_id: str | None = None,
    spot: bool = False,
    target: TargetId | None = None,
    wanted: TargetId | None = None,
) -> Spec | None:
    """The requested spec, changed to what EC2 shows of the machine; None if the two do not differ.

    `target`: where the machine was found; `wanted`: where it was requested, if that is known. Fields that EC2 does not
    show (workload, environment, user data) are empty then.
    """
    shown: dict[str, Any] = {}
    if target and target.region != (wanted.region if wanted else spec.region or target.region):
        shown["region"] = target.region
    if target and wanted and (target.account, target.profile) != (wanted.account, wanted.profile):
        shown["profile"] = target.profile or None
    if instance_type and instance_type not in (spec.instance_type, *spec.instance_types):
        shown |= {"instance_type": instance_type, "instance_types": ()}
    if spec.ami and image_id and image_id != spec.ami:
        shown["ami"] = image_id
    if spec.subnet and subnet_id and subnet_id not in (spec.subnet, *spec.subnets):
        shown |= {"subnet": subnet_id, "subnets": ()}
    if spot and not spec.spot:
        shown["spot"] = True
    return msgspec.structs.replace(spec, **shown, run=None, env={}, user_data=None) if shown else None


def gone(record: Record, now: float, *, unseen_s: float, absent: bool, timings: Timings) -> Record | None:
    """The record of an instance that EC2 has forgotten, as ended; None as long as it may exist.

    `unseen_s`: how long ago EC2 last showed it; `absent`: whether several looks in a row have not shown it.
    """
    if not absent or unseen_s < timings.forgotten_s:
        return None
    return transitions.terminated(
        record, "EC2 no longer knows the machine; it ended some time after it was last seen", now
    )


def _overdue(now: float, expires_at: float) -> str:
    late = format_duration(now - expires_at)
    return f"should have ended itself {late} ago; look at it, and terminate it in EC2 if it is not needed"


def _ended(record: Record, instance: Instance, now: float) -> Record:
    why = instance.state_reason or instance.state_reason_code
    record = record.replace(end_code=instance.state_reason_code)
    if record.phase is not Phase.RUNNING and record.running_at is None and not _ended_otherwise(instance):
        # The machine never ran: EC2 ended it (a disk could not be made, an encryption key is missing …).
        code = instance.state_reason_code or "NeverRan"
        return transitions.failed(record, ErrorInfo(code=code, message=why or "the machine ended before it ran"), now)
    if instance.state_reason_code == SHUT_ITSELF_DOWN and record.running_at is None:
        record = record.replace(running_at=now)  # only what runs can shut itself down
    if record.result is not None and record.reason:
        why = record.reason  # how the workload ended says more than how the machine did
    return transitions.terminated(record, why or "ended (EC2 gave no reason)", now)


def _ended_otherwise(instance: Instance) -> bool:
    return instance.state_reason_code in {
        SHUT_ITSELF_DOWN,
        "Client.UserInitiatedShutdown",
        "Server.SpotInstanceTermination",
    }
