"""Users are added, changed and removed: in the file, and in the Redis that runs.

A change is made in the file first, so that a restart keeps it. Then Redis is told to read the file, and asked whether
it has. If it refuses what is in the file, or reads another one, the file is put back as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import msgspec

from puter_client.acl.acl_file import problem, users, with_line, with_password, without
from puter_client.acl.host import HostFolder, Password, address_of, check_address, url_of
from puter_client.acl.rules import FIRST_LINES, SERVICES, AclUser, Role, line, rules
from puter_client.acl.running import RunningRedis, Seen, Told
from puter_client.acl.version import REDIS_7_2, checked, installed, of_lines, read_version
from puter_client.contract.errors import InvalidInput, StoreUnavailable
from puter_client.contract.inbox import Inbox
from puter_client.contract.key import shown
from puter_client.store.adminstore import AdminStore, UsersRefused

BEGINNERS = (Role.WORKER, Role.ADMIN)
"""The roles whose first user makes the folder; what else adds a user may have the name of another one."""


class RulesFor(StrEnum):
    """Who has said which Redis the rules of a new user are for."""

    KNOWN = "known"
    """The Redis that runs, `--redis-version`, or the rules of other users."""
    INSTALLED = "installed"
    """The Redis that is installed on this computer."""
    UNKNOWN = "unknown"
    """Nobody: they are for Redis 7.2 and newer, and for Valkey."""


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


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """A user as it was added.

    Attributes:
        user: name, role, namespace.
        password: to be shown once.
        url: with it.
        told: whether Redis knows the user.
        url_file: where the URL is, of a service whose URL is kept.
        rules_for: who has said which Redis its rules are for.
        server: that Redis, if it is the one that is installed.
    """

    user: AclUser
    password: Password
    url: str
    told: Told
    url_file: Path | None = None
    rules_for: RulesFor = RulesFor.KNOWN
    server: str = ""

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

    A change that ends with an error leaves the file as it was. A kill between file and Redis leaves a change that Redis
    learns of when it next reads the file.
    """

    def __init__(self, folder: HostFolder, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ
        self._redis = RunningRedis(folder, environ)

    async def add(self, new: NewUser) -> Added:
        """Add a user, or give one that exists another password; the file of a service has its URL then.

        Raises:
            InvalidInput: there is such a user already, or none, or a setting cannot be used; nothing was changed.
            UsersRefused: Redis refuses what is in the file, or reads another one; nothing was changed.
        """
        address, named_by = address_of(new.role, new.address, self._environ)
        at = check_address(address, named_by=named_by)
        version = None if new.redis_version is None else read_version(new.redis_version)
        if new.role not in BEGINNERS or new.new_password:
            self._folder.check()
        file, password = self._folder.acl, Password.random()
        with file.locked(), ExitStack() as stack:
            old = file.read()
            user = self._present(new, old)
            url = url_of(at, user.name, password)
            keeper = user.role if self._folder.keeps_url(user.role) else None
            put_url = stack.enter_context(self._folder.url_prepared(keeper, url)) if keeper else None
            heir = str(Inbox(user.namespace, user.name)) if user.namespace and not new.new_password else None
            seen = await self._redis.see(inbox=heir)
            if seen.waiting:
                raise InvalidInput(
                    f"{seen.waiting:,} requests of a removed user {user.name} are not refused yet: add it when a "
                    "worker has run"  # they would seem its own
                )
            rules_for, server = RulesFor.KNOWN, ""
            if new.new_password:
                lines = with_password(old or [], user.name, password.hash)
            else:
                version = version or await self._version(seen, at) or of_lines(old or [])
                if version is None:
                    found = installed()
                    rules_for = RulesFor.UNKNOWN if found is None else RulesFor.INSTALLED
                    version, server = (None, "") if found is None else (found.version, found.name)
                lines = with_line(old, self._line(user, password, version))
            change = _Change(lines, old, user.name, password.hash, url if user.role is Role.ADMIN else None)
            told = await self._write(change, seen)
            if put_url is not None:
                put_url()
        return Added(
            user=user, password=password, url=url, told=told, rules_for=rules_for, server=server,
            url_file=self._folder.env_file(keeper) if keeper else None,
        )  # fmt: skip

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

    async def remove(self, name: str) -> Told:
        """Remove a user: its connections end, and its requests that wait are refused; a service's URL is forgotten.

        Raises:
            InvalidInput: there is no such user, or every file has it; nothing was changed.
            UsersRefused: Redis refuses what is in the file, or reads another one; nothing was changed.
        """
        if name in {one.split()[1] for one in FIRST_LINES}:
            raise InvalidInput(f"the user {name} cannot be removed: it keeps out who has no password, or checks health")
        self._folder.check()
        file = self._folder.acl
        with file.locked():
            old = file.read()
            if old is None or name not in {user.name for user in users(old)}:
                raise InvalidInput(f"there is no user {shown(name)} in {file.path}: see `puter admin user list`")
            told = await self._write(_Change(without(old, name), old, name), await self._redis.see())
            if told.loaded and name in SERVICES and self._folder.keeps_url(Role(name)):
                self._folder.forget_url(Role(name))
        return told

    async def list(self) -> tuple[list[Listed], str]:
        """All users, by name, and why Redis was not asked; empty if it was.

        Raises:
            InvalidInput: the file cannot be read, or there is none.
        """
        self._folder.check()
        in_file = {user.name: user for user in users(self._folder.acl.read() or [])}
        try:
            seen = await self._redis.see()
        except InvalidInput as error:  # the URL of `admin`; the file can be shown without it
            seen = Seen(not_told=Told(loaded=False, why_not=str(error)))
        found: list[Listed] = []
        for name in sorted(in_file.keys() | seen.users):
            user = in_file.get(name) or AclUser(name=name, role=None, namespace=None, enabled=True)
            known = name in seen.users if seen.not_told is None else None
            found.append(Listed(user=user, in_file=name in in_file, loaded=known))
        return found, seen.not_told.why_not if seen.not_told else ""

    async def _write(self, change: _Change, seen: Seen) -> Told:
        """Write the file, and have Redis read it; after an error, the file is as it was."""
        file = self._folder.acl
        if wrong := problem(change.lines):
            raise InvalidInput(f"{file.path}: {wrong}: correct it first")
        if not seen.reads_a_file:
            raise UsersRefused(
                f"Redis has no file of users: set aclfile to {file.path} in its configuration, and restart it (nothing "
                "was changed)"
            )
        file.write(change.lines)
        if seen.not_told is not None:
            return seen.not_told
        try:
            return await self._redis.tell(
                change.lines, name=change.name, password_hash=change.password_hash, new_url=change.admin_url
            )
        except UsersRefused as error:
            file.put_back(change.old)
            raise UsersRefused(f"{error} (nothing was changed)") from None
        except asyncio.CancelledError:
            if change.password_hash is not None:  # nobody has seen the password
                file.put_back(change.old)
            raise

    async def _version(self, seen: Seen, address: str) -> tuple[int, int] | None:
        """The version of Redis, as it says itself; None if it is not asked, or does not say."""
        if seen.not_told is None:
            return checked(seen.version)
        if not (seen.refuses_admin or seen.not_told.no_admin):
            return None  # it does not answer
        try:
            async with AdminStore.connected(address) as store:  # one that has no users yet
                return checked(await store.version())
        except StoreUnavailable:
            return None


class _Change(NamedTuple):
    """A change of the file.

    Attributes:
        lines: that it has afterwards.
        old: that it has before; None: there is no file.
        name: of the user who changes.
        password_hash: that the user has afterwards; None: it is removed.
        admin_url: with which `admin` signs in afterwards, if this is who changes.
    """

    lines: Sequence[str]
    old: Sequence[str] | None
    name: str
    password_hash: str | None = None
    admin_url: str | None = None
