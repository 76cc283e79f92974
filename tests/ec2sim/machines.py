"""Calls about instances that are there: describe, tag, modify, read the console, stop, terminate."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tests.ec2sim.errors import Ec2Error, invalid_value
from tests.ec2sim.filters import Filters
from tests.ec2sim.instance import ENDING, FILTERS, Instance, State, reservation_set
from tests.ec2sim.order import checked_groups
from tests.ec2sim.paging import Page
from tests.ec2sim.roster import not_found
from tests.ec2sim.tags import check_count, check_metadata_keys, read_tags
from tests.ec2sim.wire import Node, Params, element, elements, timestamp

if TYPE_CHECKING:
    from tests.ec2sim.region import Region

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html
MAX_CONSOLE = 65_536
Done = tuple[str, tuple[str, ...]]
_RETURN_TRUE = "<return>true</return>"


def describe_instances(region: Region, params: Params) -> str:
    """DescribeInstances; no ids at all means everything."""
    page = Page(params)
    filters = Filters(params, FILTERS, most=region.dials.config.filter_values)
    ids = params.texts("InstanceId")
    if ids and page.limit is not None:
        message = "The parameter instancesSet cannot be used with the parameter maxResults"
        raise Ec2Error("InvalidParameterCombination", message)
    dials = region.dials
    now = dials.now()
    seen = region.roster.find_all(ids) if ids else [one for one in region.roster if one.listed.finds(now)]
    if page.limit is not None and dials.config.short_pages:
        page.limit = dials.dice("pages").randint(0, page.limit)
    shown, token = page.cut([one for one in seen if filters.match(one)], lambda one: one.number)
    rows = list(shown)
    if dials.config.shuffled:
        dials.dice("order").shuffle(rows)
    return reservation_set(rows) + elements({"nextToken": token})


def create_tags(region: Region, params: Params) -> Done:
    """CreateTags: all resources or none."""
    ids, tags = params.texts("ResourceId"), read_tags(params)
    if not ids or not tags:
        raise Ec2Error("MissingParameter", "The request must contain the parameters resourceIdSet and tagSet")
    instances: list[Instance] = []
    others: list[dict[str, str]] = []
    for each in dict.fromkeys(ids):
        if each.startswith("i-"):
            instances.append(_taggable(region, each))
        else:
            others.append(_tags_of(region, each))
    for one in instances:
        check_count({**one.tags, **tags})
        if one.options.metadata_tags:
            check_metadata_keys(tags)
    for there in others:
        check_count({**there, **tags})
    for one in instances:
        region.roster.set_tags(one, tags)
    for there in others:
        there.update(tags)
    return _RETURN_TRUE, tuple(ids)


def _taggable(region: Region, instance_id: str) -> Instance:
    one = region.roster.by_id.get(instance_id)
    if one is None or region.dials.now() < one.taggable_at:
        raise not_found([instance_id])
    return one


def _tags_of(region: Region, resource_id: str) -> dict[str, str]:
    kind = resource_id.partition("-")[0]
    if kind == "sg":
        return region.groups.find(resource_id).tags
    if kind == "subnet":
        return region.network.find_subnet(resource_id).tags
    if kind == "vpc":
        return region.network.find_vpc(resource_id).tags
    if kind == "vol":
        one = region.roster.by_volume.get(resource_id)
        if one is None or region.dials.now() < one.taggable_at:
            raise Ec2Error("InvalidVolume.NotFound", f"The volume '{resource_id}' does not exist.")
        return one.volume_tags
    for pair in region.keys.by_name.values():
        if pair.id == resource_id:
            return pair.tags
    raise Ec2Error("InvalidID", f"The ID '{resource_id}' is not valid")


def modify_attribute(region: Region, params: Params) -> Done:
    """ModifyInstanceAttribute: security groups, the shutdown behaviour, protection against termination."""
    one = region.roster.find(params.need("InstanceId"))
    if one.state in ENDING:
        message = f"The instance ID '{one.id}' is in an incorrect state for the attribute to be modified"
        raise Ec2Error("IncorrectInstanceState", message)
    if params.texts("GroupId"):
        found = [region.groups.find(each) for each in params.texts("GroupId")]
        one.groups = list(checked_groups(found, one.subnet.vpc.id))
    elif "InstanceInitiatedShutdownBehavior" in params:
        one.shutdown_behavior = _behavior(params.section("InstanceInitiatedShutdownBehavior").need("Value"))
    elif "DisableApiTermination" in params:
        one.protected = bool(params.section("DisableApiTermination").flag("Value"))
    elif params.text("Attribute") == "instanceInitiatedShutdownBehavior":
        one.shutdown_behavior = _behavior(params.need("Value"))
    else:
        raise Ec2Error("InvalidParameterCombination", "No attributes specified.")
    one.changed()
    return _RETURN_TRUE, (one.id,)


def _behavior(value: str) -> str:
    if value not in {"stop", "terminate"}:
        raise invalid_value("instanceInitiatedShutdownBehavior", value, "Expecting stop or terminate.")
    return value


def console_output(region: Region, params: Params) -> str:
    """GetConsoleOutput: what was posted, by hand or after the delay, or all with `Latest`."""
    one = region.roster.find(params.need("InstanceId"))
    latest = params.flag("Latest")
    if latest and not one.options.type.nitro:
        message = "This instance type does not support retrieving the latest console logs."
        raise Ec2Error("UnsupportedOperation", message)
    now = region.dials.now()
    if latest:
        written = one.console
    elif one.posted is not None:
        written = one.console[: one.posted]
    else:
        written = [each for each in one.console if each[0] <= now - region.dials.config.console_delay_s]
    text = b"".join(text for _, text in written)[-MAX_CONSOLE:]
    answer: Mapping[str, Node] = {
        "instanceId": one.id,
        "timestamp": timestamp(written[-1][0] if written else now),
        "output": base64.b64encode(text).decode() if text else None,
    }
    return elements(answer)


def terminate_instances(region: Region, params: Params) -> Done:
    """TerminateInstances: all or none."""
    found = region.roster.find_all(params.texts("InstanceId"))
    for one in found:
        if one.protected and one.state not in ENDING:
            message = f"The instance '{one.id}' may not be terminated. Modify its 'disableApiTermination' attribute."
            raise Ec2Error("OperationNotPermitted", message)
    before = {one.id: one.shown_state for one in found}
    changed = tuple(one.id for one in found if one.state not in ENDING)
    for one in found:
        region.roster.end(one)
    return _changes(found, before), changed


def stop_instances(region: Region, params: Params) -> Done:
    """StopInstances: all or none."""
    found = region.roster.find_all(params.texts("InstanceId"))
    for one in found:
        if one.state in ENDING or one.state is State.PENDING:
            message = f"This instance '{one.id}' is not in a state from which it can be stopped."
            raise Ec2Error("IncorrectInstanceState", message)
    before = {one.id: one.shown_state for one in found}
    changed = tuple(one.id for one in found if one.state is State.RUNNING)
    for one in found:
        region.roster.stop(one)
    return _changes(found, before), changed


def _changes(found: list[Instance], before: Mapping[str, Mapping[str, Node]]) -> str:
    if not found:
        raise Ec2Error("MissingParameter", "The request must contain the parameter instancesSet")
    items: list[Node] = [
        {"instanceId": one.id, "currentState": one.shown_state, "previousState": before[one.id]} for one in found
    ]
    return element("instancesSet", items)
