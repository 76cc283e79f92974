"""ingress: lets further addresses reach a machine that exists already. A stage of every worker.

May run twice: a rule or a group that exists already is fine. May be killed anywhere: a rule is removed from the due
items last.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

import msgspec
import structlog

from puter_client.contract.phase import LIVE, ON_ITS_WAY
from puter_client.contract.record import Record
from puter_worker.ec2 import instances as ec2
from puter_worker.errors import StageError, is_final
from puter_worker.stages.stage import Stage, until_due
from puter_worker.store import wakeups
from puter_worker.store.ingress import IngressRule
from puter_worker.store.store import Store
from puter_worker.store.txn import Txn
from puter_worker.target import Target, TargetId
from puter_worker.targets import Targets
from puter_worker.tasks import wait_for_all
from puter_worker.timings import Timings

_log = structlog.get_logger("puter.ingress")
AT_ONCE = 200  # as many instances as one call describes


class Opening(msgspec.Struct, frozen=True):
    """A machine that is to let addresses in, with its VPC and groups if they are known."""

    rule: IngressRule
    record: Record
    group_name: str | None
    vpc_id: str | None = None
    group_ids: tuple[str, ...] | None = None


class Ingress(Stage):
    """Adds the ingress rules of all targets that this worker reaches."""

    name = "ingress"
    topics = frozenset({wakeups.INGRESS})
    least_gap_s = 0.1

    def __init__(self, store: Store, targets: Targets, timings: Timings) -> None:
        super().__init__()
        self._store = store
        self._targets = targets
        self._timings = timings

    async def run_once(self) -> float:
        """Add the rules that are due."""
        until = self._store.now() + self._timings.ingress_claim_s
        claimed = await self._store.ingress.claim(AT_ONCE, until)
        openings: dict[str, list[Opening]] = defaultdict(list)
        for opening in await self._openings(claimed):
            openings[opening.record.target or ""].append(opening)
        await wait_for_all(self._open_all(text, of_target, until) for text, of_target in openings.items())
        due = await self._store.ingress.next_due()
        return until_due(due, self._store.now(), at_most=self._timings.sweep_s)

    async def _openings(self, claimed: Sequence[IngressRule]) -> list[Opening]:
        """The living machines of these rules. Rules of keys on their way stay claimed; all others are dropped."""
        keys = [rule.key for rule in claimed]
        stored, specs = await asyncio.gather(self._store.records.read(keys), self._store.records.specs(keys))
        openings: list[Opening] = []
        for rule, one, spec in zip(claimed, stored, specs, strict=True):
            record = one.value
            if record is not None and record.phase in ON_ITS_WAY:
                continue
            if record is None or record.phase not in LIVE or not record.instance_id or not record.target:
                await self._drop(rule)
                continue
            if refusal := self._targets.rules.refusal_of_access(rule.namespace, rule.cidrs):
                # The policy has become stricter since the request was taken.
                self._targets.rules.refused(refusal)
                _log.warning("ingress.not_allowed", namespace=rule.namespace, tag=rule.tag, why=str(refusal))
                await self._drop(rule)
                continue
            name = spec.security_group_name if spec else None
            openings.append(Opening(rule, record, name, rule.vpc_id, rule.group_ids))
        return openings

    async def _open_all(self, text: str, openings: Sequence[Opening], until: float) -> None:
        target_id = TargetId.parse(text)
        if not await self._targets.reaches(target_id):
            txn, at = Txn(), self._store.now() + 2 * self._timings.another_worker_s
            for opening in openings:
                self._store.ingress.reschedule(txn, opening.rule, at)
            await self._store.commit(txn)
            return
        target = self._targets.get(target_id)
        try:
            looked_at = await _looked_at(target, openings)
        except StageError as error:
            _log.warning("stage.refused", stage="ingress", target=text, code=error.code, message=error.message)
            return
        for opening in looked_at:
            if self._store.now() > until:
                return  # the claim has ended: another worker may have claimed the others
            if await _open(target, opening):
                await self._drop(opening.rule)

    async def _drop(self, rule: IngressRule) -> None:
        txn = Txn()
        self._store.ingress.remove(txn, rule)
        await self._store.commit(txn)


async def _looked_at(target: Target, openings: Sequence[Opening]) -> list[Opening]:
    """The machines with their VPCs and groups; machines that EC2 does not show are left out."""
    shown = await target.describe([one.record.instance_id or "" for one in openings if one.group_ids is None])
    found: list[Opening] = []
    for opening in openings:
        instance = shown.get(opening.record.instance_id or "")
        if instance is not None:
            found.append(msgspec.structs.replace(opening, vpc_id=instance.vpc_id, group_ids=instance.group_ids))
        elif opening.group_ids is not None:
            found.append(opening)
    return found


async def _open(target: Target, opening: Opening) -> bool:
    """Add one rule; returns whether it is done: it exists now, or can never be added."""
    record, cidrs = opening.record, opening.rule.cidrs
    try:
        group = await target.group(opening.group_name, opening.vpc_id, cidrs, record.namespace)
        if group.group_id not in (opening.group_ids or ()):
            # The call replaces all groups of a machine, so they are read right before it.
            instance = (await target.describe([record.instance_id or ""])).get(record.instance_id or "")
            if instance is None:
                return False
            await ec2.add_group(target.caller, instance.instance_id, instance.group_ids, group.group_id)
    except StageError as error:
        # A running machine never fails because of its ingress rules: the error is logged, and the rule tried again.
        done = is_final(error)
        _log.warning("ingress.refused", namespace=record.namespace, tag=record.tag,
                     code=error.code, message=error.message, final=done)  # fmt: skip
        return done
    _log.info("ingress.opened", namespace=record.namespace, tag=record.tag, group_id=group.group_id,
              cidrs=list(cidrs), notice=group.notice)  # fmt: skip
    return True
