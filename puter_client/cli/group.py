"""The group of all commands, which loads a command's module only when that command is run."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

import click

# Name → its module below puter_client.cli, its click command in there, and its line in `puter --help`.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("up", "up", "Ensure one machine, wait, print its ssh and rsync commands."),
    "submit": ("submit", "submit", "Request many machines: a batch file, or a numbered tag."),
    "status": ("status", "status", "Where every request stands, and why."),
    "wait": ("wait", "wait", "Wait until machines have come as far as you need."),
    "batches": ("batches", "batches", "The latest submissions."),
    "why": ("why", "why", "One tag's timeline, reasons and request ids."),
    "cancel": ("cancel", "cancel", "Withdraw requests before anything was asked of EC2."),
    "ssh": ("ssh", "ssh", "A shell, or one command, on a machine."),
    "rsync": ("ssh", "rsync", "Copy files to a machine, or from it."),
    "ssh-config": ("ssh", "ssh_config", "Host blocks of all living machines, for ~/.ssh/config."),
    "worker": ("run_worker", "worker", "Run a worker, which grants the requests."),
    "local": ("local", "local", "Start, stop or look at the local engine."),
    "demo": ("demo", "demo", "Everything once, on a simulated AWS, in a throw-away folder."),
}
_OWN_OPTIONS = frozenset({"-h", "--help", "--version"})
IMPLICIT = "puter.implicit_up"
BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells have it


class Commands(click.Group):
    """`puter …`; options without a command's name are those of `up`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load a command."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"puter_client.cli.{module}"), attribute)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """`puter --tag T` is `puter up --tag T`."""
        if args and args[0].startswith("-") and args[0] not in _OWN_OPTIONS:
            ctx.meta[IMPLICIT] = True
            args = ["up", *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Find the command; the nearest name is told of one that is not there."""
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `puter --help`"
            raise click.UsageError(f"No such command {args[0][:60]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that has gone (`puter status | head`) ends it without a word."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise click.exceptions.Exit(BROKEN_PIPE) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands' lines, without loading any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])
