"""The tags that Puter writes on its resources and reads back: they identify each machine.

Tags that must exist from the first moment are given to RunInstances itself. A group of machines launched by one call
shares its tags; until each machine has tags of its own, a manifest in further tags says which key each belongs to. A
machine's place in the manifest is its AmiLaunchIndex. All Spot instances of a call have index 0: they are launched with
`puter:member` = `unassigned`, and their places follow from their ids once all of the launch are known
(`instances.with_places`); then the tag is replaced by the place, and the machine's agent reads it.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import NAMESPACE as NAMESPACE_NAME
from puter_client.contract.key import TAG, PuterKey
from puter_worker.ec2.answers import Tag
from puter_worker.errors import ManifestTooLarge

NAME = "Name"
PUTER = "puter"
# A copy that somebody makes of a machine ("Launch more like this" in EC2's console) has its tags, but another token.
LAUNCH_PREFIX = "puter-"
"""What the ClientToken of every launch of Puter's begins with."""
MANAGED = "puter:managed"
NAMESPACE = "puter:namespace"
TAG_TAG = "puter:tag"
GENERATION = "puter:generation"
BATCH = "puter:batch"
INTENT = "puter:intent"
OWNER = "puter:owner"
EXPIRES_AT = "puter:expires-at"
ORDER = "puter:order"
MEMBER = "puter:member"
UNASSIGNED = "unassigned"
LABELLED = "puter:labelled"
MANIFEST = "puter:manifest-"

OWN = (NAME, PUTER, TAG_TAG, GENERATION, LABELLED, MEMBER)
"""The tags that are written on a machine after its launch; the IAM policy allows no others then."""

# EC2 allows 50 tags a resource and 256 characters a value. A user may set 20; Puter sets 13 and the manifest.
MAX_VALUE = 256
MAX_MANIFEST_TAGS = 17
MAX_MEMBERS = 100
# 100 members with tags of 128 characters, their generations and JSON's quotes take fewer bytes than this.
_MAX_MANIFEST_BYTES = 32_768
_INTENT_ID = re.compile(r"[0-9a-f]{16}")

Member = tuple[str, int]
"""Tag and generation of one machine of a group."""


def birth_tags(
    *,
    namespace: str,
    intent: str,
    batch: str | None,
    owner: str | None,
    expires_at: float | None,
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The tags that all machines of one RunInstances call share.

    Args:
        namespace: the namespace of all their keys.
        intent: the intent's id.
        batch: the batch's id.
        owner: the user name that the client gave; nothing proves it.
        expires_at: seconds since 1970; None is never.
        extra: the user's own tags; they cannot replace Puter's.
    """
    tags = dict(extra or {})
    tags |= {
        NAME: f"puter/{namespace}",
        MANAGED: "true",
        NAMESPACE: namespace,
        INTENT: intent,
        EXPIRES_AT: expiry(expires_at),
        LABELLED: "no",
    }
    if batch:
        tags[BATCH] = batch
    if owner:
        tags[OWNER] = "".join(c if c.isprintable() else "?" for c in owner)[:MAX_VALUE]
    return tags


def own_tags(key: PuterKey, generation: int, member: int | None = None) -> dict[str, str]:
    """One machine's own tags: RunInstances gets them for a single launch; else they are written after the launch.

    `member`: the place in its manifest of a machine that reads it from its tags.
    """
    tags = {
        NAME: f"puter/{key}",
        PUTER: key.tag,
        TAG_TAG: key.tag,
        GENERATION: str(generation),
        LABELLED: "yes",
    }
    return tags if member is None else tags | {MEMBER: str(member)}


def number_of(tags: Mapping[str, str], launch_index: int, *, spot: bool = False) -> int | None:
    """A machine's place in its manifest; None: it has none yet, because it is one of a Spot launch.

    `spot`: whether it is a Spot instance: then its launch index says nothing, also when an ended one has lost its tag.
    """
    if MEMBER not in tags:
        return None if spot and TAG_TAG not in tags else launch_index
    told = tags[MEMBER]
    return int(told) if told.isascii() and told.isdigit() and len(told) <= len(str(MAX_MEMBERS)) else None


def key_of(tags: Mapping[str, str], number: int | None = None) -> tuple[PuterKey, int] | None:
    """The key and generation that a machine belongs to, by its own tags or else by the manifest.

    Args:
        tags: the machine's tags; anybody in the account may have written them, and ended machines lose theirs.
        number: the machine's place in the manifest; None if it is not known.

    Returns:
        None if the tags do not say it.
    """
    if tags.get(MANAGED) != "true":
        return None
    generation = tags.get(GENERATION, "")
    if TAG_TAG in tags and generation.isascii() and generation.isdigit() and len(generation) < 10:
        member: Member = (tags[TAG_TAG], int(generation))
    else:
        members = decode_manifest(tags)
        if members is None or number is None or not 0 <= number < len(members):
            return None
        member = members[number]
    try:
        return PuterKey.checked(tags.get(NAMESPACE, ""), member[0]), member[1]
    except InvalidInput:
        return None


def namespace_of(tags: Mapping[str, str]) -> str | None:
    """The namespace of a machine, of which nothing else may be known; None if the tags do not say it."""
    namespace = tags.get(NAMESPACE, "")
    return namespace if tags.get(MANAGED) == "true" and NAMESPACE_NAME.fullmatch(namespace) else None


def members_of(tags: Mapping[str, str]) -> list[PuterKey]:
    """The keys of all members in a group's manifest; [] if the tags do not say them."""
    namespace = tags.get(NAMESPACE, "")
    try:
        return [PuterKey.checked(namespace, tag) for tag, _ in decode_manifest(tags) or ()]
    except InvalidInput:
        return []


def intent_of(tags: Mapping[str, str]) -> str | None:
    """The id of the intent that launched a machine; None if the tags do not say it."""
    intent = tags.get(INTENT, "")
    return intent if _INTENT_ID.fullmatch(intent) else None


def expiry_of(tags: Mapping[str, str]) -> float | None:
    """When a machine ends itself by its tags; None if they say never, or nothing that can be read."""
    try:
        return datetime.strptime(tags.get(EXPIRES_AT, ""), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None


def is_labelled(tags: Mapping[str, str]) -> bool:
    """Whether a machine has tags of its own."""
    return tags.get(LABELLED) == "yes"


def encode_manifest(members: Sequence[Member], *, max_tags: int = MAX_MANIFEST_TAGS) -> dict[str, str]:
    """The tags that hold the members of a group, in the order of their places.

    Raises:
        ManifestTooLarge: the group has over MAX_MEMBERS members, or needs over `max_tags` values of 256 characters.
    """
    if len(members) > MAX_MEMBERS:
        raise ManifestTooLarge(f"a group of {len(members)} machines is too large: at most {MAX_MEMBERS}")
    packed = base64.urlsafe_b64encode(zlib.compress(msgspec.json.encode(members), 9)).decode().rstrip("=")
    pieces = [packed[at : at + MAX_VALUE] for at in range(0, len(packed), MAX_VALUE)]
    if len(pieces) > max_tags:
        raise ManifestTooLarge(f"a group of {len(members)} machines needs {len(pieces)} tags: at most {max_tags}")
    return {f"{MANIFEST}{n}": piece for n, piece in enumerate(pieces)}


def decode_manifest(tags: Mapping[str, str]) -> list[Member] | None:
    """The members in a group's manifest, by their places; None if there is no manifest or a part of it is missing.

    The manifest is not trusted: the size that it unpacks to is limited, and each member is checked.
    """
    pieces = [tags.get(f"{MANIFEST}{n}") for n in range(MAX_MANIFEST_TAGS)]
    packed = "".join(piece for piece in pieces if piece is not None)
    if not packed or len(packed) > MAX_VALUE * MAX_MANIFEST_TAGS:
        return None
    members = _unpacked(packed)
    return None if members is None else list(members)


# All machines of a launch have the same manifest, and reading one keeps the event loop busy for up to 0.4 ms.
@lru_cache(maxsize=128)
def _unpacked(packed: str) -> tuple[Member, ...] | None:
    try:
        unpacker = zlib.decompressobj()
        text = unpacker.decompress(
            base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_", validate=True), _MAX_MANIFEST_BYTES
        )
        if not unpacker.eof or unpacker.unused_data:
            return None
        members = msgspec.json.decode(text, type=tuple[Member, ...])
    except (ValueError, binascii.Error, zlib.error, msgspec.DecodeError):
        return None
    sound = len(members) <= MAX_MEMBERS and len({tag for tag, _ in members}) == len(members)
    return members if sound and all(TAG.fullmatch(tag) and 0 < n < 10**9 for tag, n in members) else None


def specification(resource_type: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """One of EC2's TagSpecifications."""
    return {"ResourceType": resource_type, "Tags": as_ec2(tags)}


def as_ec2(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags in the form that EC2's calls expect."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def from_ec2(tags: Iterable[Tag]) -> dict[str, str]:
    """Tags from the form of EC2's answers."""
    return {tag.key: tag.value for tag in tags}


def expiry(at: float | None) -> str:
    """The value of `puter:expires-at`: in UTC, ISO 8601, whole seconds; or `never`."""
    if at is None:
        return "never"
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
