"""`puter ssh`, `puter rsync` and `puter ssh-config`: access to the machines."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import click

from puter_client.cli.group import COMMANDS
from puter_client.cli.options import namespace_option
from puter_client.cli.terminal import out, plain, say
from puter_client.config import ClientSettings
from puter_client.contract.errors import PuterError
from puter_client.contract.key import check_tag, shown
from puter_client.contract.phase import LIVE
from puter_client.contract.record import Record
from puter_client.paths import secure_folder
from puter_client.ssh_commands import address, private_key, ssh_user

_INSTANCE_ID = re.compile(r"i-[0-9a-f]{8,17}")
_HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,252}")
_PATH = re.compile(r"[^\x00-\x1f\x7f\"]+")


class NoMachine(PuterError):
    """No machine under this tag can be reached by ssh now."""


class ProgramMissing(PuterError):
    """A program that Puter runs is not installed."""

    exit_code: ClassVar[int] = 127  # as shells have it


@click.command(
    short_help=COMMANDS["ssh"][2],
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)
@namespace_option
@click.argument("tag")
@click.argument("command", nargs=-1, metavar="[-- CMD...]", type=click.UNPROCESSED)
def ssh(namespace: str | None, tag: str, command: tuple[str, ...]) -> None:
    """Open a shell on a machine, or run one command there.

    Host keys are stored per instance: an address that another machine had
    before causes no warning, but a changed key of the same machine does.

    \b
    Examples:
      puter ssh build
      puter ssh build -- docker ps

    Options of `puter ssh` go before the tag. The exit code is that of ssh.
    """
    from puter_client.cli.session import settings_of

    settings = settings_of(namespace)
    record = _living(settings, tag)
    words = list(command[1:] if command[:1] == ("--",) else command)
    target = f"{ssh_user(record)}@{host_of(record)}"
    _become([*ssh_program(record, known_hosts(settings)), target, *(["--", *words] if words else [])])


@click.command(short_help=COMMANDS["rsync"][2])
@click.argument("tag")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@namespace_option
def rsync(tag: str, source: str, destination: str, namespace: str | None) -> None:
    """Copy files to a machine, or from it.

    The side that begins with ':' is on the machine; if none does, DST is.
    .git is left out; a path that ends in '/' means the content of that folder.

    \b
    Examples:
      puter rsync build ./ work/
      puter rsync build :work/results/ results/

    The exit code is that of rsync.
    """
    from puter_client.cli.session import settings_of

    settings = settings_of(namespace)
    record = _living(settings, tag)
    remote = f"{ssh_user(record)}@{host_of(record)}:"
    if source.startswith(":"):
        if destination.startswith(":"):
            raise click.UsageError("one side must be on this computer: write ':' before SRC or DST, not both")
        source = remote + source[1:]
    else:
        destination = remote + destination.removeprefix(":")
    shell = shlex.join(ssh_program(record, known_hosts(settings)))
    _become(["rsync", "-Paq", "--exclude", ".git", "-e", shell, "--", source, destination])


@click.command(short_help=COMMANDS["ssh-config"][2])
@namespace_option
def ssh_config(namespace: str | None) -> int:
    """Print host blocks of live machines, for ssh, scp, rsync and editors.

    \b
    Example:
      puter ssh-config > ~/.ssh/puter.conf
      # once, at the top of ~/.ssh/config:  Include puter.conf
      ssh puter-betty-build
    """
    from puter_client.cli.follow import run
    from puter_client.cli.session import NothingYet, connected, settings_of

    settings = settings_of(namespace)

    async def work() -> int:
        try:
            async with connected(settings, looks_only=True) as client:
                views = await client.recent()
        except NothingYet:
            views = []
        records = [view.record for view in views if view.record is not None and view.record.phase in LIVE]
        out("# live machines, written by `puter ssh-config`")
        for line in host_blocks(records, known_hosts(settings)):
            out(line)
        return 0

    return run(work)


def _living(settings: ClientSettings, tag: str) -> Record:
    from puter_client.cli.follow import run
    from puter_client.cli.session import connected

    found: list[Record] = []

    async def work() -> int:
        async with connected(settings, looks_only=True) as client:
            (view,) = await client.views([check_tag(tag)])
            found.extend([view.record] if view.record else [])
        return 0

    if run(work) != 0:
        raise KeyboardInterrupt
    if not found:
        raise NoMachine(f"{tag} is not known in namespace {settings.namespace}")
    record = found[0]
    if record.phase not in LIVE:
        raise NoMachine(f"{tag} is {record.phase.value}: {plain(record.reason or 'no machine is running')}")
    if address(record) is None:
        raise NoMachine(f"{tag} has no address yet; wait for it with: {settings.command(f'wait {tag}')}")
    return record


def host_of(record: Record) -> str:
    """The machine's address, as ssh may be given it.

    Raises:
        NoMachine: it has none that can be one.
    """
    host = address(record) or ""
    if not _HOST.fullmatch(host):
        raise NoMachine(f"{record.tag} has no address that ssh can use: {shown(host)}")
    return host


def known_hosts(settings: ClientSettings) -> Path:
    """Puter's own file of host keys; its folder is created."""
    settings.paths.secure_state()
    secure_folder(settings.paths.private_keys)
    return settings.paths.private_keys / "known_hosts"


def ssh_program(record: Record, hosts: Path) -> list[str]:
    """The ssh command with all options, but without a target.

    Host keys are stored by instance id: the same address with another instance is another host.
    """
    options = {"StrictHostKeyChecking": "accept-new", "UserKnownHostsFile": _quoted(str(hosts))}
    if record.instance_id and _INSTANCE_ID.fullmatch(record.instance_id):
        options["HostKeyAlias"] = record.instance_id
    identity: list[str] = []
    if path := private_key(record):
        # With many keys in an agent, the server refuses before the right key is offered.
        identity = ["-i", path]
        options["IdentitiesOnly"] = "yes"
    elif record.private_key_path:
        owner = plain(record.owner or "?")
        say(f"note: its private key is not on this computer, but on that of {owner}; trying the keys of ssh itself")
    return ["ssh", *identity, *(word for name, value in options.items() for word in ("-o", f"{name}={value}"))]


def host_blocks(records: Sequence[Record], hosts: Path) -> list[str]:
    """Host blocks of ssh_config(5), one per machine; a machine with unusual values is left out."""
    lines: list[str] = []
    taken: set[str] = set()
    for record in records:
        host = address(record)
        if host is None or not _HOST.fullmatch(host) or not _INSTANCE_ID.fullmatch(record.instance_id or ""):
            continue
        # ssh and scp split "user@host" and "host:path".
        name = f"puter-{record.namespace}-{re.sub('[@:]', '_', record.tag)}"
        name = f"{name}-{record.instance_id}" if name in taken else name
        taken.add(name)
        lines += [
            "",
            f"Host {name}",
            f"  HostName {host}",
            f"  User {ssh_user(record)}",
            f"  HostKeyAlias {record.instance_id}",
            f"  UserKnownHostsFile {_quoted(str(hosts))}",
            "  StrictHostKeyChecking accept-new",
        ]
        path = private_key(record)
        if path and _PATH.fullmatch(path):
            lines += [f"  IdentityFile {_quoted(path)}", "  IdentitiesOnly yes"]
    return lines


def _quoted(path: str) -> str:
    """A path as ssh_config(5) reads it: quoted if it has blanks, with % doubled."""
    path = path.replace("%", "%%")
    return f'"{path}"' if re.search(r"\s", path) else path


def _become(command: list[str]) -> None:
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606 - no shell reads it
    except FileNotFoundError:
        raise ProgramMissing(f"{command[0]} is not installed on this computer: install it") from None
