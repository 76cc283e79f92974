"""What a worker is about to launch: durable before the call, so that whoever finds it can repeat it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from puter_client.contract.key import PuterKey


class Member(msgspec.Struct, frozen=True):
    """One key of an intent; its place in the list is its AmiLaunchIndex.

    Attributes:
        tag: of the key; the namespace is the intent's.
        request_number: of the record for which it is launched.
        generation: of the instance it becomes.
    """

    tag: str
    request_number: int
    generation: int


class Intent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One RunInstances call; its bytes never change once it is stored.

    Attributes:
        v: schema version.
        intent_id: random; in the tag `puter:intent` of every instance it launches.
        target: id of the target it is launched with.
        namespace: of all its members.
        members: the keys, in the order of their launch index.
        capacity: name of the backoff of the place it launches in.
        quota: name of the backoff of the quota it counts against.
        arguments: the very arguments of RunInstances, as JSON; `UserData` in base64.
        made_at: when it was stored, just before it was sent; seconds of Redis TIME.
        sends: how often it may have been sent.
        doubtful: whether the end of some send is unknown.
        refused: what EC2 said when it refused a later send of a doubtful intent.
        token_known: EC2 has bound the token to another launch, so this intent launches nothing.
        missed_at: when a look-up, after a refusal or past the time of safe repetition, first found nothing.
    """

    v: Literal[1] = 1
    intent_id: str
    target: str
    namespace: str
    members: tuple[Member, ...]
    capacity: str
    quota: str
    arguments: msgspec.Raw
    made_at: float
    sends: int = 1
    doubtful: bool = False
    refused: str | None = None
    token_known: bool = False
    missed_at: float | None = None

    @property
    def keys(self) -> list[PuterKey]:
        """The members' keys."""
        return [PuterKey(self.namespace, member.tag) for member in self.members]

    def replace(self, **changes: Any) -> Intent:
        """A copy with some fields changed."""
        return msgspec.structs.replace(self, **changes)
