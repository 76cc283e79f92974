"""RunInstances: the buckets first, then the ClientToken, then room, then the instances.

Idempotency: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from tests.ec2sim.errors import Ec2Error
from tests.ec2sim.instance import Instance, Sight, State, render_shared, reservation_head
from tests.ec2sim.ledger import digest_of
from tests.ec2sim.network import Subnet
from tests.ec2sim.order import Order, named_place, read_order, read_token
from tests.ec2sim.room import find_room
from tests.ec2sim.wire import Params, Raw, element

if TYPE_CHECKING:
    from tests.ec2sim.region import Region


class Binding(msgspec.Struct, kw_only=True):
    """What a ClientToken stands for in its scope.

    Attributes:
        digest: of the parameters it came with.
        bound_at: when.
        instances: that it launched; none if there was no capacity.
    """

    digest: str
    bound_at: float
    instances: list[Instance]


class Tokens:
    """The ClientTokens of a region, by scope (a zone's or the region's name) and token."""

    def __init__(self) -> None:
        self._bindings: dict[tuple[str, str], Binding] = {}

    def find(self, scope: str, token: str, since: float) -> Binding | None:
        """What a token stands for, if it was bound since then."""
        binding = self._bindings.get((scope, token))
        return binding if binding and binding.bound_at >= since else None

    def bind(self, scope: str, token: str, binding: Binding) -> None:
        """From now on the token stands for this."""
        self._bindings[scope, token] = binding


def instances_asked(params: Params) -> int:
    """What a launch takes of the bucket of instances: as many tokens as it wants instances at most."""
    return max(1, params.integer("MaxCount") or 1)


def run_instances(region: Region, params: Params, form: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """The answer, and the ids of the instances that this call launched.

    Raises:
        Ec2Error: as EC2 does.
    """
    token, digest = read_token(params), digest_of(form)
    scope = named_place(region, params)[1] or region.name
    now, config = region.dials.now(), region.dials.config
    bound = region.tokens.find(scope, token, now - config.token_lifetime_s) if token else None
    if bound and bound.digest != digest and config.token_mismatch == "error":
        message = "Arguments on this idempotent request are inconsistent with arguments used in previous request(s)."
        raise Ec2Error("IdempotentParameterMismatch", message)
    if bound and bound.instances:
        region.throttle.give_instances_back(instances_asked(params))
        return _again(region, token, bound.instances), ()
    order = read_order(region, params)
    if params.flag("DryRun"):
        raise Ec2Error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
    binding = bound or Binding(digest=digest, bound_at=now, instances=[])
    try:
        subnet, count = find_room(region, order)
    except Ec2Error as error:
        if token and error.code == "InsufficientInstanceCapacity" and config.token_bound_by_failed_launch:
            region.tokens.bind(scope, token, binding)
        raise
    binding.instances = _make(region, order, subnet, count)
    if token:
        region.tokens.bind(scope, token, binding)
    return _answer(region, binding.instances), tuple(one.id for one in binding.instances)


def _again(region: Region, token: str, instances: list[Instance]) -> str:
    if all(one.state in {State.SHUTTING_DOWN, State.TERMINATED} for one in instances):
        ways = region.dials.config.dead_token
        refuses = ways == "error" or (ways == "either" and region.dials.chance("tokens", 0.5))
        if refuses or any(one.gone for one in instances):
            message = f"The client token '{token}' was used for an instance that has been terminated"
            raise Ec2Error("IdempotentInstanceTerminated", message)
    return _answer(region, [one for one in instances if not one.gone])


def _answer(region: Region, instances: list[Instance]) -> str:
    shown = list(instances)
    if region.dials.config.shuffled:
        region.dials.dice("order").shuffle(shown)
    items = Raw("".join(one.xml for one in shown))
    return reservation_head(shown[0]) + element("instancesSet", items)


def _make(region: Region, order: Order, subnet: Subnet, count: int) -> list[Instance]:
    dials = region.dials
    indexes = list(range(count))
    if order.options.spot:
        indexes = [0] * count
    elif count < order.high and dials.config.gaps:
        indexes = sorted(dials.dice("order").sample(range(order.high), count))
    reservation_id = dials.identifier("r")
    shared_xml = render_shared(order.options)
    made = [_one(region, order, subnet, index, reservation_id, shared_xml) for index in indexes]
    for one in made:
        region.roster.add(one)
    return made


def _one(region: Region, order: Order, subnet: Subnet, index: int, reservation_id: str, shared_xml: str) -> Instance:
    dials, config = region.dials, region.dials.config
    now = dials.now()
    region.launches += 1
    return Instance(
        id=dials.identifier("i"),
        number=region.launches,
        account=region.account,
        region=region.name,
        reservation_id=reservation_id,
        launch_index=index,
        options=order.options,
        shared_xml=shared_xml,
        subnet=subnet,
        groups=list(order.groups),
        private_ip=subnet.take_address(),
        volume_id=dials.identifier("vol"),
        spot_request_id=dials.identifier("sir") if order.options.spot else None,
        launched_at=float(int(now)),
        by_id=_sight(region, config.id_lag_s),
        listed=_sight(region, config.list_lag_s),
        taggable_at=now + dials.draw("lag", config.create_tags_lag_s),
        tags=dict(order.tags),
        shown_tags=dict(order.tags),
        volume_tags=dict(order.volume_tags),
        shutdown_behavior=order.options.shutdown_behavior,
    )


def _sight(region: Region, span: tuple[float, float]) -> Sight:
    now, lag = region.dials.now(), region.dials.draw("lag", span)
    if lag and region.dials.chance("lag", region.dials.config.flapping):
        return Sight(first=now + lag / 3, lost=now + 2 * lag / 3, back=now + lag)
    return Sight(first=now + lag, lost=now + lag, back=now + lag)
