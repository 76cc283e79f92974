"""The client's ssh key: its private half stays on this host, only the public line travels."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import FIELDS
from puter_client.contract.key import shown
from puter_client.contract.spec import DEFAULT_KEY_NAME
from puter_client.paths import secure_folder

COMMENT = "puter"
_LIMIT_BYTES = 16_384


class ClientKey(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says of its key.

    Attributes:
        public_key: one OpenSSH line; None: AWS holds the key under its name, or (local engine) EC2 shall make it.
        private_key_path: where this host keeps the private half, if it does.
    """

    public_key: str | None = None
    private_key_path: str | None = None


def client_key(
    folder: Path, *, key_name: str | None = None, public_key_file: str | None = None, embedded: bool = True
) -> ClientKey:
    """The key of a request; Puter's own is made if there is none yet.

    Args:
        folder: of the private keys that Puter keeps.
        key_name: the EC2 key pair's name as requested; the private half kept under that name is used, none is made.
        public_key_file: the public half of the user's own key; its private half lies beside it without `.pub`, or
            in an agent.
        embedded: whether worker and client are one host, so that EC2 can make a key where ssh-keygen is missing.

    Raises:
        InvalidInput: the file holds no public key, or no key can be had; says what to do.
        EngineError: the folder is not fit for keys.
    """
    if public_key_file is not None:
        return _users_own(public_key_file)
    if key_name is not None:
        return _kept(folder, key_name)
    path = folder / f"{DEFAULT_KEY_NAME}.pem"
    program = shutil.which("ssh-keygen")
    if program is None:
        if embedded:
            return ClientKey()
        raise InvalidInput(
            "ssh-keygen is not installed, and a key is needed: install it (package openssh-client), or give your "
            "own with --public-key FILE"
        )
    if not path.exists():
        _make(program, path)
    return ClientKey(public_key=_public_half(program, path), private_key_path=str(path))


def _users_own(written: str) -> ClientKey:
    path = Path(os.path.abspath(Path(written).expanduser()))  # noqa: PTH100 - a link's name may be the one with .pub
    line = _read_public(path, written)
    private = path.with_suffix("") if path.suffix == ".pub" else None
    return ClientKey(
        public_key=line, private_key_path=str(private) if private is not None and private.is_file() else None
    )


def _read_public(path: Path, written: str) -> str:
    where = f"--public-key {shown(written, 200)}"
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidInput(f"{where}: is no plain file")
        with path.open("rb") as file:
            text = file.read(_LIMIT_BYTES).decode()
    except FileNotFoundError:
        raise InvalidInput(f"{where}: is not there; check the path") from None
    except OSError as error:
        raise InvalidInput(f"{where}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{where}: is no OpenSSH public key; name the file that ends in .pub") from None
    if "PRIVATE KEY" in text:
        raise InvalidInput(f"{where}: is a private key, which stays where it is; name its public half (….pub)")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise InvalidInput(f"{where}: holds {len(lines)} lines; name a file with one OpenSSH public key")
    try:
        line: str = FIELDS["public_key"](lines[0])
    except ValueError as error:
        raise InvalidInput(f"{where}: {error}") from None
    return line


def _kept(folder: Path, key_name: str) -> ClientKey:
    """The private half kept under a key pair's name, if it is; the name itself comes from outside."""
    path = folder / f"{key_name}.pem"
    if path.parent != folder or key_name.startswith(".") or not path.is_file():
        return ClientKey()
    program = shutil.which("ssh-keygen")
    return ClientKey(public_key=_public_half(program, path) if program else None, private_key_path=str(path))


def _make(program: str, path: Path) -> None:
    """Makes a key; of two processes that do so at once one wins, and both use its key."""
    secure_folder(path.parent)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as fresh:
        made = Path(fresh) / "key"
        _run([program, "-q", "-t", "ed25519", "-N", "", "-C", COMMENT, "-f", str(made)], "made")
        made.chmod(0o600)
        try:
            path.hardlink_to(made)  # unlike a rename it never takes the place of a key that is there
        except FileExistsError:
            pass
        except OSError as error:
            raise InvalidInput(f"a key cannot be kept as {shown(path, 200)}: {error.strerror}") from None


def _public_half(program: str, path: Path) -> str:
    words = _run([program, "-y", "-P", "", "-f", str(path)], "read").split()
    try:
        line: str = FIELDS["public_key"](" ".join([*words[:2], COMMENT]))
    except ValueError as error:
        raise InvalidInput(f"{shown(path, 200)}: its public half {error}; give another with --public-key") from None
    return line


def _run(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        words = error.stderr.strip().splitlines() if isinstance(error, subprocess.CalledProcessError) else []
        why = words[-1] if words else type(error).__name__
        raise InvalidInput(
            f"the key {shown(command[-1], 200)} cannot be {what}: ssh-keygen says {shown(why, 120)}; "
            "mend it, or give your own with --public-key FILE"
        ) from None
    return done.stdout
