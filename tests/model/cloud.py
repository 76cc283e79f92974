"""A small EC2: the effect of its calls on the number of machines, and nothing else.

Its rules are AWS's: a ClientToken launches once in its scope (a zone, or the region), answers another call with a
mismatch, and is bound by a launch that failed for capacity; new machines and tags are not to be seen for a while, and
may be seen, missed and seen again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import ClientError

from puter_client.contract.key import PuterKey
from puter_worker.ec2.errors import stage_error
from puter_worker.ec2.tags import key_of, number_of
from puter_worker.errors import NotReached, StageError, Unanswered
from tests.model.steps import HandLoop

EPOCH_S = 1_700_000_000.0


@dataclass(eq=False)
class Machine:
    """One instance; `tags` as they are, `shown_from` when each of those given later is to be seen."""

    id: str
    index: int
    token: str
    launched_at: float
    seen: tuple[float, float, float]
    tags: dict[str, str]
    shown_from: dict[str, float] = field(default_factory=dict)
    born: dict[str, str] = field(default_factory=dict)
    live: bool = True

    @property
    def key(self) -> PuterKey | None:
        """The key that the machine belongs to."""
        named = key_of(self.born, number_of(self.born, self.index))
        return named[0] if named else None

    def is_shown(self, now: float) -> bool:
        """Whether a Describe shows it: from the first moment until the second, and from the third on."""
        first, missed, again = self.seen
        return first <= now < missed or now >= again

    def shown_tags(self, now: float) -> dict[str, str]:
        """Tags as a Describe shows them."""
        late = {name for name, at in self.shown_from.items() if now < at}
        return {name: self.born.get(name, value) if name in late else value for name, value in self.tags.items()
                if name not in late or name in self.born}  # fmt: skip


@dataclass
class Binding:
    """What a ClientToken is bound to."""

    call: str
    machines: list[Machine]


@dataclass
class Weather:
    """The present behaviour of EC2.

    Attributes:
        lag_s: until all new machines of a launch, or a new tag, are to be seen.
        flaps: whether it is then missed again for as long.
        room: machines that EC2 has capacity for; None is any number.
        dead_come_back: whether a token whose machines have ended answers them, or an error.
        permitted: whether the worker's role may launch.
    """

    lag_s: float = 0.0
    flaps: bool = False
    room: int | None = None
    dead_come_back: bool = False
    permitted: bool = True


class Cloud:
    """All machines of one account and region."""

    def __init__(self, loop: HandLoop) -> None:
        self._loop = loop
        self._dice = random.Random(1)
        self._bindings: dict[tuple[str, str], Binding] = {}
        self.machines: list[Machine] = []
        self.weather = Weather()
        self.calls: list[str] = []

    @property
    def now(self) -> float:
        """Seconds since 1970."""
        return EPOCH_S + self._loop.at

    def live(self, key: PuterKey) -> list[Machine]:
        """The live machines of a key."""
        return [machine for machine in self.machines if machine.live and machine.key == key]

    def call(self, action: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """One call and its answer, as the SDK gives it.

        Raises:
            StageError: refused.
        """
        self.calls.append(action)
        answer: dict[str, Any] = getattr(self, f"_{action}")(params)
        return {**answer, "ResponseMetadata": {"RequestId": f"r-{len(self.calls)}"}}

    def _RunInstances(self, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802 - EC2's name
        if not self.weather.permitted:
            raise refusal("UnauthorizedOperation", 403)
        scope = params.get("Placement", {}).get("AvailabilityZone", "region")
        token = params["ClientToken"]
        call = repr(sorted((name, value) for name, value in params.items() if name != "ClientToken"))
        bound = self._bindings.get((scope, token))
        if bound and bound.call != call:
            raise refusal("IdempotentParameterMismatch", 400)
        if bound and bound.machines:
            if not any(machine.live for machine in bound.machines) and not self.weather.dead_come_back:
                raise refusal("IdempotentInstanceTerminated", 400)
            return {"Instances": [self._shown(machine) for machine in bound.machines]}
        binding = self._bindings[scope, token] = bound or Binding(call, [])
        wanted = int(params["MaxCount"])
        count = wanted if self.weather.room is None else min(wanted, self.weather.room)
        if count < int(params["MinCount"]):
            raise refusal("InsufficientInstanceCapacity", 500)
        if self.weather.room is not None:
            self.weather.room -= count
        indexes = sorted(self._dice.sample(range(wanted), count))  # a partial fill may have gaps
        binding.machines = [self._launched(index, token, params) for index in indexes]
        return {"Instances": [self._shown(machine) for machine in binding.machines]}

    def _launched(self, index: int, token: str, params: Mapping[str, Any]) -> Machine:
        tags = {tag["Key"]: tag["Value"] for tag in params["TagSpecifications"][0]["Tags"]}
        # Of the machines of one launch some are to be seen sooner than others.
        now, lag = self.now, self.weather.lag_s * (index + 1) / int(params["MaxCount"])
        seen = (
            (now + lag / 3, now + 2 * lag / 3, now + lag) if self.weather.flaps else (now + lag, now + lag, now + lag)
        )
        machine = Machine(f"i-{len(self.machines):017x}", index, token, now, seen, dict(tags), born=dict(tags))
        self.machines.append(machine)
        return machine

    def _DescribeInstances(self, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802 - EC2's name
        now = self.now
        found = [machine for machine in self.machines if machine.is_shown(now)]
        for wanted in params["Filters"]:
            found = [machine for machine in found if _value(machine, wanted["Name"], now) in wanted["Values"]]
        return {"Reservations": [{"Instances": [self._shown(machine) for machine in found]}]}

    def _CreateTags(self, params: Mapping[str, Any]) -> dict[str, Any]:  # noqa: N802 - EC2's name
        (machine,) = (machine for machine in self.machines if machine.id in params["Resources"])
        if not machine.is_shown(self.now):
            raise refusal("InvalidInstanceID.NotFound", 400)
        for tag in params["Tags"]:
            machine.tags[tag["Key"]] = tag["Value"]
            machine.shown_from[tag["Key"]] = self.now + self.weather.lag_s
        return {}

    def _shown(self, machine: Machine) -> dict[str, Any]:
        return {
            "InstanceId": machine.id,
            "State": {"Name": _state(machine)},
            "LaunchTime": datetime.fromtimestamp(machine.launched_at, UTC),
            "AmiLaunchIndex": machine.index,
            "ClientToken": machine.token,
            "Tags": [{"Key": name, "Value": value} for name, value in machine.shown_tags(self.now).items()],
        }


def _state(machine: Machine) -> str:
    return "running" if machine.live else "terminated"


def _value(machine: Machine, name: str, now: float) -> str | None:
    if name == "instance-id":
        return machine.id
    if name == "instance-state-name":
        return _state(machine)
    return machine.shown_tags(now).get(name.removeprefix("tag:"))


def refusal(code: str, status: int) -> StageError:
    """An error, as the worker reads it from EC2's answer."""
    told: Any = {"Error": {"Code": code, "Message": "as asked"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return stage_error(ClientError(told, "RunInstances"))


def unanswered(doubtful: bool) -> StageError:
    """A call whose end is unknown, or that never reached EC2."""
    return Unanswered("EC2 did not answer in time") if doubtful else NotReached("EC2 was not reached")
