"""`puter admin`: what the administrator of a shared host does; each group of commands is a module of its own."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

import click

from puter_client.cli.group import COMMANDS, LazyCommands

# Name → module in puter_client.cli, click command in that module, line in `puter admin --help`.
ADMIN_COMMANDS: dict[str, tuple[str, str, str]] = {
    "policy": ("admin_policy", "policy", "Check and explain the workers' policy file."),
    "user": ("admin_user", "user", "Add, remove or list the users of its Redis."),
}


class AdminCommands(LazyCommands):
    """`puter admin …`."""

    table = ADMIN_COMMANDS


@click.group(
    cls=AdminCommands,
    short_help=COMMANDS["admin"][2],
    context_settings={"help_option_names": ["-h", "--help"]},
)
def admin() -> None:
    """Administer a shared host.

    Who may write its folder (/etc/puter) can change its users.

    \b
    Examples:
      puter admin user add betty --namespace team-a
      puter admin user list
      puter admin policy check policy.toml
    """
