"""Key pairs of a region.

Fingerprints: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/verify-keys.html
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct
from collections.abc import Mapping

import msgspec

from tests.ec2sim.dials import Dials
from tests.ec2sim.errors import Ec2Error, invalid_value
from tests.ec2sim.filters import Field, Filters
from tests.ec2sim.tags import read_tag_specifications
from tests.ec2sim.wire import Node, Params, element, elements, tag_set, timestamp

_SORTS = {"ssh-rsa": "rsa", "ssh-ed25519": "ed25519"}
_TAGGABLE = frozenset({"key-pair"})


class KeyPair(msgspec.Struct, kw_only=True):
    """A key pair as EC2 keeps it.

    Attributes:
        id: `key-…`.
        name: unique in the region.
        sort: rsa or ed25519.
        public_key: OpenSSH's first two fields.
        fingerprint: MD5, SHA-1 or SHA-256, by origin and sort.
        created_at: seconds since 1970.
        tags: as set.
    """

    id: str
    name: str
    sort: str
    public_key: str
    fingerprint: str
    created_at: float
    tags: dict[str, str]

    @property
    def shown_tags(self) -> Mapping[str, str]:
        """Its tags."""
        return self.tags


_FILTERS: dict[str, Field[KeyPair]] = {
    "key-name": lambda k: (k.name,),
    "key-pair-id": lambda k: (k.id,),
    "fingerprint": lambda k: (k.fingerprint,),
}


class KeyRing:
    """The key pairs of an account in a region.

    Attributes:
        by_name: all of them.
    """

    def __init__(self, dials: Dials) -> None:
        self._dials = dials
        self.by_name: dict[str, KeyPair] = {}

    def find(self, name: str) -> KeyPair:
        """A key pair; raises InvalidKeyPair.NotFound."""
        try:
            return self.by_name[name]
        except KeyError:
            raise Ec2Error("InvalidKeyPair.NotFound", f"The key pair '{name}' does not exist") from None

    def describe(self, params: Params) -> str:
        """DescribeKeyPairs."""
        filters = Filters(params, _FILTERS)
        names, ids = params.texts("KeyName"), params.texts("KeyPairId")
        rows = [self.find(name) for name in names] if names else list(self.by_name.values())
        unknown = set(ids) - {pair.id for pair in rows}
        if unknown:
            message = f"The key pair IDs '{', '.join(sorted(unknown))}' do not exist"
            raise Ec2Error("InvalidKeyPair.NotFound", message)
        with_public = params.flag("IncludePublicKey")
        shown = [pair for pair in rows if (not ids or pair.id in ids) and filters.match(pair)]
        return element("keySet", [_key_node(pair, bool(with_public)) for pair in shown])

    def import_pair(self, params: Params) -> tuple[str, str]:
        """ImportKeyPair: the answer and the new id."""
        name = self._free_name(params)
        tags = read_tag_specifications(params, _TAGGABLE).get("key-pair", {})
        sort, public = read_public_key(params.need("PublicKeyMaterial"))
        pair = self._add(name, sort, public, imported_fingerprint(sort, public), tags)
        return elements(_made_node(pair)), pair.id

    def create_pair(self, params: Params) -> tuple[str, str]:
        """CreateKeyPair: the answer, with the private half, and the new id."""
        name = self._free_name(params)
        tags = read_tag_specifications(params, _TAGGABLE).get("key-pair", {})
        sort = params.text("KeyType") or "rsa"
        if sort not in _SORTS.values():
            raise invalid_value("keyType", sort, "Expecting rsa or ed25519.")
        if params.text("KeyFormat") not in {None, "pem"}:
            raise Ec2Error("UnsupportedOperation", "The simulator makes keys in PEM format alone.")
        private, public, fingerprint = _generate(sort)
        pair = self._add(name, sort, public, fingerprint, tags)
        return elements({**_made_node(pair), "keyMaterial": private}), pair.id

    def _free_name(self, params: Params) -> str:
        name = params.need("KeyName")
        if len(name) > 255 or not name.isascii() or name != name.strip():
            raise invalid_value("keyName", name, "Expecting up to 255 ASCII characters.")
        if name in self.by_name:
            raise Ec2Error("InvalidKeyPair.Duplicate", f"The key pair '{name}' already exists")
        return name

    def _add(self, name: str, sort: str, public: str, fingerprint: str, tags: dict[str, str]) -> KeyPair:
        pair = KeyPair(
            id=self._dials.identifier("key"),
            name=name,
            sort=sort,
            public_key=public,
            fingerprint=fingerprint,
            created_at=self._dials.now(),
            tags=tags,
        )
        self.by_name[name] = pair
        return pair


def read_public_key(material: str) -> tuple[str, str]:
    """Sort and first two fields of a public key as ImportKeyPair sends it; raises InvalidKey.Format."""
    refused = Ec2Error("InvalidKey.Format", "Key is not in valid OpenSSH public key format")
    try:
        word, blob = base64.b64decode(material, validate=True).decode().split()[:2]
        raw = base64.b64decode(blob, validate=True)
        (length,) = struct.unpack_from(">I", raw)
    except (binascii.Error, ValueError, struct.error):
        raise refused from None
    if word not in _SORTS or raw[4 : 4 + length] != word.encode() or len(raw) <= 4 + length:
        raise refused
    return _SORTS[word], f"{word} {blob}"


def imported_fingerprint(sort: str, public: str) -> str:
    """MD5 of the DER of an RSA key, SHA-256 of an ED25519 one."""
    blob = base64.b64decode(public.split()[1])
    if sort == "ed25519":
        return base64.b64encode(hashlib.sha256(blob).digest()).decode()
    from cryptography.hazmat.primitives import serialization as forms

    try:
        key = forms.load_ssh_public_key(public.encode())
    except ValueError:
        raise Ec2Error("InvalidKey.Format", "Key is not in valid OpenSSH public key format") from None
    der = key.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    return _colons(hashlib.md5(der, usedforsecurity=False).hexdigest())


def _generate(sort: str) -> tuple[str, str, str]:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey
    if sort == "ed25519":
        key, form = ed25519.Ed25519PrivateKey.generate(), forms.PrivateFormat.OpenSSH
    else:
        key, form = rsa.generate_private_key(65_537, 2_048), forms.PrivateFormat.TraditionalOpenSSL
    private = key.private_bytes(forms.Encoding.PEM, form, forms.NoEncryption()).decode()
    public = key.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH).decode()
    if sort == "ed25519":
        return private, public, imported_fingerprint(sort, public)
    der = key.private_bytes(forms.Encoding.DER, forms.PrivateFormat.PKCS8, forms.NoEncryption())
    return private, public, _colons(hashlib.sha1(der, usedforsecurity=False).hexdigest())


def _colons(digits: str) -> str:
    return ":".join(digits[i : i + 2] for i in range(0, len(digits), 2))


def _made_node(pair: KeyPair) -> dict[str, Node]:
    return {
        "keyName": pair.name,
        "keyFingerprint": pair.fingerprint,
        "keyPairId": pair.id,
        "tagSet": tag_set(pair.tags),
    }


def _key_node(pair: KeyPair, with_public: bool) -> Node:
    return {
        **_made_node(pair),
        "keyType": pair.sort,
        "createTime": timestamp(pair.created_at),
        # EC2 ends the line with the pair's name, whatever comment was imported.
        "publicKey": f"{pair.public_key} {pair.name}\n" if with_public else None,
    }
