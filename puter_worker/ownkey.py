"""The key of a client that cannot make one: EC2 makes it, and the local engine keeps its private key.

This is done only if client and worker run on one host as one user. The private key goes from EC2's answer into its
file, and nowhere else.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TextIO

import msgspec

from puter_client.contract.spec import DEFAULT_NAME
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.keypairs import KeyPair, create_key_pair, ensure_key_pair
from puter_worker.ec2.own_resources import OwnResources
from puter_worker.errors import Handling, StageError

_ID = ".key-pair-id"


class OwnKey(msgspec.Struct, frozen=True):
    """A key pair whose private key this host has.

    Attributes:
        pair: as EC2 holds it.
        private_key_path: the file with the private key, mode 0600.
    """

    pair: KeyPair
    private_key_path: str


async def own_key(caller: Caller, folder: Path) -> OwnKey:
    """A key pair of this account and region whose private key is in the folder; EC2 makes one if there is none.

    Raises:
        StageError: EC2 cannot make the key.
        OSError: its file cannot be written.
    """
    for path in _kept(folder):
        try:
            held = await ensure_key_pair(caller, key_name=path.stem, public_key=None, own=OwnResources())
        except StageError as error:
            if error.handling is not Handling.FAIL:
                raise
            continue  # EC2 does not hold this pair in this region
        # Another region or account may hold another key under the same name: the ids are compared.
        if held.key_pair_id == _kept_id(path):
            return OwnKey(msgspec.structs.replace(held, notice=None), str(path))
    name = DEFAULT_NAME
    while True:
        path = folder / f"{name}.pem"
        if path not in _kept(folder):
            # The file is made first: EC2 returns the private key only once, and a pair without it is useless.
            with _private_file(path) as file:
                try:
                    pair, private = await create_key_pair(caller, name)
                except BaseException as error:
                    path.unlink()
                    if not isinstance(error, StageError) or error.handling is not Handling.ALREADY_THERE:
                        raise
                else:
                    file.write(private)
                    file.flush()
                    os.fsync(file.fileno())
                    _keep_id(path, pair.key_pair_id)
                    return OwnKey(pair, str(path))
        # Another user or region has this name: use a new one, so that no machine accepts another user's key.
        name = f"{DEFAULT_NAME}-{secrets.token_hex(4)}"


def _kept(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{DEFAULT_NAME}*.pem"))


def _kept_id(path: Path) -> str | None:
    """The id of the pair whose private key is in this file; None if it was not kept."""
    try:
        return path.with_suffix(_ID).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _keep_id(path: Path, key_pair_id: str) -> None:
    """Keep a pair's id beside its private key. If a crash prevents this, EC2 makes another key the next time."""
    with _private_file(path.with_suffix(_ID)) as file:
        file.write(f"{key_pair_id}\n")


def _private_file(path: Path) -> TextIO:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "w")
