"""admit: lets further addresses reach a machine that was there already. A loop of every worker.

May run twice: a rule or a group that is there is fine. Killed anywhere: an admission is taken off the list last.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import msgspec
import structlog

from puter_client.contract.phase import LIVE, ON_ITS_WAY
from puter_client.contract.record import Record
from puter_client.contract.spec import DEFAULT_GROUP_NAME
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.errors import Ec2Error
from puter_worker.ec2.tags import MANAGED
from puter_worker.stages.waiting import is_final
from puter_worker.store.machines import Admission
from puter_worker.store.workerstore import WorkerStore
from puter_worker.target import Target, TargetId, Targets

_log = structlog.get_logger("puter.admit")
AT_ONCE = 200  # as many as one look at EC2 is for
CLAIM_S = 14.0  # what a dead worker had claimed is another's within 15 s
ANOTHER_WORKER_S = 1.0


class Door(msgspec.Struct, frozen=True):
    """A machine that shall let somebody in: what is known of its place, without asking or from one look."""

    admission: Admission
    record: Record
    group_name: str
    vpc_id: str | None = None
    group_ids: tuple[str, ...] | None = None


async def admit(store: WorkerStore, targets: Targets) -> None:
    """Carry out the admissions that are due."""
    until = store.now() + CLAIM_S
    claimed = await store.claim_admissions(AT_ONCE, until)
    doors: dict[str, list[Door]] = defaultdict(list)
    for door in await _doors(store, claimed):
        doors[door.record.target or ""].append(door)
    await asyncio.gather(*(_admit(store, targets, text, of_target, until) for text, of_target in doors.items()))


async def _admit(store: WorkerStore, targets: Targets, text: str, doors: Sequence[Door], until: float) -> None:
    target_id = TargetId.parse(text)
    if not await targets.reaches(target_id):
        await store.put_admissions_off([door.admission for door in doors], store.now() + ANOTHER_WORKER_S)
        return
    target = targets.get(target_id)
    try:
        looked_at = await _looked_at(target, doors)
    except Ec2Error as error:
        _log.warning("stage.refused", stage="admit", target=text, code=error.code, message=error.message)
        return
    for door in looked_at:
        if store.now() > until:
            return  # the others may be somebody else's by now
        if await _open(target, door):
            await store.drop_admission(door.admission)


async def _doors(store: WorkerStore, claimed: Sequence[Admission]) -> list[Door]:
    """The machines that live; admissions to such as will not are dropped, others wait for their claim to run out."""
    keys = [admission.key for admission in claimed]
    stored, specs = await asyncio.gather(store.records(keys), store.specs(keys))
    doors: list[Door] = []
    for admission, one, spec in zip(claimed, stored, specs, strict=True):
        record = one.value
        if record is not None and record.phase in ON_ITS_WAY:
            continue
        if record is None or record.phase not in LIVE or not record.instance_id or not record.target:
            await store.drop_admission(admission)
            continue
        name = (spec.security_group_name if spec else None) or DEFAULT_GROUP_NAME
        doors.append(Door(admission, record, name, admission.vpc_id, admission.group_ids))
    return doors


async def _looked_at(target: Target, doors: Sequence[Door]) -> list[Door]:
    """The doors with their networks and groups; without those that EC2 does not show."""
    shown = await target.describe([door.record.instance_id or "" for door in doors if door.group_ids is None])
    found: list[Door] = []
    for door in doors:
        instance = shown.get(door.record.instance_id or "")
        if instance is not None:
            found.append(msgspec.structs.replace(door, vpc_id=instance.vpc_id, group_ids=instance.group_ids))
        elif door.group_ids is not None:
            found.append(door)
    return found


async def _open(target: Target, door: Door) -> bool:
    """Whether the admission is made, or never can be."""
    record, cidrs = door.record, door.admission.cidrs
    try:
        group = await target.group(door.group_name, door.vpc_id, cidrs, {MANAGED: "true"})
        if group.group_id not in (door.group_ids or ()):
            # The call replaces the groups that a machine has: they are read right before.
            instance = (await target.describe([record.instance_id or ""])).get(record.instance_id or "")
            if instance is None:
                return False
            await ec2.add_group(target.caller, instance.instance_id, instance.group_ids, group.group_id)
    except Ec2Error as error:
        # A machine that runs never fails for its door: what is missing is told, and tried again.
        done = is_final(error)
        _log.warning("admission.refused", namespace=record.namespace, tag=record.tag,
                     code=error.code, message=error.message, final=done)  # fmt: skip
        return done
    _log.info("admission.made", namespace=record.namespace, tag=record.tag, group_id=group.group_id,
              cidrs=list(cidrs), notice=group.notice)  # fmt: skip
    return True
