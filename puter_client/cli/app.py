"""`puter`: all commands, and what becomes of every error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress

import click

from puter_client import __version__
from puter_client.cli import INTERRUPTED
from puter_client.cli.group import BROKEN_PIPE, Commands
from puter_client.contract.errors import PuterError

_HELP = """EC2 machines for one-off workloads, each granted exactly once.

\b
  puter --profile P --tag T     ensure one machine (the same as `puter up`)
  puter submit batch.yaml       ensure many
  puter status                  where every request stands
  puter why T                   why it stands there
  puter ssh T                   a shell on it

Requesting the same tag again finds the same machine. Every machine ends
itself after its --ttl. Without PUTER_REDIS_URL a local engine is started;
`puter demo` shows it all on a simulated AWS.
"""
_EPILOG = """Environment: PUTER_REDIS_URL, PUTER_NAMESPACE, PUTER_HOME, and AWS_* for the
worker. Exit codes: 0 as asked, 1 a puter failed, 2 wrong usage, 3 Redis or
worker not there, 4 timed out, 130 Ctrl-C.
"""


@click.group(
    cls=Commands,
    name="puter",
    help=_HELP,
    epilog=_EPILOG,
    no_args_is_help=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
@click.version_option(__version__, prog_name="puter", message="%(prog)s %(version)s")
@click.pass_context
def puter(ctx: click.Context) -> None:
    """All commands."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    from puter_client.cli.terminal import take_streams, to_nowhere

    take_streams()
    try:
        code = _ended(lambda: puter.main(argv, prog_name="puter", standalone_mode=False))
        # Also of a command that failed: what is left to write would fail as Python ends, in Python's words.
        unwritten = _ended(sys.stdout.flush)
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # no file is behind it
                to_nowhere(stream)
        return BROKEN_PIPE
    return code or unwritten


def _ended(work: Callable[[], object]) -> int:
    """Do it; what it ended with, as an exit code. A reader that has gone is the caller's."""
    from puter_client.cli.terminal import live, say

    try:
        code = work()
    except BrokenPipeError:
        raise
    except click.Abort:
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # of a group without a command: its help
        return error.exit_code
    except click.ClickException as error:
        say(_in_a_line(error))
        return error.exit_code
    except KeyboardInterrupt:
        live.clear()
        return INTERRUPTED
    except PuterError as error:
        say(str(error))
        return error.exit_code
    except Exception as error:
        if os.environ.get("PUTER_DEBUG"):
            raise
        # Its text may hold what nobody should read in a bug report; its class and place say where to look.
        what = f"{type(error).__name__} in {_place(error)}"
        say(f"a defect of Puter's: {what}; please report it (PUTER_DEBUG=1 shows all)")
        return 1
    return code if isinstance(code, int) else 0


def _in_a_line(error: click.ClickException) -> str:
    """What is wrong, and where the right usage is to be read."""
    text = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError) and error.ctx is not None and "--help" not in text:
        text += f" (see `{error.ctx.command_path} --help`)"
    return text


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119 - pathlib is not loaded for this
