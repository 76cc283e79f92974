"""The key pair that a machine admits: nobody's machine shall admit somebody else's key.

EC2's fingerprints differ by where a key was made and by its type, so keys themselves are compared. Two workers may
both ensure the same pair: one of them meets `InvalidKeyPair.Duplicate`, reads what is there and compares again.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Literal

import msgspec

from puter_client.contract.key import shown
from puter_client.contract.spec import DEFAULT_KEY_NAME
from puter_worker.ec2.answers import KeyPairAnswer, KeyPairs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.ec2.tags import MANAGED, specification

_TRIES = 3


class KeyPair(msgspec.Struct, frozen=True, kw_only=True):
    """A key pair that EC2 holds.

    Attributes:
        name: what RunInstances takes.
        key_pair_id: `key-…`.
        notice: what its user should know of it, in plain words.
    """

    name: str
    key_pair_id: str
    notice: str | None = None


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A key pair as EC2 described it; `public_key` is None for pairs that EC2 does not tell the key of."""

    key_pair_id: str
    public_key: str | None


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do about one name: use what is held, import one's own, or try the next name."""

    act: Literal["use", "import", "next"]
    notice: str | None = None


async def ensure_key_pair(
    caller: Caller, *, key_name: str | None, public_key: str | None, tags: Mapping[str, str]
) -> KeyPair:
    """The key pair to launch with, imported if EC2 does not hold it.

    Args:
        caller: whose account and region.
        key_name: as the user named it; None is Puter's default name, with a name of its own if that is taken.
        public_key: one OpenSSH line, the client's own key; None if the client has none for that name.
        tags: of a pair that is imported, beside `puter:managed`.

    Raises:
        Ec2Error: KeyPairMismatch, NoPublicKey; and see Caller.call.
    """
    names = [key_name] if key_name else default_names(public_key)
    notice = None
    for name in names:
        for left in reversed(range(_TRIES)):
            held = await _held(caller, name)
            decision = decide(name, public_key, held, explicit=key_name is not None, last=name == names[-1])
            if decision.act == "next":
                notice = decision.notice
                break
            if held:
                return KeyPair(name=name, key_pair_id=held.key_pair_id, notice=decision.notice or notice)
            try:
                return msgspec.structs.replace(await _imported(caller, name, public_key, tags), notice=notice)
            except Ec2Error as error:
                if error.handling is not Handling.ALREADY_THERE or not left:
                    raise
    raise AssertionError("the last name is used, imported or refused")


def default_names(public_key: str | None) -> list[str]:
    """The names tried in turn where the user named none.

    The second bears the first 8 hex digits of the SHA-256 of the key itself, its comment left out.
    """
    if public_key is None:
        return [DEFAULT_KEY_NAME]
    digest = hashlib.sha256(_key_bytes(public_key)).hexdigest()
    return [DEFAULT_KEY_NAME, f"{DEFAULT_KEY_NAME}-{digest[:8]}"]


def decide(name: str, public_key: str | None, held: Held | None, *, explicit: bool, last: bool) -> Decision:
    """What to do about a name, given what EC2 holds under it.

    Args:
        name: of the pair.
        public_key: the client's own, if it has one.
        held: what EC2 holds, if anything.
        explicit: whether the user chose the name.
        last: whether there is no further name to try.

    Raises:
        Ec2Error: KeyPairMismatch, NoPublicKey.
    """
    if public_key is None and (held is None or not explicit):
        raise Ec2Error(
            "NoPublicKey",
            f"there is no public key for the key pair {shown(name)}: give one with --public-key, "
            "or name a key pair that EC2 holds with --key-name",
        )
    if held is None:
        return Decision(act="import")
    if public_key is None:
        return Decision(
            act="use",
            notice=f"EC2 holds the key pair {shown(name)} and this host has no key of that name: "
            "only its owner can sign in",
        )
    if held.public_key is None and explicit:
        return Decision(act="use", notice=f"EC2 does not tell the key of the key pair {shown(name)}: not compared")
    own = _key_bytes(public_key)
    if own and held.public_key is not None and _key_bytes(held.public_key) == own:
        return Decision(act="use")
    if not last:
        return Decision(
            act="next",
            notice=f"EC2 holds another key under the name {shown(name)}, so yours has a name of its own",
        )
    raise Ec2Error(
        "KeyPairMismatch",
        f"EC2 holds another key under the name {shown(name)}: choose another --key-name, "
        "or give the key that belongs to it with --public-key",
    )


async def create_key_pair(caller: Caller, name: str, tags: Mapping[str, str]) -> tuple[KeyPair, str]:
    """A new ed25519 pair made by EC2, and its private half (PEM), which EC2 tells this once.

    Raises:
        Ec2Error: handling ALREADY_THERE where the name is taken; and see Caller.call.
    """
    made = await caller.call(
        "CreateKeyPair",
        KeyPairAnswer,
        KeyName=name,
        KeyType="ed25519",
        KeyFormat="pem",
        TagSpecifications=[specification("key-pair", {**tags, MANAGED: "true"})],
    )
    if not made.key_material:
        raise Ec2Error("NoKeyMaterial", f"EC2 made the key pair {shown(name)} and did not tell its private half")
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
            return Held(key_pair_id=pair.key_pair_id, public_key=pair.public_key or None)
    return None


async def _imported(caller: Caller, name: str, public_key: str | None, tags: Mapping[str, str]) -> KeyPair:
    made = await caller.call(
        "ImportKeyPair",
        KeyPairAnswer,
        KeyName=name,
        PublicKeyMaterial=(public_key or "").encode(),
        TagSpecifications=[specification("key-pair", {**tags, MANAGED: "true"})],
    )
    return KeyPair(name=made.key_name, key_pair_id=made.key_pair_id)


def _key_bytes(public_key: str) -> bytes:
    """The key of an OpenSSH line, without type (the bytes begin with it) and comment; b'' if it is none."""
    words = public_key.split(None, 2)
    try:
        return base64.b64decode(words[1], validate=True)
    except (IndexError, binascii.Error):
        return b""
