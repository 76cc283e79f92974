"""`puter admin`: what the people do who run a shared host; each group of commands is loaded when it runs."""

# ruff: noqa: D301
# click keeps the lines after a \b in a docstring as they are.

from __future__ import annotations

from importlib import import_module

import click

from puter_client.cli.group import COMMANDS

# Name → module in puter_client.cli, click group in that module, line in `puter admin --help`.
GROUPS: dict[str, tuple[str, str, str]] = {
    "policy": ("admin_policy", "policy", "Check and explain the workers' policy file."),
}


class Groups(click.Group):
    """`puter admin …`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all groups."""
        return list(GROUPS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the group with this name."""
        if cmd_name not in GROUPS:
            return None
        module, attribute, _ = GROUPS[cmd_name]
        command: click.Command = getattr(import_module(f"puter_client.cli.{module}"), attribute)
        return command


@click.group(cls=Groups, short_help=COMMANDS["admin"][2], context_settings={"help_option_names": ["-h", "--help"]})
def admin() -> None:
    """Run a shared host: what its namespaces may request.

    \b
    Example:
      puter admin policy check policy.toml
    """
