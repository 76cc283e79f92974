"""What is known of a puter: its record and its timeline, which only workers write."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

from puter_client.contract.key import PuterKey
from puter_client.contract.order import Order, OrderKind, OrderRefusal
from puter_client.contract.os_image import Os
from puter_client.contract.phase import Phase
from puter_client.contract.result import Result


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Why a puter failed.

    Attributes:
        code: the error's name, as AWS or Puter calls it.
        message: an explanation for people.
        request_id: AWS's id of the refused call, if there was one.
    """

    code: str
    message: str
    request_id: str | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An earlier run of a workload that was run again.

    Attributes:
        generation: of the machine that it ran on.
        instance_id: that machine.
        result: how it ended.
        exit_code: of the workload, if that is known.
        finished_at: seconds of Redis TIME.
        ended_at: when the machine had ended, in seconds of Redis TIME.
    """

    generation: int
    instance_id: str | None = None
    result: Result
    exit_code: int | None = None
    finished_at: float | None = None
    ended_at: float | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key's state; times are seconds of Redis TIME since 1970, UTC.

    Attributes:
        v: schema version.
        request_number: number of this key's requests for a machine so far.
        generation: 1 for a key's first instance, +1 each time an earlier one has ended.
        attempt: number of launches of this generation that EC2 refused for good; each attempt has its own token.
        phase: see Phase.
        reason: why the puter waits, or how it ended, in plain words.
        changed_at: when phase or reason last changed.
        batch_id: submission of the request that is being served.
        batch_size: how many requests that submission has.
        max_parallel: limit of that submission's machines that run at the same time.
        max_fails: as soon as so many of that submission have failed, the rest of it is cancelled.
        keep_running: whether what runs then is not stopped.
        made_anew: how often a launch was refused because its key pair, group or image had been deleted meanwhile.
        short_since: since when EC2 has had no capacity for it in any permitted place.
        estimate_s: estimated length of the present wait; None: nothing is known of it.
        owner: who has requested it; the name that the client sent, unless Redis vouches for it.
        vouched: whether Redis does, so that the owner is one of its users.
        spec_digest: digest of the spec that is being served.
        intent: id of the open launch intent; while there is one, the request cannot be cancelled.
        target: account, region and profile of the launch, once resolved.
        ttl_s: how long the machine lives after its launch, or after the request that named another ttl for it; None:
            until somebody ends it, or it is not known.
        ttl_given: whether the request names the ttl, so that a machine that is found gets it too.
        ends_with_workload: whether the machine ends itself when its workload has ended.
        spot: whether it is a Spot instance.
        vcpus: how many vCPUs it has, from its launch on.
        member: its place among the machines of its launch, if its agent reads it from the tag `puter:member`.
        launched_by: id of the intent that launched the instance; end frames on its console have it.
        order: the latest order of its owner for this generation.
        order_refusal: the latest one that the workers' policy did not allow.
        end_code: EC2's code for what ended the instance, such as `Client.UserInitiatedShutdown`.
        console_reads: how often the console of the ended instance was read, and had no end frame yet.
        observed_at: when EC2 last confirmed the instance.
        labelled: whether the instance has its own name and tags.
        overdue: whether the instance still runs after its deadline.
        finished_at: when the workload ended, as far as that is known.
        attempts: the workload's earlier runs for this request.
        log_tail: the last lines that the workload printed, at most 1,000 characters; anybody on the machine may have
            written them.
        ssh_user: the user for ssh, whose the workload is too; None until the image is known.
    """

    v: Literal[1] = 1
    namespace: str
    tag: str
    request_number: int = 1
    generation: int = 1
    attempt: int = 0
    phase: Phase
    reason: str | None = None
    created_at: float
    changed_at: float
    batch_id: str | None = None
    batch_size: int | None = None
    max_parallel: int | None = None
    max_fails: int | None = None
    keep_running: bool = False
    made_anew: int = 0
    short_since: float | None = None
    estimate_s: int | None = None
    owner: str | None = None
    vouched: bool = False
    spec_digest: str | None = None
    target: str | None = None
    intent: str | None = None
    # What was requested.
    profile: str | None = None
    region: str | None = None
    instance_type: str | None = None
    os: Os | None = None
    ttl_s: int | None = None
    ttl_given: bool = False
    key_name: str | None = None
    private_key_path: str | None = None
    has_workload: bool = False
    ends_with_workload: bool = False
    # What is known of the machine.
    account_id: str | None = None
    instance_id: str | None = None
    ami_id: str | None = None
    availability_zone: str | None = None
    vpc_id: str | None = None
    public_dns_name: str | None = None
    public_ip: str | None = None
    private_ip: str | None = None
    ssh_user: str | None = None
    launched_at: float | None = None
    running_at: float | None = None
    expires_at: float | None = None
    ended_at: float | None = None
    launched_by: str | None = None
    spot: bool = False
    vcpus: int | None = None
    member: int | None = None
    order: Order | None = None
    order_refusal: OrderRefusal | None = None
    end_code: str | None = None
    console_reads: int = 0
    observed_at: float | None = None
    labelled: bool = False
    overdue: bool = False
    # What is known of the workload.
    finished_at: float | None = None
    result: Result | None = None
    exit_code: int | None = None
    log_tail: str | None = None
    attempts: tuple[Attempt, ...] = ()
    error: ErrorInfo | None = None

    @property
    def key(self) -> PuterKey:
        """The key that the record belongs to."""
        return PuterKey(self.namespace, self.tag)

    @property
    def never_ends(self) -> bool:
        """Whether the machine stays until somebody ends it: as requested, or as ordered since."""
        ordered = self.order is not None and self.order.kind is OrderKind.EXTEND and self.order.sent_at is not None
        return self.expires_at is None and (self.ttl_s is None or ordered)

    def replace(self, **changes: Any) -> Record:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)


class EventKind(StrEnum):
    """What an event of a timeline says has happened; each name is `noun.past_verb`."""

    REQUEST_ACCEPTED = "request.accepted"
    REQUEST_REFUSED = "request.refused"
    REQUEST_DELAYED = "request.delayed"
    REQUEST_CANCELLED = "request.cancelled"
    LAUNCH_AWAITED = "launch.awaited"
    LAUNCH_DELAYED = "launch.delayed"
    LAUNCH_BEGUN = "launch.begun"
    LAUNCH_PUT_OFF = "launch.put_off"
    INTENT_LOST = "intent.lost"
    INSTANCE_LAUNCHED = "instance.launched"
    INSTANCE_FOUND = "instance.found"
    INSTANCE_PENDING = "instance.pending"
    INSTANCE_RUNNING = "instance.running"
    INSTANCE_LABELLED = "instance.labelled"
    INSTANCE_OVERDUE = "instance.overdue"
    INSTANCE_TERMINATED = "instance.terminated"
    INSTANCE_FAILED = "instance.failed"
    ORDER_GIVEN = "order.given"
    ORDER_REFUSED = "order.refused"
    ORDER_SENT = "order.sent"
    ORDER_CONFIRMED = "order.confirmed"
    WORKLOAD_FINISHED = "workload.finished"
    WORKLOAD_RETRIED = "workload.retried"
    PUTER_FAILED = "puter.failed"


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a key's timeline.

    Attributes:
        at: seconds of Redis TIME.
        event: what happened: the value of an EventKind, or a name that only a newer version knows.
        generation: which of the key's instances the event is about.
        phase: the record's phase after the event.
        reason: an explanation in plain words.
        request_id: AWS's id of the call, if there was one.
        detail: further facts, as short texts; `notice` is what the owner should know, a line for each notice.
    """

    at: float
    event: str
    generation: int
    phase: Phase
    reason: str | None = None
    request_id: str | None = None
    detail: dict[str, str] = {}

    @property
    def kind(self) -> EventKind | None:
        """What happened; None for an event that this version of Puter does not know."""
        try:
            return EventKind(self.event)
        except ValueError:
            return None

    @property
    def notices(self) -> tuple[str, ...]:
        """What the owner should know, each in plain words."""
        return tuple(self.detail.get("notice", "").splitlines())
