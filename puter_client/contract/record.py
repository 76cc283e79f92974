"""What is known of a puter: the one published result, written by workers alone."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from puter_client.contract.key import PuterKey
from puter_client.contract.os_image import Os
from puter_client.contract.phase import Phase
from puter_client.contract.result import Result


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Why a puter failed, in AWS's words.

    Attributes:
        code: AWS's or Puter's name of the error.
        message: for people.
        request_id: AWS's id of the refused request, if there was one.
    """

    code: str
    message: str
    request_id: str | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key's state; times are seconds of Redis TIME since 1970, UTC.

    Attributes:
        v: schema version.
        request_number: counts the requests that requested a machine under this key.
        generation: 1 for a key's first instance, +1 each time an earlier one has ended.
        attempt: counts launches of this generation that EC2 refused for good, so that each has its own token.
        phase: see Phase.
        reason: in plain words, whenever the puter waits or has ended.
        changed_at: when phase or reason last changed.
        batch_id: submission of the request that is being served.
        batch_size: how many requests that submission has.
        max_parallel: at most so many machines of that submission live at a time.
        made_anew: how often its launch was refused because what it was prepared with had been deleted.
        short_since: since when EC2 has had no capacity for it anywhere it may be launched.
        owner: who said to be asking.
        spec_digest: of the spec being served.
        intent: id of the open launch intent; while there is one, the request cannot be cancelled.
        target: account, region and profile it is launched with, once resolved.
        observed_at: when EC2 last confirmed the instance.
        labelled: whether the instance bears its own tags.
        overdue: whether it outlived its deadline.
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
    made_anew: int = 0
    short_since: float | None = None
    owner: str | None = None
    spec_digest: str | None = None
    target: str | None = None
    intent: str | None = None
    # requested, as the record shows it
    profile: str | None = None
    region: str | None = None
    instance_type: str | None = None
    os: Os | None = None
    ttl_s: int | None = None
    key_name: str | None = None
    private_key_path: str | None = None
    has_workload: bool = False
    # known of the machine
    account_id: str | None = None
    instance_id: str | None = None
    ami_id: str | None = None
    availability_zone: str | None = None
    vpc_id: str | None = None
    public_dns_name: str | None = None
    public_ip: str | None = None
    private_ip: str | None = None
    launched_at: float | None = None
    running_at: float | None = None
    expires_at: float | None = None
    ended_at: float | None = None
    observed_at: float | None = None
    labelled: bool = False
    overdue: bool = False
    # known of the workload
    finished_at: float | None = None
    result: Result | None = None
    exit_code: int | None = None
    error: ErrorInfo | None = None

    @property
    def key(self) -> PuterKey:
        """The key it is kept under."""
        return PuterKey(self.namespace, self.tag)

    def replace(self, **changes: Any) -> Record:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a key's timeline.

    Attributes:
        at: seconds of Redis TIME.
        event: what happened, `noun.past_verb`.
        generation: of which instance.
        phase: the record's phase afterwards.
        reason: in plain words.
        request_id: AWS's id of the request, where one was made.
        detail: further facts, short texts.
    """

    at: float
    event: str
    generation: int
    phase: Phase
    reason: str | None = None
    request_id: str | None = None
    detail: dict[str, str] = {}
