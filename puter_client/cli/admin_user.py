"""`puter admin user`: the users of a shared host's Redis."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from puter_client.cli.admin import ADMIN_COMMANDS
from puter_client.cli.options import json_option
from puter_client.cli.terminal import OutputLost, out, out_json, say, to_nowhere
from puter_client.contract.errors import InvalidInput
from puter_client.contract.key import NAMESPACE, check_namespace, check_user

if TYPE_CHECKING:
    from puter_client.acl.changes import Added, Listed, UserChanges
    from puter_client.acl.host import HostFolder
    from puter_client.acl.rules import Role

NOT_LOADED = 3
# What happens without the user of a service, by its role.
_LOST = {
    "worker": "all workers lose Redis, and no request is taken any more",
    "admin": "no change of users takes effect any more until Redis is restarted",
    "replica": "no replica can follow this Redis any more",
    "sentinel": "Sentinels lose this Redis, so nothing takes over when it fails",
}
folder_option = click.option(
    "--folder",
    metavar="FOLDER",
    envvar="PUTER_HOST_FOLDER",
    default="/etc/puter",
    show_default=True,
    help="Where users and URLs of services are kept. [PUTER_HOST_FOLDER]",
)


@click.group(short_help=ADMIN_COMMANDS["user"][2], context_settings={"help_option_names": ["-h", "--help"]})
def user() -> None:
    """Add, remove or list the users of a shared host's Redis.

    They are kept in FOLDER/acl/users.acl, as hashes of their passwords. A Redis
    that runs learns of a change at once, once it has the user `admin`.

    \b
    Examples:
      puter admin user add --worker
      puter admin user add betty
      puter admin user remove betty
    """


@user.command(short_help="Add a user, or change a password.")
@click.argument("name", required=False)
@click.option("-n", "--namespace", metavar="NAME", help="Whose machines it requests.  [default: NAME]")
@click.option("--viewer", is_flag=True, help="It may only read its namespace.")
@click.option("--worker", is_flag=True, help="The user of all workers; its URL goes to FOLDER/worker.env.")
@click.option("--admin", is_flag=True, help="The user of these commands; its URL goes to FOLDER/admin.env.")
@click.option("--replica", is_flag=True, help="The user of replicas; prints two lines for their settings.")
@click.option("--sentinel", is_flag=True, help="The user of Sentinels; prints two lines for their settings.")
@click.option("--new-password", is_flag=True, help="Give a user that exists another password.")
@click.option("--address", metavar="HOST:PORT", help="Where it finds Redis.  [PUTER_REDIS_ADDRESS]")
@click.option(
    "--redis-version", metavar="X.Y", help="Rules for this Redis.  [default: the one that runs, or is installed]"
)
@folder_option
def add(
    name: str | None,
    namespace: str | None,
    viewer: bool,
    worker: bool,
    admin: bool,
    replica: bool,
    sentinel: bool,
    new_password: bool,
    address: str | None,
    redis_version: str | None,
    folder: str,
) -> int:
    """Add a user with a random password, which is shown once.

    A client may request machines in its namespace, a viewer may only look.
    --worker and --admin begin a host's folder. Nothing is changed if it fails.

    \b
    Examples:
      puter admin user add betty
      puter admin user add betty --namespace team-a
      puter admin user add screen --viewer --namespace team-a
      puter admin user add betty --new-password
      puter admin user add --worker
    """
    from puter_client.acl.changes import NewUser
    from puter_client.acl.rules import Role
    from puter_client.cli.follow import run

    roles = {
        Role.VIEWER: viewer,
        Role.WORKER: worker,
        Role.ADMIN: admin,
        Role.REPLICA: replica,
        Role.SENTINEL: sentinel,
    }
    named = [role for role, given in roles.items() if given]
    if len(named) > 1:
        raise InvalidInput(f"--{named[0]} and --{named[1]}: a user has one of them")
    role = named[0] if named else Role.CLIENT
    name, namespace = _named(name, role, namespace, new_password=new_password)
    new = NewUser(
        name=name,
        role=role,
        namespace=namespace,
        address=address,
        new_password=new_password,
        redis_version=redis_version,
    )
    host, changes = _host(folder)

    async def work() -> int:
        _tell_added(await changes.add(new), host)
        return 0

    return run(work)


@user.command(short_help="Remove a user.")
@click.argument("name")
@click.option("-y", "--yes", is_flag=True, help="Remove a user of services, such as worker or admin, too.")
@folder_option
def remove(name: str, yes: bool, folder: str) -> int:
    """Remove a user: its connections end.

    Its requests that no worker has taken yet are refused; what workers have
    taken goes on. Its machines run on, and end themselves. Exit code 3 if Redis
    could not be told: then the user can sign in until Redis is restarted.

    \b
    Examples:
      puter admin user remove betty
    """
    from puter_client.acl.rules import SERVICES, Role
    from puter_client.cli.follow import run

    host, changes = _host(folder)
    if name in SERVICES and not yes:
        role = Role(name)
        raise InvalidInput(
            f"the user {name} is not removed: {_LOST.get(role, 'what uses it loses Redis')}; if that shall be, add "
            f"--yes (for another password: `puter admin user add --{role} --new-password`)"
        )

    async def work() -> int:
        told = await changes.remove(name)
        if told.loaded:
            say(f"{name} is removed")
            return 0
        if told.loaded is None:
            say(f"{name} is removed from {host.acl.path}; whether Redis has read it is not known: {told.why_not}")
            say("until it has, the user can sign in: restart it, or see `puter admin user list`")
            return NOT_LOADED
        say(f"{name} is removed from {host.acl.path}, and can still sign in: Redis has not read it")
        say(f"restart Redis, which was not told: {told.why_not}")
        return NOT_LOADED

    return run(work)


@user.command("list", short_help="List the users.")
@folder_option
@json_option
def list_users(folder: str, as_json: bool) -> int:
    """List the users: what each is for, its namespace, and whether Redis knows it.

    \b
    Examples:
      puter admin user list
      puter admin user list --json | jq -r 'select(.namespace=="team-a").user'
    """
    from puter_client.cli.follow import run

    _, changes = _host(folder)

    async def work() -> int:
        found, why_not = await changes.list()
        if why_not:
            say(f"Redis was not asked which users it has: {why_not}")
        if as_json:
            for one in found:
                out_json(_fields(one))
        else:
            for line in _table(found):
                out(line)
        return 0

    return run(work)


def _host(folder: str) -> tuple[HostFolder, UserChanges]:
    from puter_client.acl.changes import UserChanges
    from puter_client.acl.host import HostFolder

    host = HostFolder(Path(folder))
    return host, UserChanges(host, os.environ)


def _named(name: str | None, role: Role, namespace: str | None, *, new_password: bool) -> tuple[str, str | None]:
    """The user's name and namespace, checked."""
    from puter_client.acl.rules import RESERVED, SERVICES, Role

    if role in SERVICES:
        if name is not None or namespace is not None:
            raise InvalidInput(f"--{role} takes neither a name nor a namespace: the user is called {role}")
        return str(role), None
    if name is None:
        raise InvalidInput("no user: write its name, or --worker, --admin, --replica or --sentinel")
    check_user(name)
    if name in RESERVED:
        raise InvalidInput(f"user '{name}': this name is Puter's own; choose another one")
    if new_password:
        if namespace is not None or role is Role.VIEWER:
            raise InvalidInput(
                "--new-password changes the password alone, a user keeps its namespace and what it may do: leave out "
                "--namespace and --viewer"
            )
        return name, None
    if namespace is not None:
        return name, check_namespace(namespace, named_by="--namespace")
    if role is Role.VIEWER:
        raise InvalidInput("--viewer: write --namespace NAME, the namespace that it may read")
    if not NAMESPACE.fullmatch(name):
        raise InvalidInput(f"user '{name}' cannot have a namespace of its name: write --namespace NAME")
    return name, name


def _tell_added(added: Added, host: HostFolder) -> None:
    """What is needed to sign in on stdout, or into a file; the rest on stderr."""
    from puter_client.acl.changes import RulesFor
    from puter_client.acl.host import settings_of
    from puter_client.acl.rules import SERVICES, Role

    user = added.user
    if added.url_file is not None:
        say(f"its URL is in {added.url_file}")
    elif user.role in (Role.REPLICA, Role.SENTINEL):
        _show_once(added, *settings_of(user.role, added.password))
        where = (
            "the configuration of each replica; where Sentinels choose the primary, of each server"
            if user.role is Role.REPLICA
            else "the configuration of each Sentinel, below its `sentinel monitor mymaster …`"
        )
        say(f"put these two lines into {where}. They are not shown again")
    else:
        namespace = [] if user.namespace in (None, user.name) else [f"PUTER_NAMESPACE={user.namespace}"]
        _show_once(added, f"PUTER_REDIS_URL={added.url}", *namespace)
        say(f"give this to {user.name}, and to nobody else; it is not shown again")
    if added.rules_for is RulesFor.INSTALLED:
        say(f"its rules are for {added.server}, which is installed here")
        remove = f"puter admin user remove {user.name}{' --yes' if user.role in SERVICES else ''}"
        say(f"for another one, `{remove}`, then add it again with --redis-version")
    elif added.rules_for is RulesFor.UNKNOWN:
        say("its rules are for Valkey, and for Redis 7.2 or newer: Redis 7.0 needs them with --redis-version 7.0")
    _tell_told(added, host)


def _show_once(added: Added, *lines: str) -> None:
    """Show what holds the password.

    Raises:
        OutputLost: it cannot be shown; the text says how to get another one.
    """
    from puter_client.acl.rules import SERVICES

    try:
        for line in lines:
            out(line)
        sys.stdout.flush()
    except (OutputLost, BrokenPipeError) as error:
        to_nowhere(sys.stdout)
        why = error if isinstance(error, OutputLost) else "standard output is closed"
        name = f"--{added.user.name}" if added.user.role in SERVICES else added.user.name
        raise OutputLost(
            f"{why}, and nobody knows the new password of {added.user.name}: `puter admin user add {name} "
            "--new-password` makes another one"
        ) from None


def _tell_told(added: Added, host: HostFolder) -> None:
    """Whether the user can sign in, and what is next if not."""
    from puter_client.acl.rules import Role

    name, told = added.user.name, added.told
    if told.loaded:
        say(f"{name} can sign in now")
    elif told.loaded is None:
        say(f"{name} is in {host.acl.path}; whether Redis has read it is not known: {told.why_not}")
        say(f"see `puter admin user list`: if Redis does not have {name} yet, restart it")
    elif not told.no_admin:
        say(f"{name} can sign in when Redis has read {host.acl.path}: start Redis, or restart it")
        say(f"Redis was not told: {told.why_not}")
    elif added.user.role is Role.ADMIN:
        say(f"next: start Redis, or restart it, so that it reads {host.acl.path}; it is told of later changes")
    else:
        say(f"{name} can sign in when Redis has read {host.acl.path}")
        say("next: `puter admin user add --admin`, for changes while Redis runs; then start Redis, or restart it")


def _fields(one: Listed) -> dict[str, object]:
    return {
        "user": one.user.name,
        "role": one.user.role,
        "namespace": one.user.namespace,
        "enabled": one.user.enabled,
        "in_file": one.in_file,
        "loaded": one.loaded,
    }


def _table(found: list[Listed]) -> list[str]:
    cells = ((one.user.name, one.user.role or "-", one.user.namespace or "-", _state(one)) for one in found)
    rows = [("USER", "ROLE", "NAMESPACE", ""), *cells]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    padded = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    return [line.rstrip() for line in padded]


def _state(one: Listed) -> str:
    if not one.in_file:
        return "only in Redis: gone when it next reads its file"
    if one.loaded is False:
        return "not in Redis yet: restart it"
    return "" if one.user.enabled else "may not sign in"
