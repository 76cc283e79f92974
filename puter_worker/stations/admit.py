"""admit: lets further addresses reach a machine that was there already. A loop of every worker.

May run twice: a rule or a group that is there is fine. Killed anywhere: an admission is taken off the list last.
"""

from __future__ import annotations

import structlog

from puter_client.contract.phase import LIVE, ON_ITS_WAY
from puter_client.contract.spec import DEFAULT_GROUP_NAME
from puter_worker.ec2 import instances as ec2
from puter_worker.ec2.errors import Ec2Error
from puter_worker.ec2.tags import MANAGED
from puter_worker.fleet import FleetId, Fleets
from puter_worker.stations.waiting import is_final
from puter_worker.store.machines import Admission
from puter_worker.store.workerstore import WorkerStore

_log = structlog.get_logger("puter.admit")
AT_ONCE = 20
CLAIM_S = 15.0


async def admit(store: WorkerStore, fleets: Fleets) -> None:
    """Carry out the admissions that are due."""
    for admission in await store.claim_admissions(AT_ONCE, store.now() + CLAIM_S):
        try:
            done = await _admit(store, fleets, admission)
        except Ec2Error as error:
            # A machine that runs never fails for its door: what is missing is told, and tried again.
            done = is_final(error)
            _log.warning("admission.refused", namespace=admission.key.namespace, tag=admission.key.tag,
                         code=error.code, message=error.message, final=done)  # fmt: skip
        if done:
            await store.drop_admission(admission)


async def _admit(store: WorkerStore, fleets: Fleets, admission: Admission) -> bool:
    record = (await store.record(admission.key)).value
    (spec,) = await store.specs([admission.key])
    if record is None or record.phase in ON_ITS_WAY:
        return record is None
    if record.phase not in LIVE or not record.instance_id or not record.fleet:
        return True
    fleet_id = FleetId.parse(record.fleet)
    if not fleets.offers(fleet_id.profile):
        return False
    fleet = fleets.get(fleet_id)
    vpc_id, group_ids = admission.vpc_id, admission.group_ids
    name = (spec.security_group_name if spec else None) or DEFAULT_GROUP_NAME
    group = None if group_ids is None else await fleet.group(name, vpc_id, admission.cidrs, {MANAGED: "true"})
    if group is None or group.group_id not in (group_ids or ()):
        # The call replaces the groups that a machine has: they are read right before.
        instance = (await fleet.describe([record.instance_id])).get(record.instance_id)
        if instance is None:
            return False
        group = group or await fleet.group(name, instance.vpc_id, admission.cidrs, {MANAGED: "true"})
        await ec2.add_group(fleet.caller, record.instance_id, instance.group_ids, group.group_id)
    _log.info("admission.made", namespace=record.namespace, tag=record.tag, group_id=group.group_id,
              cidrs=list(admission.cidrs), notice=group.notice)  # fmt: skip
    return True
