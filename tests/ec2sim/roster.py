"""The instances of a region through their lives: what happens to them with time, and what they hold."""

from __future__ import annotations

import heapq
import ipaddress
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from tests.ec2sim.dials import Dials
from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.instance import ENDING, Instance, State

# Addresses set aside for benchmarks of devices (RFC 2544): nobody's machine has one.
_PUBLIC = int(ipaddress.IPv4Address("198.18.0.0"))
_PUBLIC_SIZE = 131_072
_SELF = ("Client.InstanceInitiatedShutdown", "Client.InstanceInitiatedShutdown: Instance initiated shutdown")
_USER = ("Client.UserInitiatedShutdown", "Client.UserInitiatedShutdown: User initiated shutdown")
_BROKEN = ("Server.InternalError", "Server.InternalError: Internal error on launch")


class Roster:
    """All instances that can still be seen.

    Attributes:
        by_id: in the order of their launches.
        live: holding instances by zone, type and market.
        vcpus: of holding on-demand instances, by quota class.
        on_demand: holding on-demand instances.
        spot: holding Spot instances.
    """

    def __init__(self, dials: Dials) -> None:
        self._dials = dials
        self.by_id: dict[str, Instance] = {}
        self.by_volume: dict[str, Instance] = {}
        self.live: Counter[tuple[str, str, str]] = Counter()
        self.vcpus: Counter[str] = Counter()
        self.on_demand = 0
        self.spot = 0
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._events = 0
        self._addresses = 0
        self._moment: float | None = None

    def __iter__(self) -> Iterator[Instance]:
        return iter(self.by_id.values())

    def settle(self) -> None:
        """Execute everything that is due."""
        now = self._dials.now()
        while self._agenda and self._agenda[0][0] <= now:
            # What follows from an event counts from when it was due, not from when somebody looked.
            self._moment, _, event = heapq.heappop(self._agenda)
            event()
        self._moment = None

    def find(self, instance_id: str) -> Instance:
        """An instance that a call names; raises InvalidInstanceID.Malformed or InvalidInstanceID.NotFound."""
        if not instance_id.startswith("i-"):
            raise Ec2Error("InvalidInstanceID.Malformed", f'Invalid id: "{instance_id}"')
        one = self.by_id.get(instance_id)
        if one is None or not one.by_id.finds(self._dials.now()):
            raise not_found([instance_id])
        return one

    def find_all(self, instance_ids: list[str]) -> list[Instance]:
        """Instances that a call names, all or none; raises as `find` does, naming everyone missing."""
        found: list[Instance] = []
        missing: list[str] = []
        for instance_id in dict.fromkeys(instance_ids):
            try:
                found.append(self.find(instance_id))
            except Ec2Error as error:
                if error.code != "InvalidInstanceID.NotFound":
                    raise
                missing.append(instance_id)
        if missing:
            raise not_found(missing)
        return found

    # lives

    def add(self, one: Instance) -> None:
        """A new instance begins its life."""
        config = self._dials.config
        self.by_id[one.id] = one
        self.by_volume[one.volume_id] = one
        self._hold(one, +1)
        broken = self._dials.chance("lives", config.stillborn)
        begins = partial(self._break, one) if broken else partial(self._run, one)
        self._after(self._dials.draw("lives", config.pending_s), begins)

    def set_tags(self, one: Instance, tags: Mapping[str, str]) -> None:
        """Tags that will be shown when their lag is over."""
        one.tags.update(tags)
        one.faded.difference_update(tags)
        lag = self._dials.draw("lag", self._dials.config.tag_lag_s)
        if lag:
            self._after(lag, partial(self._show_tags, one, dict(tags)))
        else:
            self._show_tags(one, tags)

    def end(self, one: Instance, reason: tuple[str, str] = _USER) -> None:
        """The instance is terminated; nothing if it is already."""
        if one.state in ENDING:
            return
        if one.state is State.STOPPED:
            self._hold(one, +1)
        one.state = State.SHUTTING_DOWN
        self._note(one, reason)
        self._after(self._dials.draw("lives", self._dials.config.shutdown_s), partial(self._terminate, one))

    def stop(self, one: Instance, reason: tuple[str, str] = _USER) -> None:
        """The instance is stopped; raises IncorrectInstanceState if it is ending."""
        if one.state in ENDING or one.state is State.PENDING:
            message = f"This instance '{one.id}' is not in a state from which it can be stopped."
            raise Ec2Error("IncorrectInstanceState", message)
        if one.state is State.RUNNING:
            one.state = State.STOPPING
            self._note(one, reason)
            self._after(self._dials.draw("lives", self._dials.config.shutdown_s), partial(self._halt, one))

    def shut_down(self, one: Instance) -> None:
        """The instance shuts itself down, and EC2 does as its InstanceInitiatedShutdownBehavior says.

        Raises:
            Ec2Error: IncorrectInstanceState if it does not run.
        """
        if one.state is not State.RUNNING:
            raise Ec2Error("IncorrectInstanceState", f"The instance '{one.id}' is {one.state}, so it runs nothing.")
        if one.shutdown_behavior == "terminate":
            self.end(one, _SELF)
        else:
            self.stop(one, _SELF)

    def _run(self, one: Instance) -> None:
        if one.state is State.PENDING:
            one.state = State.RUNNING
            one.changed()
            if self._dials.config.greeting:
                greeting = f"Amazon Linux\r\ncloud-init: launch index {one.launch_index}\r\n"
                one.console.append((self._now(), greeting.encode()))
            lag = self._dials.draw("lives", self._dials.config.address_s)
            if lag:
                self._after(lag, partial(self._give_address, one))
            else:
                self._give_address(one)

    def _give_address(self, one: Instance) -> None:
        wanted = one.subnet.public if one.options.public is None else one.options.public
        if one.state is State.RUNNING and wanted:
            one.public_ip = str(ipaddress.IPv4Address(_PUBLIC + self._addresses % _PUBLIC_SIZE))
            self._addresses += 1
            one.changed()

    def _break(self, one: Instance) -> None:
        if one.state is State.PENDING:
            self._note(one, _BROKEN)
            one.reason = "Server.InternalError"
            one.state = State.SHUTTING_DOWN
            self._terminate(one)

    def _halt(self, one: Instance) -> None:
        if one.state is State.STOPPING:
            one.state = State.STOPPED
            one.public_ip = None
            self._hold(one, -1)
            one.changed()

    def _terminate(self, one: Instance) -> None:
        if one.state is not State.SHUTTING_DOWN:
            return
        config = self._dials.config
        one.state = State.TERMINATED
        one.ended_at = self._now()
        one.public_ip = None
        one.subnet.return_address(one.private_ip)
        self._hold(one, -1)
        one.changed()
        keys = list(one.tags)
        self._dials.dice("lives").shuffle(keys)
        for number, key in enumerate(keys, 1):
            self._after(config.tags_fade_s * number / len(keys), partial(self._fade, one, key))
        self._after(config.gone_s, partial(self._forget, one))

    def _fade(self, one: Instance, key: str) -> None:
        one.shown_tags.pop(key, None)
        one.faded.add(key)
        one.changed()

    def _show_tags(self, one: Instance, tags: Mapping[str, str]) -> None:
        one.shown_tags.update({key: value for key, value in tags.items() if key not in one.faded})
        one.changed()

    def _forget(self, one: Instance) -> None:
        one.gone = True
        self.by_id.pop(one.id, None)
        self.by_volume.pop(one.volume_id, None)

    def _note(self, one: Instance, reason: tuple[str, str]) -> None:
        one.state_reason = reason
        at = time.strftime("%Y-%m-%d %H:%M:%S GMT", time.gmtime(self._now()))
        one.reason = f"User initiated ({at})" if reason[0].startswith("Client.User") else ""
        one.changed()

    def _now(self) -> float:
        return self._dials.now() if self._moment is None else self._moment

    def _after(self, seconds: float, event: Callable[[], None]) -> None:
        # The count keeps events of one moment in their order.
        self._events += 1
        heapq.heappush(self._agenda, (self._now() + seconds, self._events, event))

    def _hold(self, one: Instance, sign: int) -> None:
        kind = one.options.type
        self.live[one.subnet.zone.name, kind.name, one.options.market] += sign
        if one.options.spot:
            self.spot += sign
        else:
            self.on_demand += sign
            self.vcpus[kind.quota] += sign * kind.vcpus


def not_found(instance_ids: list[str]) -> Ec2Error:
    """InvalidInstanceID.NotFound, in the singular or plural."""
    ids = ", ".join(instance_ids)
    if len(instance_ids) == 1:
        return Ec2Error("InvalidInstanceID.NotFound", f"The instance ID '{ids}' does not exist")
    return Ec2Error("InvalidInstanceID.NotFound", f"The instance IDs '{ids}' do not exist")
