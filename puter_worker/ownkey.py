"""The key of a client that cannot make one: EC2 makes it, and the local engine keeps its private half.

Only where client and worker are one host and one user; the private half goes from EC2's answer into its file, and
nowhere else.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import TextIO

import msgspec

from puter_client.contract.spec import DEFAULT_KEY_NAME
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.errors import Ec2Error, Handling
from puter_worker.ec2.keypairs import KeyPair, create_key_pair, ensure_key_pair

_ID = ".key-pair-id"


class OwnKey(msgspec.Struct, frozen=True):
    """A key pair whose private half this host has.

    Attributes:
        pair: as EC2 holds it.
        private_key_path: the file with the private half, 0600.
    """

    pair: KeyPair
    private_key_path: str


async def own_key(caller: Caller, folder: Path) -> OwnKey:
    """A key pair of this account and region whose private half is in the folder; made by EC2 if there is none.

    Raises:
        Ec2Error: the key cannot be made.
        OSError: its file cannot be made.
    """
    for path in _kept(folder):
        try:
            held = await ensure_key_pair(caller, key_name=path.stem, public_key=None, tags={})
        except Ec2Error as error:
            if error.handling is not Handling.FAIL:
                raise
            continue  # EC2 does not hold it, in this region at least
        # Under the same name another region or account may hold somebody else's.
        if held.key_pair_id == _kept_id(path):
            return OwnKey(msgspec.structs.replace(held, notice=None), str(path))
    name = DEFAULT_KEY_NAME
    while True:
        path = folder / f"{name}.pem"
        if path not in _kept(folder):
            # The file comes first: EC2 tells the private half once, and a pair without it is of no use to anybody.
            with _private_file(path) as file:
                try:
                    pair, private = await create_key_pair(caller, name, {})
                except BaseException as error:
                    path.unlink()
                    if not isinstance(error, Ec2Error) or error.handling is not Handling.ALREADY_THERE:
                        raise
                else:
                    file.write(private)
                    file.flush()
                    os.fsync(file.fileno())
                    _keep_id(path, pair.key_pair_id)
                    return OwnKey(pair, str(path))
        # Somebody else's, or another region's: a name of its own, so that nobody's machine admits another's key.
        name = f"{DEFAULT_KEY_NAME}-{secrets.token_hex(4)}"


def _kept(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{DEFAULT_KEY_NAME}*.pem"))


def _kept_id(path: Path) -> str | None:
    """The id of the pair whose private half is in this file; None where it was not kept, and nothing is to be told."""
    try:
        return path.with_suffix(_ID).read_text(encoding="ascii").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def _keep_id(path: Path, key_pair_id: str) -> None:
    """Without it, as after a crash, the file is just not used again: a further key is made."""
    with _private_file(path.with_suffix(_ID)) as file:
        file.write(f"{key_pair_id}\n")


def _private_file(path: Path) -> TextIO:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW, 0o600), "w")
