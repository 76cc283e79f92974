"""The client's ssh key: the private half stays on this computer, only the public line is sent."""

from __future__ import annotations

import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import msgspec

from puter_client.contract.errors import InvalidInput
from puter_client.contract.fields import FIELDS
from puter_client.contract.key import shown
from puter_client.contract.spec import DEFAULT_NAME
from puter_client.paths import absolute, secure_folder

COMMENT = "puter"
_LIMIT_BYTES = 16_384


class ClientKey(msgspec.Struct, frozen=True, kw_only=True):
    """The key of a request.

    Attributes:
        public_key: one OpenSSH line; None: EC2 has the key pair, or (local engine) creates it.
        private_key_path: path of the private half on this computer, if it is there.
    """

    public_key: str | None = None
    private_key_path: str | None = None


def client_key(
    folder: Path,
    *,
    key_name: str | None = None,
    public_key_file: str | None = None,
    named_by: str = "--public-key",
    local_engine: bool = True,
) -> ClientKey:
    """The key of a request; Puter's own key is made if there is none yet.

    Args:
        folder: folder of Puter's private keys.
        key_name: the requested EC2 key pair; the private half of that name in the folder is used, none is made.
        public_key_file: public half of the user's own key; its private half is beside it without `.pub`, or in an
            ssh agent.
        named_by: the option or setting that names the file, for errors.
        local_engine: whether worker and client share a computer, so that EC2 can make a key without ssh-keygen.

    Raises:
        InvalidInput: the file is not a public key, or no key can be made; the message says what to do.
        EngineError: the folder cannot be used for keys.
    """
    if public_key_file is not None:
        return _users_own(public_key_file, named_by)
    if key_name is not None:
        return _kept(folder, key_name)
    path = folder / f"{DEFAULT_NAME}.pem"
    program = shutil.which("ssh-keygen")
    if program is None:
        if local_engine:
            return ClientKey()
        raise InvalidInput(
            "ssh-keygen is not installed: install it (package openssh-client), "
            "or name your own key with --public-key FILE"
        )
    if not path.exists():
        _make(program, path)
    return ClientKey(public_key=_public_half(program, path), private_key_path=str(path))


def _users_own(written: str, named_by: str) -> ClientKey:
    path = absolute(written, named_by)  # a link's name may be the one with .pub
    line = _read_public(path, f"{named_by} {shown(written, 200)}")
    private = path.with_suffix("") if path.suffix == ".pub" else None
    return ClientKey(
        public_key=line, private_key_path=str(private) if private is not None and private.is_file() else None
    )


def _read_public(path: Path, where: str) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise InvalidInput(f"{where}: is not a regular file")
        with path.open("rb") as file:
            text = file.read(_LIMIT_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise InvalidInput(f"{where}: file not found; check the path") from None
    except OSError as error:
        raise InvalidInput(f"{where}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidInput(f"{where}: is not an OpenSSH public key; name the file that ends in .pub") from None
    if "PRIVATE KEY" in text:
        raise InvalidInput(f"{where}: is a private key; name its public half, the file that ends in .pub")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise InvalidInput(f"{where}: has {len(lines)} lines; name a file with one OpenSSH public key")
    try:
        line: str = FIELDS["public_key"](lines[0])
    except ValueError as error:
        raise InvalidInput(f"{where}: {error}") from None
    return line


def _kept(folder: Path, key_name: str) -> ClientKey:
    """The private half of this name in the folder, if there is one; the name comes from outside."""
    path = folder / f"{key_name}.pem"
    if path.parent != folder or key_name.startswith(".") or not path.is_file():
        return ClientKey()
    program = shutil.which("ssh-keygen")
    return ClientKey(public_key=_public_half(program, path) if program else None, private_key_path=str(path))


def _make(program: str, path: Path) -> None:
    """Make a key; if two processes do so at the same time, both use the key of the first."""
    secure_folder(path.parent)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=path.parent) as fresh:
        made = Path(fresh) / "key"
        _run([program, "-q", "-t", "ed25519", "-N", "", "-C", COMMENT, "-f", str(made)], "made")
        made.chmod(0o600)
        try:
            path.hardlink_to(made)  # unlike a rename, it never replaces an existing key
        except FileExistsError:
            pass
        except OSError as error:
            raise InvalidInput(f"the new key cannot be saved as {shown(path, 200)}: {error.strerror}") from None


def _public_half(program: str, path: Path) -> str:
    words = _run([program, "-y", "-P", "", "-f", str(path)], "read").split()
    try:
        line: str = FIELDS["public_key"](" ".join([*words[:2], COMMENT]))
    except ValueError as error:
        raise InvalidInput(
            f"{shown(path, 200)}: its public half {error}; name another key with --public-key FILE"
        ) from None
    return line


def _run(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        words = error.stderr.strip().splitlines() if isinstance(error, subprocess.CalledProcessError) else []
        why = words[-1] if words else type(error).__name__
        raise InvalidInput(
            f"the key {shown(command[-1], 200)} cannot be {what}: ssh-keygen says {shown(why, 120)}; "
            "fix it, or name your own key with --public-key FILE"
        ) from None
    return done.stdout
