"""The key pair that a machine is launched with: no machine may accept the key of another person.

EC2's fingerprints depend on where a key was made and on its type, so the keys themselves are compared. Two workers may
ensure the same pair at the same time: one of them gets `InvalidKeyPair.Duplicate`, reads the pair and compares again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Literal

import msgspec

from puter_client.contract.key import shown
from puter_worker.ec2.answers import KeyPairAnswer, KeyPairs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.own_resources import OwnResources
from puter_worker.ec2.tags import MANAGED, from_ec2, specification
from puter_worker.errors import Ec2Error, Handling, KeyPairMismatch, NoKeyMaterial, NoPublicKey

_TRIES = 3


class KeyPair(msgspec.Struct, frozen=True, kw_only=True):
    """A key pair that EC2 holds.

    Attributes:
        name: the name that RunInstances expects.
        key_pair_id: `key-…`.
        notice: what its user should know about it, in plain words.
    """

    name: str
    key_pair_id: str
    notice: str | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A key pair as EC2 described it; `public_key` is None if EC2 does not show the key."""

    key_pair_id: str
    public_key: str | None
    tags: dict[str, str] = {}


class KeyPairChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about one name: use the pair that EC2 holds, import the client's key, or try the next name."""

    act: Literal["use", "import", "next"]
    notice: str | None = None


async def ensure_key_pair(
    caller: Caller, *, key_name: str | None, public_key: str | None, own: OwnResources
) -> KeyPair:
    """The key pair to launch with; it is imported if EC2 does not hold it.

    Args:
        caller: its account and region are used.
        key_name: the name that the user gave; None is the default name, or a name derived from the key if another key
            has that name.
        public_key: the client's own key, as one OpenSSH line; None if the client has none for that name.
        own: for whom a pair is imported.

    Raises:
        StageError: KeyPairMismatch, NoPublicKey, AnothersName; and see Caller.call.
    """
    names = [key_name] if key_name else default_names(own, public_key)
    notice = None
    for name in names:
        for left in reversed(range(_TRIES)):
            held = await _held(caller, name)
            decision = choose_key_pair(
                name, public_key, held, own=own, explicit=key_name is not None, last=name == names[-1]
            )
            if decision.act == "next":
                notice = decision.notice
                break
            if held:
                return KeyPair(name=name, key_pair_id=held.key_pair_id, notice=decision.notice or notice)
            try:
                return msgspec.structs.replace(await _imported(caller, name, public_key, own), notice=notice)
            except Ec2Error as error:
                if error.handling is not Handling.ALREADY_THERE or not left:
                    raise
    raise AssertionError("the last name is used, imported or refused")


def default_names(own: OwnResources, public_key: str | None) -> list[str]:
    """The names to try in turn if the user gave none; all but the first are of the key, without its comment."""
    return own.key_names(None if public_key is None else hashlib.sha256(_key_bytes(public_key)).hexdigest())


def choose_key_pair(
    name: str, public_key: str | None, held: Held | None, *, own: OwnResources, explicit: bool, last: bool
) -> KeyPairChoice:
    """What to do about a name, given what EC2 holds under it.

    Args:
        name: the pair's name.
        public_key: the client's own key, if it has one.
        held: the pair that EC2 holds under this name, if any.
        own: for whom a pair is imported.
        explicit: whether the user chose the name.
        last: whether there is no further name to try.

    Raises:
        StageError: KeyPairMismatch, NoPublicKey, AnothersName.
    """
    if public_key is None and (held is None or not explicit):
        raise NoPublicKey(
            f"there is no public key for the key pair {shown(name)}: give one with --public-key, "
            "or name a key pair that EC2 holds with --key-name",
        )
    if held is None:
        if explicit:
            own.check_new(name, "key pair", option="--key-name")
        return KeyPairChoice(act="import")
    if public_key is None or (held.public_key is None and explicit):
        # It is not compared: whoever imported it could sign in to the machine.
        own.refuse_anothers(held.tags, "the key pair", name, option="--key-name")
    if public_key is None:
        return KeyPairChoice(
            act="use",
            notice=f"EC2 holds the key pair {shown(name)} and this host has no key of that name: "
            "only its owner can sign in",
        )
    if held.public_key is None and explicit:
        return KeyPairChoice(
            act="use", notice=f"EC2 does not show the key of key pair {shown(name)}: it was not compared"
        )
    key = _key_bytes(public_key)
    if key and held.public_key is not None and _key_bytes(held.public_key) == key:
        return KeyPairChoice(act="use")
    if not last:
        return KeyPairChoice(
            act="next",
            notice=f"EC2 holds another key under the name {shown(name)}, so yours has another name",
        )
    raise KeyPairMismatch(
        f"EC2 holds another key under the name {shown(name)}: choose another --key-name, "
        "or give the key that belongs to it with --public-key",
    )


async def create_key_pair(caller: Caller, name: str) -> tuple[KeyPair, str]:
    """A new ed25519 pair made by EC2, and its private key (PEM), which EC2 returns only this once.

    Raises:
        StageError: with handling ALREADY_THERE if a pair of this name exists; and see Caller.call.
    """
    made = await caller.call(
        "CreateKeyPair",
        KeyPairAnswer,
        KeyName=name,
        KeyType="ed25519",
        KeyFormat="pem",
        TagSpecifications=[specification("key-pair", {MANAGED: "true"})],
    )
    if not made.key_material:
        raise NoKeyMaterial(f"EC2 made the key pair {shown(name)} but did not return its private key")
    return KeyPair(name=name, key_pair_id=made.key_pair_id), made.key_material


async def _held(caller: Caller, name: str) -> Held | None:
    try:
        found = await caller.call("DescribeKeyPairs", KeyPairs, KeyNames=[name], IncludePublicKey=True)
    except Ec2Error as error:
        if error.code == "InvalidKeyPair.NotFound":
            return None
        raise
    for pair in found.key_pairs:
        if pair.key_name == name:
            return Held(key_pair_id=pair.key_pair_id, public_key=pair.public_key or None, tags=from_ec2(pair.tags))
    return None


async def _imported(caller: Caller, name: str, public_key: str | None, own: OwnResources) -> KeyPair:
    made = await caller.call(
        "ImportKeyPair",
        KeyPairAnswer,
        KeyName=name,
        PublicKeyMaterial=(public_key or "").encode(),
        TagSpecifications=[specification("key-pair", own.tags)],
    )
    return KeyPair(name=made.key_name, key_pair_id=made.key_pair_id)


def _key_bytes(public_key: str) -> bytes:
    """The key of an OpenSSH line, without its comment (the bytes begin with the type); b'' if the line has no key."""
    words = public_key.split(None, 2)
    try:
        return base64.b64decode(words[1], validate=True)
    except (IndexError, binascii.Error):
        return b""
