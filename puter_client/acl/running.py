"""The Redis that runs, while its users change: asked before a change, told of it, and asked whether it has taken it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from puter_client.acl.acl_file import has_password, users
from puter_client.acl.host import HostFolder
from puter_client.acl.rules import Role
from puter_client.contract.errors import NotPermitted, StoreUnavailable
from puter_client.store.adminstore import ADMIN_URL_VARIABLE, AdminStore, NotSignedIn, UsersRefused
from puter_client.store.redis_url import RedisUrl

_NO_ADMIN = "that takes the user admin (`puter admin user add --admin`)"


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a change in the Redis that runs.

    Attributes:
        loaded: whether Redis has it; None: that is not known, because the connection was lost.
        why_not: why it has not, or why it is not known.
        no_admin: Redis could not be told, because there is no user `admin` yet.
    """

    loaded: bool | None
    why_not: str = ""
    no_admin: bool = False


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What Redis has answered before a change.

    Attributes:
        not_told: why it cannot be told of changes; None: it can.
        refuses_admin: it runs, but does not let the user `admin` in.
        version: of Redis whose commands it has.
        reads_a_file: whether it has a file of users.
        waiting: how many requests are in the inbox that was asked for.
        users: names of its users.
    """

    not_told: Told | None = None
    refuses_admin: bool = False
    version: tuple[int, int] = (0, 0)
    reads_a_file: bool = True
    waiting: int = 0
    users: frozenset[str] = frozenset()


class RunningRedis:
    """The Redis of a host's folder, as the user `admin` reaches it."""

    def __init__(self, folder: HostFolder, environ: Mapping[str, str]) -> None:
        self._folder = folder
        self._environ = environ

    async def see(self, *, inbox: str | None = None) -> Seen:
        """Ask it; `inbox`: whose requests to count.

        Raises:
            InvalidInput: the URL of `admin` cannot be read, or is none.
        """
        url, named_by = self._folder.admin_url(self._environ)
        if url is None:
            lines = self._folder.acl.read() or []
            if Role.ADMIN not in {user.name for user in users(lines)}:
                return Seen(not_told=Told(loaded=False, why_not=_NO_ADMIN, no_admin=True))
            remedy = "`puter admin user add --admin --new-password` writes one"
            return Seen(not_told=Told(loaded=False, why_not=f"there is no {named_by}: {remedy}"))
        try:
            async with AdminStore.connected(url, url_from=named_by) as store:
                found = frozenset(await store.users())
                try:
                    file = await store.file()
                except NotPermitted:  # another user than `admin`
                    file = None
                return Seen(
                    version=await store.version(),
                    reads_a_file=file != "",
                    waiting=await store.waiting(inbox) if inbox else 0,
                    users=found,
                )
        except NotSignedIn as error:
            why = str(error) if named_by == ADMIN_URL_VARIABLE else self._why_not_let_in(url)
            return Seen(not_told=Told(loaded=False, why_not=why), refuses_admin=True)
        except StoreUnavailable as error:
            return Seen(not_told=Told(loaded=False, why_not=str(error)))

    def _why_not_let_in(self, url: str) -> str:
        """Why Redis does not take a URL that Puter has written: it has other users than the file, or the URL is old."""
        to, acl, env = RedisUrl.parse(url), self._folder.acl, self._folder.env_file(Role.ADMIN)
        lines = acl.read() or []
        if has_password(lines, to.user, hashlib.sha256(to.password.encode()).hexdigest()):
            return (
                f"Redis at {to} has not read {acl.path}: set aclfile in its configuration to that file, and restart it"
            )
        exists = to.user in {user.name for user in users(lines)}
        remedy = f"`puter admin user add --admin{' --new-password' if exists else ''}`, then restart Redis"
        what = "has another password" if exists else "is not there"
        return f"Redis at {to} refuses the user {to.user} of {env}, who {what} in {acl.path}: {remedy}"

    async def tell(self, lines: Sequence[str], *, name: str, password_hash: str | None, new_url: str | None) -> Told:
        """Have it read the file, which has these lines now, and find out whether it did.

        Args:
            lines: of the file.
            name: of the user who has changed.
            password_hash: that the user has now; None: it was removed.
            new_url: with which `admin` signs in now, if this is who has changed.

        Raises:
            UsersRefused: it does not take them, or reads another file; it has the users that it had.
        """
        url, named_by = self._folder.admin_url(self._environ)
        assert url is not None
        lost = ""
        try:
            async with AdminStore.connected(url, url_from=named_by) as store:
                await store.load()
        except NotPermitted as error:
            return Told(loaded=False, why_not=str(error))
        except UsersRefused as error:
            raise UsersRefused(f"Redis does not take {self._folder.acl.path}: {error}") from None
        except StoreUnavailable as error:
            lost = str(error)  # it may have been done
        taken: bool | None = None
        for at in filter(None, (url, new_url)):
            try:
                async with AdminStore.connected(at, url_from=named_by) as store:
                    taken = taken or await self._has_taken(store, lines, name, password_hash)
                    if not taken and not lost:
                        file = await store.file()
                        raise UsersRefused(
                            f"Redis reads its users from {file or 'no file'}, and not from {self._folder.acl.path}: "
                            "set its aclfile, or mount that file's folder into its container"
                        )
                    if taken and password_hash is not None:
                        await store.end_connections(name)  # of one who has another password now
                break
            except NotSignedIn as error:
                # It let this user in before: the user was removed, or has another password now.
                taken = taken or RedisUrl.parse(at).user == name or None
                lost = lost or str(error)
            except StoreUnavailable as error:
                lost = lost or str(error)
        return Told(loaded=True) if taken else Told(loaded=taken, why_not=lost)

    @staticmethod
    async def _has_taken(store: AdminStore, lines: Sequence[str], name: str, password_hash: str | None) -> bool:
        if password_hash is not None:
            return password_hash in await store.passwords(name)
        found = await store.users()
        return name not in found and {user.name for user in users(lines) if user.name.isascii()} <= found
