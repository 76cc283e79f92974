"""`puter admin`: what the administrator of a shared host does; each group of commands is a module of its own."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

from importlib import import_module

import click

from puter_client.cli.group import COMMANDS

# Name → module in puter_client.cli, click command in that module, line in `puter admin --help`.
ADMIN_COMMANDS: dict[str, tuple[str, str, str]] = {
    "policy": ("admin_policy", "policy", "Check and explain the workers' policy file."),
    "user": ("admin_user", "user", "Add, remove or list the users of its Redis."),
}


class AdminCommands(click.Group):
    """Loads the module of a command only when that command is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order of the help."""
        return list(ADMIN_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command with this name."""
        if cmd_name not in ADMIN_COMMANDS:
            return None
        module, attribute, _ = ADMIN_COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"puter_client.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the lines of the commands, without loading any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in ADMIN_COMMANDS.items()])


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
