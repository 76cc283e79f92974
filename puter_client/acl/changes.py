"""Users are added, changed and removed: in the file, and in the Redis that runs.

A change is made in the file first, so that a restart keeps it. Then Redis is told to read the file. If Redis refuses
what is in it, the file is put back as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from puter_client.acl.acl_file import problem, users, with_line, with_password, without
from puter_client.acl.host import HostFolder, Password, address_of, check_address, url_of
from puter_client.acl.rules import FIRST_LINES, SERVICES, AclUser, Role, line, rules
from puter_client.contract.errors import InvalidInput, StoreUnavailable
from puter_client.contract.inbox import Inbox
from puter_client.contract.key import shown
from puter_client.store.adminstore import AdminStore, UsersRefused

_NO_ADMIN = "that takes the user admin (`puter admin user add --admin`)"
OLDEST, REDIS_7_2 = (7, 0), (7, 2)


class NewUser(msgspec.Struct, frozen=True, kw_only=True):
    """A user to add.

    Attributes:
        name: of the user.
        role: what it is for.
        namespace: of a client or viewer.
        address: where it finds Redis, as `--address` has it; None is the default.
        new_password: the user exists, and gets another password.
        redis_version: of the server, as `--redis-version` has it; None asks the server.
    """

    name: str
    role: Role
    namespace: str | None = None
    address: str | None = None
    new_password: bool = False
    redis_version: str | None = None


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a change in the Redis that runs.

    Attributes:
        loaded: whether Redis has read the file.
        why_not: why it has not.
    """

    loaded: bool
    why_not: str = ""


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """A user as it was added.

    Attributes:
        user: name, role, namespace.
        password: to be shown once.
        url: with it.
        told: whether Redis knows the user.
        version_unknown: nobody could say which version Redis has: the rules are for 7.2 and newer, and for Valkey.
    """

    user: AclUser
    password: Password
    url: str
    told: Told
    version_unknown: bool = False

    def __repr__(self) -> str:
        return f"Added({self.user.name!r})"


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A user, in the file or in Redis.

    Attributes:
        user: as the file has it; of one that is only in Redis, the name alone is known.
        in_file: whether it is in the file.
        loaded: whether Redis has it now; None if Redis was not asked.
    """

    user: AclUser
    in_file: bool
    loaded: bool | None


class UserChanges:
    """The users of a shared host. Each change is safe beside others, and after a kill it is there or not, as a whole.

    A kill between file and Redis leaves a change that Redis learns of when it next reads the file.
    """

    def __init__(self, folder: HostFolder, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ

    async def add(self, new: NewUser) -> Added:
        """Add a user, or give one that exists another password.

        Raises:
            InvalidInput: there is such a user already, or none, or a setting cannot be used; nothing was changed.
            UsersRefused: Redis refuses what is in the file, which is as it was.
        """
        address, named_by = address_of(new.role, new.address, self._environ)
        at = check_address(address, named_by=named_by)
        version = None if new.redis_version is None else read_version(new.redis_version)
        file, password = self._folder.acl, Password.random()
        with file.locked():
            old = file.read()
            user = self._present(new, old)
            url = url_of(at, user.name, password)
            unknown = False
            if new.new_password:
                lines = with_password(old or [], user.name, password.hash)
            else:
                await self._refuse_an_heir(user)
                version = version or await self._version(at, old or [])
                unknown = version is None
                lines = with_line(old, self._line(user, password, version))
            admin_url = url if user.role is Role.ADMIN else None
            told = await self._write(lines, old, name=user.name, expected=True, admin_url=admin_url)
        return Added(user=user, password=password, url=url, told=told, version_unknown=unknown)

    def _present(self, new: NewUser, lines: Sequence[str] | None) -> AclUser:
        """The user that is added, or the one that exists."""
        file = self._folder.acl.path
        found = [user for user in users(lines or []) if user.name == new.name]
        if new.new_password and not found:
            raise InvalidInput(f"there is no user {new.name} in {file}: add it without --new-password")
        if found and not new.new_password:
            raise InvalidInput(f"there is a user {new.name} already: --new-password gives it another password")
        if found:
            return msgspec.structs.replace(found[0], role=found[0].role or new.role)
        return AclUser(name=new.name, role=new.role, namespace=new.namespace, enabled=True)

    def _line(self, user: AclUser, password: Password, version: tuple[int, int] | None) -> str:
        assert user.role is not None
        is_7_0 = version is not None and version < REDIS_7_2
        text = rules(user.role, user=user.name, namespace=user.namespace, redis_7_0=is_7_0)
        return line(user.name, password.hash, text)

    async def _refuse_an_heir(self, user: AclUser) -> None:
        """Refuse a user whose inbox still holds what a removed one of that name has written: it would seem its own."""
        url, named_by = self._folder.admin_url(self._environ)
        if url is None or user.namespace is None:
            return
        try:
            async with AdminStore.connected(url, url_from=named_by) as store:
                waiting = await store.waiting(str(Inbox(user.namespace, user.name)))
        except StoreUnavailable:
            return
        if waiting:
            raise InvalidInput(
                f"{waiting:,} requests of a removed user {user.name} are not refused yet: add it when a worker has run"
            )

    async def remove(self, name: str) -> Told:
        """Remove a user: its connections end, and its requests that wait are refused.

        Raises:
            InvalidInput: there is no such user, or every file has it; nothing was changed.
            UsersRefused: Redis refuses what is in the file, which is as it was.
        """
        if name in {one.split()[1] for one in FIRST_LINES}:
            raise InvalidInput(f"the user {name} cannot be removed: it keeps out who has no password, or checks health")
        file = self._folder.acl
        with file.locked():
            old = file.read()
            if old is None or name not in {user.name for user in users(old)}:
                raise InvalidInput(f"there is no user {shown(name)} in {file.path}: see `puter admin user list`")
            return await self._write(without(old, name), old, name=name, expected=False)

    async def list(self) -> tuple[list[Listed], str]:
        """All users, by name, and why Redis was not asked; empty if it was.

        Raises:
            InvalidInput: the file cannot be read.
        """
        in_file = {user.name: user for user in users(self._folder.acl.read() or [])}
        loaded: set[str] | None = None
        why_not = _NO_ADMIN
        url, named_by = self._folder.admin_url(self._environ)
        if url is not None:
            try:
                async with AdminStore.connected(url, url_from=named_by) as store:
                    loaded, why_not = await store.users(), ""
            except StoreUnavailable as error:
                why_not = str(error)
        found: list[Listed] = []
        for name in sorted(in_file.keys() | (loaded or set())):
            user = in_file.get(name) or AclUser(name=name, role=None, namespace=None, enabled=True)
            known = None if loaded is None else name in loaded
            found.append(Listed(user=user, in_file=name in in_file, loaded=known))
        return found, why_not

    async def _write(
        self,
        lines: Sequence[str],
        old: Sequence[str] | None,
        *,
        name: str,
        expected: bool,
        admin_url: str | None = None,
    ) -> Told:
        """Write the file, and have Redis read it.

        `expected`: whether Redis has the user afterwards. `admin_url`: of the user `admin`, if this changes it.
        """
        file = self._folder.acl
        if wrong := problem(lines):
            raise InvalidInput(f"{file.path}: {wrong}: correct it first")
        url, named_by = self._folder.admin_url(self._environ)
        file.write(lines)
        if url is None:
            return Told(loaded=False, why_not=_NO_ADMIN)
        try:
            async with AdminStore.connected(url, url_from=named_by) as store:
                await store.load()
        except StoreUnavailable as error:
            return Told(loaded=False, why_not=str(error))
        except UsersRefused as error:
            if old is not None:
                file.write(old)
            raise UsersRefused(f"Redis does not take {file.path}, nothing was changed: {error}") from None
        if name == Role.ADMIN and not expected:
            return Told(loaded=True)  # nobody is left who could ask
        async with AdminStore.connected(admin_url or url, url_from=named_by) as store:
            if (name in await store.users()) is not expected:
                raise UsersRefused(
                    f"Redis reads its users from {await store.file() or 'no file'}, and not from {file.path}: set its "
                    "aclfile, or mount that file's folder into its container"
                )
            if expected:
                await store.end_connections(name)  # of one who has another password now
        return Told(loaded=True)

    async def _version(self, address: str, lines: Sequence[str]) -> tuple[int, int] | None:
        """The version of Redis, as it says itself, or else as the rules of other users are for; None if unknown."""
        url, named_by = self._folder.admin_url(self._environ)
        for at in (url, address):
            if at is None:
                continue
            try:
                async with AdminStore.connected(at, url_from=named_by) as store:
                    return _checked(await store.version())
            except StoreUnavailable:
                continue
        text = "\n".join(lines)
        if "+waitaof" in text or "+client|setinfo" in text:
            return REDIS_7_2
        return OLDEST if any(user.role in (*SERVICES, Role.CLIENT, Role.VIEWER) for user in users(lines)) else None


def read_version(text: str) -> tuple[int, int]:
    """The version that `--redis-version` names.

    Raises:
        InvalidInput: it is none, or too old.
    """
    if not re.fullmatch(r"\d{1,4}\.\d{1,4}(\.\d{1,4})?", text):
        raise InvalidInput(f"{shown(text)}: write it like 7.0 or 7.2", subject="--redis-version")
    major, minor = text.split(".")[:2]
    return _checked((int(major), int(minor)))


def _checked(version: tuple[int, int]) -> tuple[int, int]:
    if version < OLDEST:
        raise InvalidInput(f"Redis {version[0]}.{version[1]} is too old: Puter needs Redis 7.0 or newer, or Valkey")
    return version
