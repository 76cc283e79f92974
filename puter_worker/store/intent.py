"""What a worker is about to launch. It is durable before the call, so that any worker can repeat the call."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from puter_client.contract.key import PuterKey


class Place(msgspec.Struct, frozen=True):
    """Which type to launch, in which market, and where.

    Attributes:
        instance_type: such as `t3.micro`.
        zone: the availability zone; None leaves the choice to EC2.
        subnet: the subnet, if the request names any; it also decides the zone.
        spot: whether it is a Spot instance; EC2's capacity and quotas for them are apart from those of On-Demand.
    """

    instance_type: str
    zone: str | None = None
    subnet: str | None = None
    spot: bool = False

    @property
    def where(self) -> str | None:
        """The subnet or zone; None leaves the choice to EC2."""
        return self.subnet or self.zone

    def __str__(self) -> str:
        return f"{self.instance_type} in {self.where}" if self.where else self.instance_type


class IntentMember(msgspec.Struct, frozen=True):
    """One key of an intent.

    Attributes:
        tag: the key's tag; the intent has the namespace.
        request_number: the request number of the record when the intent was made.
        generation: the generation of the instance to launch.
    """

    tag: str
    request_number: int
    generation: int


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One RunInstances call; its arguments never change after the intent is stored.

    Attributes:
        v: schema version.
        intent_id: random; the tag `puter:intent` of every instance that it launches has it.
        target: the id of the target that it is sent to.
        namespace: the namespace of all its members.
        members: the keys, in the order of their places in the manifest.
        place: what it launches, and where.
        disk: the root disk in GiB; None is the image's size.
        arguments: the exact arguments of RunInstances, as JSON; `UserData` in base64.
        made_at: when it was stored, just before it was sent; seconds of Redis TIME.
        sends: how often it may have been sent.
        doubtful: whether the outcome of any send is unknown.
        refused: EC2's error code, if EC2 refused a later send of a doubtful intent.
        token_known: EC2 has bound the token to another launch, so this intent launches nothing.
    """

    v: Literal[1] = 1
    intent_id: str
    target: str
    namespace: str
    members: tuple[IntentMember, ...]
    place: Place
    disk: int | None = None
    arguments: msgspec.Raw
    made_at: float
    sends: int = 1
    doubtful: bool = False
    refused: str | None = None
    token_known: bool = False

    @property
    def keys(self) -> list[PuterKey]:
        """The members' keys."""
        return [PuterKey(self.namespace, member.tag) for member in self.members]

    @property
    def has_unassigned(self) -> bool:
        """Whether EC2's answer does not say which of its machines is which: Spot instances have no launch index."""
        return self.place.spot and len(self.members) > 1

    def replace(self, **changes: Any) -> Intent:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)
