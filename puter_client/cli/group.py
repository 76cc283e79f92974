"""The group of all commands; it loads the module of a command only when that command is run."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any, ClassVar

import click

# Name → module in puter_client.cli, click command in that module, line in `puter --help`.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("up", "up", "Ensure one machine, wait, print its ssh and rsync commands."),
    "submit": ("submit", "submit", "Request many machines: a batch file, or a numbered tag."),
    "status": ("status", "status", "Show the state of every request, and why."),
    "wait": ("wait", "wait", "Wait until machines have reached a phase."),
    "batches": ("batches", "batches", "List the latest submissions."),
    "why": ("why", "why", "Show one tag's timeline, reasons and request ids."),
    "logs": ("logs", "logs", "Print the output of workloads, or follow it."),
    "cancel": ("cancel", "cancel", "Cancel requests that are not launched yet."),
    "stop": ("stop", "stop", "End machines now, and cancel what is not launched."),
    "extend": ("extend", "extend", "Let machines end themselves later, or never."),
    "ssh": ("ssh", "ssh", "Open a shell, or run one command, on a machine."),
    "rsync": ("ssh", "rsync", "Copy files to a machine, or from it."),
    "ssh-config": ("ssh", "ssh_config", "Print host blocks of live machines, for ~/.ssh/config."),
    "worker": ("run_worker", "worker", "Run a worker, which launches the machines."),
    "local": ("local", "local", "Start, stop or inspect the local engine."),
    "admin": ("admin", "admin", "Administer a shared host: its users, and what they may request."),
    "demo": ("demo", "demo", "Show everything once, on a simulated AWS."),
}
_OWN_OPTIONS = frozenset({"-h", "--help", "--version"})
IMPLICIT = "puter.implicit_up"
BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells have it


class LazyCommands(click.Group):
    """A group that loads the module of a command only when that command is run.

    Attributes:
        table: its commands, as in COMMANDS.
    """

    table: ClassVar[dict[str, tuple[str, str, str]]]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands, in the order of the help."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load the command with this name."""
        if cmd_name not in self.table:
            return None
        module, attribute, _ = self.table[cmd_name]
        command: click.Command = getattr(import_module(f"puter_client.cli.{module}"), attribute)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Find the command; for an unknown name, suggest the nearest one."""
        if args[0] not in self.table:
            near = difflib.get_close_matches(args[0], self.table, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see `{ctx.command_path} --help`"
            raise click.UsageError(f"No such command {args[0][:60]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the lines of the commands, without loading any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in self.table.items()])


class Commands(LazyCommands):
    """`puter …`; options without a command name belong to `up`."""

    table = COMMANDS

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read `puter --tag T` as `puter up --tag T`."""
        if args and args[0].startswith("-") and args[0] not in _OWN_OPTIONS:
            ctx.meta[IMPLICIT] = True
            args = ["up", *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; if its reader has gone (`puter status | head`), end silently."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise click.exceptions.Exit(BROKEN_PIPE) from None
