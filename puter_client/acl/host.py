"""The folder of a shared host: the users of its Redis, and the URLs of its services."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from puter_client.acl.acl_file import AclFile, remedy_of
from puter_client.acl.rules import SERVICES, Role
from puter_client.acl.whole_file import prepared, write_whole
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import shown
from puter_client.store.adminstore import ADMIN_URL_VARIABLE
from puter_client.store.redis_url import URL_VARIABLE, RedisUrl

ADDRESS = "127.0.0.1:6379"
ADDRESS_VARIABLE = "PUTER_REDIS_ADDRESS"
# Services may reach Redis by another name than people do: in Compose, over a network of their own.
SERVICES_ADDRESS_VARIABLE = "PUTER_SERVICES_REDIS_ADDRESS"
_PASSWORD_BYTES = 32
# The services whose URL Puter itself reads, each from a file of the folder.
_VARIABLES = {Role.WORKER: URL_VARIABLE, Role.ADMIN: ADMIN_URL_VARIABLE}
# The settings with which a server, or a Sentinel, signs in; docs/shared-host.md calls the service mymaster.
_SETTINGS = {
    Role.REPLICA: ("masteruser replica", "masterauth {}"),
    Role.SENTINEL: ("sentinel auth-user mymaster sentinel", "sentinel auth-pass mymaster {}"),
}


class Password(NamedTuple):
    """A new password.

    Attributes:
        text: 256 random bits, in hexadecimal, so that no URL needs it encoded.
        hash: its SHA-256, as Redis keeps it.
    """

    text: str
    hash: str

    @classmethod
    def random(cls) -> Password:
        """Another one each time."""
        text = secrets.token_hex(_PASSWORD_BYTES)
        return cls(text, hashlib.sha256(text.encode()).hexdigest())

    def __repr__(self) -> str:
        return "Password(…)"


class HostFolder:
    """The folder.

    Attributes:
        path: of the folder.
        acl: its `acl/users.acl`, in a folder of its own that a container of Redis can have without the passwords.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.acl = AclFile(path / "acl" / "users.acl")

    @staticmethod
    def keeps_url(role: Role | None) -> bool:
        """Whether the URL of this role is in a file of the folder."""
        return role in _VARIABLES

    def check(self) -> None:
        """Refuse a folder that is no host's: one that is only mistyped is neither made nor taken for an empty one.

        Raises:
            InvalidInput: it has no file of users, or that cannot be found out.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInput(f"{shown(self.path, 200)} is a file: --folder and PUTER_HOST_FOLDER name a folder")
        if not self.acl.exists():
            raise InvalidInput(
                f"{shown(self.path, 200)} is no host's folder, it has no acl/users.acl: begin with "
                "`puter admin user add --worker`, or check --folder and PUTER_HOST_FOLDER"
            )

    def env_file(self, role: Role) -> Path:
        """The file with the URL of a service."""
        return self.path / f"{role}.env"

    @contextmanager
    def url_prepared(self, role: Role, url: str) -> Iterator[Callable[[], None]]:
        """Prepare the file with the URL of a service, which its owner alone can read; other lines of it stay.

        The function puts it in the place of the one that is there.

        Raises:
            InvalidInput: it cannot be written.
        """
        path = self.env_file(role)
        with ExitStack() as stack:
            try:
                text = "\n".join([f"{_VARIABLES[role]}={url}", *self._other_lines(role), ""])
                put = stack.enter_context(prepared(path, text.encode(errors="surrogateescape"), mode=0o600))
            except OSError as error:
                raise InvalidInput(
                    f"{shown(path, 200)} cannot be written ({error.strerror}){remedy_of(error)}"
                ) from None
            yield put

    def forget_url(self, role: Role) -> bool:
        """Take the URL of a service out of its file; whether there was one.

        Raises:
            InvalidInput: the file cannot be read or written.
        """
        path = self.env_file(role)
        try:
            if not path.exists():
                return False
            kept = self._other_lines(role)
            text = "".join(f"{line}\n" for line in kept)
            is_there = len(kept) < len(path.read_text(errors="surrogateescape").splitlines())
            if is_there:
                write_whole(path, text.encode(errors="surrogateescape"), mode=0o600)
            return is_there
        except OSError as error:
            raise InvalidInput(f"{shown(path, 200)} cannot be written ({error.strerror}){remedy_of(error)}") from None

    def _other_lines(self, role: Role) -> list[str]:
        path = self.env_file(role)
        lines = path.read_text(errors="surrogateescape").splitlines() if path.exists() else []
        return [line for line in lines if not line.startswith(f"{_VARIABLES[role]}=")]

    def admin_url(self, environ: Mapping[str, str]) -> tuple[str | None, str]:
        """The URL of the user `admin`, and where it is from; None if there is none.

        Raises:
            InvalidInput: the file that holds it cannot be read.
        """
        if url := environ.get(ADMIN_URL_VARIABLE):
            return url, ADMIN_URL_VARIABLE
        path = self.env_file(Role.ADMIN)
        named_by = f"{ADMIN_URL_VARIABLE} in {path}"
        try:
            lines = path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return None, named_by
        except OSError as error:
            raise InvalidInput(f"{shown(path, 200)} cannot be read ({error.strerror}){remedy_of(error)}") from None
        urls = [line.partition("=")[2].strip() for line in lines if line.startswith(f"{ADMIN_URL_VARIABLE}=")]
        return (urls[-1] if urls else None), named_by


def address_of(role: Role, option: str | None, environ: Mapping[str, str]) -> tuple[str, str]:
    """Where a user of this role finds Redis, and the setting that says so."""
    if option is not None:
        return option, "--address"
    if role in SERVICES and (address := environ.get(SERVICES_ADDRESS_VARIABLE)):
        return address, SERVICES_ADDRESS_VARIABLE
    return environ.get(ADDRESS_VARIABLE) or ADDRESS, ADDRESS_VARIABLE


def check_address(address: str, *, named_by: str) -> str:
    """The URL of an address without a user.

    Raises:
        InvalidInput: it is no address.
    """
    url = address if "://" in address else f"redis://{address}"
    try:
        parsed = RedisUrl.parse(url)
        if parsed.user or parsed.password:
            raise InvalidInput("names a user: write the address alone, such as redis.example:6379")
    except InvalidInput as error:
        raise InvalidInput(error.message, subject=named_by) from None
    scheme, _, rest = url.partition("://")
    return url if scheme == "unix" or "/" in rest or "?" in rest else f"{url}/0"


def url_of(address: str, name: str, password: Password) -> str:
    """The URL with which a user signs in at an address that `check_address` has returned."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{name}:{password.text}@{rest}"


def settings_of(role: Role, password: Password) -> list[str]:
    """The lines that replicas or Sentinels need in their configuration; [] for other roles, which have a URL."""
    return [line.format(password.text) for line in _SETTINGS.get(role, ())]
