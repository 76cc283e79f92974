"""Which of the configured faults a call meets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from fnmatch import fnmatchcase

import msgspec

from tests.ec2sim.config import Fault
from tests.ec2sim.dials import Dials
from tests.ec2sim.errors import Ec2Error


class Plan(msgspec.Struct, kw_only=True):
    """The faults of one call.

    Attributes:
        delay_before_s: wait before the effect.
        delay_after_s: wait between effect and answer.
        held_before: wait for this before the effect.
        held_after: wait for this between effect and answer.
        refusal: answered instead of having the effect.
        blunder: answered although the effect took place.
        lost: no effect and no answer.
        drop: no answer.
        cut: half an answer.
    """

    delay_before_s: float = 0.0
    delay_after_s: float = 0.0
    held_before: asyncio.Event | None = None
    held_after: asyncio.Event | None = None
    refusal: Ec2Error | None = None
    blunder: Ec2Error | None = None
    lost: bool = False
    drop: bool = False
    cut: bool = False

    @property
    def decided(self) -> bool:
        """Whether something ends the call other than it should."""
        return bool(self.refusal or self.blunder or self.lost or self.drop or self.cut)


class FaultDesk:
    """Counts how often each fault was met.

    Attributes:
        replaced: that other faults were configured.
    """

    def __init__(self, dials: Dials) -> None:
        self.replaced = asyncio.Event()
        self._dials = dials
        self._met: dict[Fault, list[int]] = {}

    def plan(self, action: str, region: str, access_key: str, form: Mapping[str, str]) -> Plan:
        """Decides for one call; `form`: its parameters."""
        config = self._dials.config
        plan = Plan(delay_before_s=self._dials.draw("latency", config.latency_s))
        for fault in config.faults:
            if self._concerns(fault, action, region, access_key, form) and self._strikes(fault, plan):
                self._apply(fault, plan)
        return plan

    @staticmethod
    def _concerns(fault: Fault, action: str, region: str, access_key: str, form: Mapping[str, str]) -> bool:
        return (
            fnmatchcase(action, fault.action)
            and fault.region in {None, region}
            and fault.access_key in {None, access_key}
            and all(fnmatchcase(form.get(name, ""), glob) for name, glob in fault.params)
        )

    def _strikes(self, fault: Fault, plan: Plan) -> bool:
        if plan.decided and (fault.code or fault.drop or fault.cut):
            return False
        counts = self._met.setdefault(fault, [0, 0])
        counts[0] += 1
        if counts[0] <= fault.skip or (fault.times is not None and counts[1] >= fault.times):
            return False
        if fault.probability < 1 and not self._dials.chance("faults", fault.probability):
            return False
        counts[1] += 1
        return True

    def _apply(self, fault: Fault, plan: Plan) -> None:
        held = self.replaced if fault.hold else None
        if fault.when == "before":
            plan.delay_before_s += fault.delay_s
            plan.held_before = plan.held_before or held
        else:
            plan.delay_after_s += fault.delay_s
            plan.held_after = plan.held_after or held
        if fault.code:
            error = Ec2Error(fault.code, fault.message, fault.status)
            if fault.when == "before":
                plan.refusal = error
            else:
                plan.blunder = error
        elif fault.drop and fault.when == "before":
            plan.lost = True
        elif fault.drop:
            plan.drop = True
        elif fault.cut:
            plan.cut = True
