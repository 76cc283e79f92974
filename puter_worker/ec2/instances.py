"""Instances: launching, looking up, tagging.

An empty look-up means that EC2 shows no instance at the moment, not that there is none: right after a launch EC2 may
show an instance in one answer and miss it in the next.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from puter_client.contract.key import PuterKey
from puter_worker.ec2.answers import Answer, Console, InstanceAnswer, Instances, ReservationAnswer
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.tags import (
    INTENT,
    LABELLED,
    LAUNCH_PREFIX,
    MANAGED,
    NAMESPACE,
    TAG_TAG,
    as_ec2,
    from_ec2,
    key_of,
    number_of,
)
from puter_worker.errors import Ec2Error, Handling

# AWS's pages say "200 values per filter"; the message of FilterLimitExceeded says "on a single call". The stricter
# limit is used.
MAX_FILTER_VALUES = 200
TAGS_A_CALL = MAX_FILTER_VALUES - 2  # `_managed` has two values
# Reading a page of 1,000 instances keeps the event loop busy for 0.3 s.
PAGE_SIZE = 250
_AT_ONCE = 4
LIVE_STATES = ("pending", "running", "stopping", "stopped")
ENDED_STATES = ("shutting-down", "terminated")

Filter = tuple[str, Sequence[str]]


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """An instance as EC2 described it.

    Attributes:
        instance_id: `i-…`.
        state: pending, running, shutting-down, terminated, stopping or stopped.
        state_reason_code: such as `Server.InsufficientInstanceCapacity`.
        state_reason: EC2's text for it.
        launch_time: seconds since 1970.
        number: its place among the members of its launch, from 0; None: it is one of a Spot launch, and not known yet.
        image_id: `ami-…`.
        instance_type: such as `t3.micro`.
        vcpus: how many it has; None: EC2 does not say.
        availability_zone: such as `us-east-1a`.
        vpc_id: its VPC; None once it has ended.
        subnet_id: its subnet; None once it has ended.
        public_dns_name: None if it has none, or has none yet; the same holds for the addresses.
        public_ip: IPv4.
        private_ip: IPv4.
        key_name: the key pair that it was launched with.
        group_ids: its security groups.
        tags: its tags; anybody in the account may have written them.
        lifecycle: `spot`, or None.
        client_token: the ClientToken of its launch.
    """

    instance_id: str
    state: str
    state_reason_code: str | None = None
    state_reason: str | None = None
    launch_time: float | None = None
    number: int | None = 0
    image_id: str | None = None
    instance_type: str | None = None
    vcpus: int | None = None
    availability_zone: str | None = None
    vpc_id: str | None = None
    subnet_id: str | None = None
    public_dns_name: str | None = None
    public_ip: str | None = None
    private_ip: str | None = None
    key_name: str | None = None
    group_ids: tuple[str, ...] = ()
    tags: dict[str, str] = {}
    lifecycle: str | None = None
    client_token: str | None = None

    @property
    def name(self) -> tuple[PuterKey, int] | None:
        """The key and generation that it belongs to; None if they are not known."""
        return key_of(self.tags, self.number)

    @property
    def is_unassigned(self) -> bool:
        """Whether it is one of a Spot launch, and its place among the members is not known."""
        return self.number is None and TAG_TAG not in self.tags

    @property
    def is_copy(self) -> bool:
        """Whether somebody else launched it with the tags of one of Puter's machines."""
        return bool(self.client_token) and not str(self.client_token).startswith(LAUNCH_PREFIX)


async def describe_by_ids(caller: Caller, ids: Iterable[str]) -> dict[str, Instance]:
    """The instances that EC2 shows, by id; an id that EC2 does not know is left out and is no error.

    Raises:
        StageError: see Caller.call.
    """
    found = await _find(caller, [], "instance-id", ids)
    return {instance.instance_id: instance for instance in found}


async def find_by_tags(caller: Caller, namespace: str, tags: Iterable[str]) -> list[Instance]:
    """A namespace's instances, in any state, whose own tag (`puter:tag`) is one of these.

    Raises:
        StageError: see Caller.call.
    """
    return await _find(caller, _managed(namespace), f"tag:{TAG_TAG}", tags)


async def find_unlabelled(caller: Caller, namespace: str) -> list[Instance]:
    """A namespace's instances, in any state, that have no tags of their own yet: only the manifest names their keys.

    Raises:
        StageError: see Caller.call.
    """
    return await _find(caller, _managed(namespace), f"tag:{LABELLED}", ["no"])


async def find_by_intents(caller: Caller, intent_ids: Iterable[str]) -> list[Instance]:
    """The instances, in any state, that these intents have launched.

    Raises:
        StageError: see Caller.call.
    """
    return await _find(caller, _managed(), f"tag:{INTENT}", intent_ids)


async def find_managed(caller: Caller, states: Sequence[str] = LIVE_STATES) -> list[Instance]:
    """Every instance of Puter's in one of these states, in all namespaces.

    EC2 shows those in ENDED_STATES for about an hour, and their tags for a part of it.

    Raises:
        StageError: see Caller.call.
    """
    return await _find(caller, _managed(), "instance-state-name", states)


async def run_instances(caller: Caller, arguments: Mapping[str, Any]) -> tuple[list[Instance], str]:
    """Sends one RunInstances call, with arguments that were frozen before (see `arguments.run_arguments`).

    Returns:
        The instances, in any order, and AWS's request id of the call.

    Raises:
        StageError: see Caller.call; if doubtful, instances may have been launched.
        ValueError: the call has no ClientToken, so repeating it could launch twice.
    """
    if not arguments.get("ClientToken"):
        raise ValueError("a launch needs a ClientToken")
    arguments = dict(arguments)
    if "UserData" in arguments:
        # The SDK encodes user data itself, and the frozen arguments hold it encoded.
        arguments["UserData"] = base64.b64decode(arguments["UserData"], validate=True)
    answer = await caller.call("RunInstances", ReservationAnswer, **arguments)
    return [instance_of(one) for one in answer.instances], answer.request_id or ""


async def create_tags(caller: Caller, ids: Sequence[str], tags: Mapping[str, str]) -> None:
    """Writes tags on resources, and replaces tags of the same names.

    Raises:
        StageError: JUST_MADE where EC2 does not see a newborn yet; and see Caller.call.
    """
    await caller.call("CreateTags", Answer, Resources=list(ids), Tags=as_ec2(tags))


async def add_group(caller: Caller, instance_id: str, group_ids: Sequence[str], group_id: str) -> bool:
    """Adds a security group to those that an instance has (`group_ids`).

    Returns:
        Whether it had to be added.

    Raises:
        StageError: see Caller.call.
    """
    if group_id in group_ids:
        return False
    await caller.call("ModifyInstanceAttribute", Answer, InstanceId=instance_id, Groups=[*group_ids, group_id])
    return True


async def console_output(caller: Caller, instance_id: str, *, latest: bool) -> str:
    """An instance's console output; '' if there is none yet.

    `latest`: as it is now, which EC2 can show of running instances of types with Nitro; otherwise what EC2 has stored,
    some time after a boot or the end.

    Raises:
        StageError: see Caller.call.
    """
    if latest:
        try:
            told = await caller.call("GetConsoleOutput", Console, InstanceId=instance_id, Latest=True)
        except Ec2Error as error:
            if error.code not in {"UnsupportedOperation", "IncorrectInstanceState", "IncorrectState"}:
                raise
        else:
            return told.output or ""
    told = await caller.call("GetConsoleOutput", Console, InstanceId=instance_id)
    return told.output or ""


def instance_of(answer: InstanceAnswer) -> Instance:
    """An Instance from EC2's answer."""
    reason = answer.state_reason
    groups = answer.security_groups or [group for port in answer.network_interfaces for group in port.groups]
    tags = from_ec2(answer.tags)
    return Instance(
        instance_id=answer.instance_id,
        state=answer.state.name,
        state_reason_code=(reason.code or None) if reason else None,
        state_reason=(reason.message or None) if reason else None,
        launch_time=answer.launch_time.timestamp() if answer.launch_time else None,
        number=number_of(tags, answer.ami_launch_index, spot=answer.instance_lifecycle == "spot"),
        image_id=answer.image_id,
        instance_type=answer.instance_type,
        vcpus=(answer.cpu_options.core_count or 0) * (answer.cpu_options.threads_per_core or 0) or None,
        availability_zone=answer.placement.availability_zone,
        vpc_id=answer.vpc_id or None,
        subnet_id=answer.subnet_id or None,
        public_dns_name=answer.public_dns_name or None,
        public_ip=answer.public_ip_address or None,
        private_ip=answer.private_ip_address or None,
        key_name=answer.key_name or None,
        group_ids=tuple(dict.fromkeys(group.group_id for group in groups)),
        tags=tags,
        client_token=answer.client_token,
        lifecycle=answer.instance_lifecycle or None,
    )


def with_places(launched: Sequence[Instance]) -> list[Instance]:
    """The instances of one launch, each with its place among the members. Pure.

    Those without one get the free places in the order of their ids. RunInstances launches all members of a Spot launch
    or none, so the set of its instances never changes: whoever sees them all, whenever, finds the same places, and no
    machine ever gets two names. From a part of them nobody may conclude anything.
    """
    taken = {one.number for one in launched}
    free = (place for place in range(len(launched) + len(taken)) if place not in taken)
    ordered = sorted(launched, key=lambda one: one.instance_id)
    return [one if one.number is not None else msgspec.structs.replace(one, number=next(free)) for one in ordered]


def _managed(namespace: str | None = None) -> list[Filter]:
    filters: list[Filter] = [(f"tag:{MANAGED}", ["true"])]
    if namespace is not None:
        filters.append((f"tag:{NAMESPACE}", [namespace]))
    return filters


async def _find(caller: Caller, common: Sequence[Filter], name: str, values: Iterable[str]) -> list[Instance]:
    """All instances that pass the common filters and have one of the values; without values no call is made.

    What is found by tags (`common` are filters of tags) leaves out copies.
    """
    wanted = list(dict.fromkeys(values))
    most = MAX_FILTER_VALUES - sum(len(of) for _, of in common)
    chunks = [wanted[at : at + most] for at in range(0, len(wanted), most)]
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def ask(chunk: Sequence[str]) -> list[Instance]:
        filters = [{"Name": n, "Values": list(v)} for n, v in [*common, (name, chunk)]]
        found: list[Instance] = []
        async with at_once:
            async for page in caller.pages("DescribeInstances", Instances, Filters=filters, MaxResults=PAGE_SIZE):
                found += [instance_of(i) for reservation in page.reservations for i in reservation.instances]
        return found

    async def find(chunk: Sequence[str]) -> list[Instance]:
        try:
            return await ask(chunk)
        except Ec2Error as error:
            if error.handling is not Handling.SPLIT or len(chunk) == 1:
                raise
        half = len(chunk) // 2
        return [*await find(chunk[:half]), *await find(chunk[half:])]

    if len(chunks) == 1:
        answers = [await find(chunks[0])]
    else:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(find(chunk)) for chunk in chunks]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        answers = [task.result() for task in tasks]
    # An instance may be on two pages: EC2 may move it while the pages are read.
    distinct = {instance.instance_id: instance for found in answers for instance in found}
    return [instance for instance in distinct.values() if not (common and instance.is_copy)]
