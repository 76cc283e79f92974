"""The whole simulator without its wires: a call in, an answer out, and a line in the ledger."""

from __future__ import annotations

import traceback
from collections.abc import Iterator

import msgspec

from tests.ec2sim.actions import find_action
from tests.ec2sim.clock import Clock, RealClock
from tests.ec2sim.config import SimConfig
from tests.ec2sim.dials import Dials
from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.faults import FaultDesk, Plan
from tests.ec2sim.instance import Instance
from tests.ec2sim.launch import instances_asked
from tests.ec2sim.ledger import Entry, Ledger, digest_of, told_params
from tests.ec2sim.region import Region
from tests.ec2sim.wire import Params, elements, error_response, response, sts_response


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request as it came in.

    Attributes:
        action: EC2's or STS's name of it.
        form: the fields.
        access_key: id of the key it is signed with.
        region: it is signed for.
        service: ec2 or sts.
    """

    action: str
    form: dict[str, str]
    access_key: str
    region: str
    service: str = "ec2"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What goes back.

    Attributes:
        status: HTTP status.
        body: XML.
        request_id: EC2's.
    """

    status: int
    body: bytes
    request_id: str


class World:
    """Everything there is; one for each simulator.

    Attributes:
        dials: behaviour, time and dice.
        ledger: every call.
        regions: by account and region, made when first requested.
        bugs: tracebacks of the simulator's own defects; a test that sees one has proved nothing.
    """

    def __init__(self, config: SimConfig | None = None, clock: Clock | None = None) -> None:
        self._clock = clock or RealClock()
        self._faults = FaultDesk(Dials(config or SimConfig(), self._clock))
        self.reset(config or SimConfig())

    def reset(self, config: SimConfig) -> None:
        """Start again: nothing launched, nothing written, every bucket full. The clock goes on.

        What was called before has no effect any more.
        """
        self._faults.replaced.set()
        self.dials = Dials(config, self._clock)
        self.ledger = Ledger()
        self.regions: dict[tuple[str, str], Region] = {}
        self.bugs: list[str] = []
        self._faults = FaultDesk(self.dials)

    def configure(self, config: SimConfig, *, new_faults: bool = True) -> None:
        """Change the behaviour from now on; `new_faults` are counted from zero."""
        self.dials.config = config
        if new_faults:
            self._faults.replaced.set()
            self._faults = FaultDesk(self.dials)
        for region in self.regions.values():
            region.throttle.retune()

    def plan(self, call: Call) -> Plan:
        """The faults of a call."""
        return self._faults.plan(call.action, call.region, call.access_key, call.form)

    def answer(self, call: Call, plan: Plan | None = None) -> Answer:
        """Execute a call."""
        plan = plan or Plan()
        account = self.dials.config.accounts.get(call.access_key, self.dials.config.account_id)
        request_id = self._request_id()
        effect: tuple[str, ...] = ()
        error: Ec2Error | None = None
        inner = ""
        try:
            inner, effect = self._perform(call, plan, account)
            error = plan.blunder
        except Ec2Error as refused:
            error = refused
        except Exception:  # noqa: BLE001  a defect here must fail the test, not look like a fault of EC2's
            self.bugs.append(traceback.format_exc())
            error = Ec2Error("SimulatorDefect", "The simulator failed; see its log.", 500)
        self._note(call, plan, account, request_id, effect, error)
        if error:
            return Answer(
                status=error.status, body=error_response(call.service, error, request_id), request_id=request_id
            )
        write = sts_response if call.service == "sts" else response
        return Answer(status=200, body=write(call.action, request_id, inner), request_id=request_id)

    def instances(self) -> Iterator[Instance]:
        """All instances that can still be seen, of every account and region, as they are now."""
        for region in self.regions.values():
            region.roster.settle()
            yield from region.roster

    def find(self, instance_id: str) -> tuple[Region, Instance]:
        """An instance wherever it is; raises InvalidInstanceID.NotFound."""
        for region in self.regions.values():
            region.roster.settle()
            if instance_id in region.roster.by_id:
                return region, region.roster.by_id[instance_id]
        raise Ec2Error("InvalidInstanceID.NotFound", f"The instance ID '{instance_id}' does not exist", 404)

    def _perform(self, call: Call, plan: Plan, account: str) -> tuple[str, tuple[str, ...]]:
        if plan.lost:
            return "", ()
        if call.region not in self.dials.config.regions:
            raise Ec2Error("AuthFailure", "AWS was not able to validate the provided access credentials")
        if call.service == "sts":
            return self._perform_sts(call, plan, account), ()
        region = self._region(account, call.region)
        region.roster.settle()
        params = Params.of(call.form.items())
        region.throttle.admit(call.action, not params.names.isdisjoint({"Filter", "MaxResults", "NextToken"}))
        if call.action == "RunInstances":
            # Before any refusal: one for capacity, a quota or a fault of EC2's costs as much as a success.
            region.throttle.admit_instances(instances_asked(params))
        if plan.refusal:
            raise plan.refusal
        action = find_action(call.action, params)
        # RunInstances says itself whether it would have succeeded.
        if params.flag("DryRun") and call.action != "RunInstances":
            raise Ec2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        return action.handle(region, params, call.form)

    def _perform_sts(self, call: Call, plan: Plan, account: str) -> str:
        if plan.refusal:
            raise plan.refusal
        if call.action != "GetCallerIdentity":
            raise Ec2Error("InvalidAction", f"Could not find operation {call.action}")
        arn = f"arn:aws:iam::{account}:user/{call.access_key}"
        return elements({"Arn": arn, "UserId": call.access_key, "Account": account})

    def _region(self, account: str, name: str) -> Region:
        region = self.regions.get((account, name))
        if region is None:
            region = self.regions[account, name] = Region(self.dials, account, name)
        return region

    def _request_id(self) -> str:
        digits = f"{self.dials.dice('requests').getrandbits(128):032x}"
        return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"

    def _note(
        self, call: Call, plan: Plan, account: str, request_id: str, effect: tuple[str, ...], error: Ec2Error | None
    ) -> None:
        code, status = (error.code, error.status) if error else ("OK", 200)
        if plan.lost:
            code, status = "Lost", 0
        self.ledger.add(
            Entry(
                number=len(self.ledger.entries) + 1,
                at=self.dials.now(),
                account=account,
                region=call.region,
                access_key=call.access_key,
                action=call.action,
                digest=digest_of(call.form),
                params=told_params(call.form),
                effect=effect,
                code=code,
                status=status,
                answer="dropped" if plan.drop or plan.lost else "cut" if plan.cut else "whole",
                request_id=request_id,
            )
        )
