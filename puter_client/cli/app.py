"""`puter`: the group of all commands, and how every error is reported."""

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

_HELP = """EC2 machines for one-off workloads, each launched exactly once.

\b
  puter --profile P --tag T     ensure one machine (the same as `puter up`)
  puter submit batch.yaml       ensure many machines
  puter status                  show the state of every request
  puter why T                   show what happened to one, and why
  puter ssh T                   open a shell on it

Requesting the same tag again finds the same machine. Every machine ends
itself after its --ttl. Without PUTER_REDIS_URL a local engine is started.
`puter demo` shows everything on a simulated AWS.
"""
_EPILOG = """Environment: PUTER_REDIS_URL, PUTER_NAMESPACE, PUTER_HOME, and AWS_* for the
worker. Exit codes: 0 success, 1 a machine failed, 2 wrong usage, 3 no Redis
or no worker, 4 timed out, 130 Ctrl-C.
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
    """Run a command and return its exit code."""
    from puter_client.cli.terminal import take_streams, to_nowhere

    take_streams()
    try:
        code = _ended(lambda: puter.main(argv, prog_name="puter", standalone_mode=False))
        # Also after a failed command: otherwise Python itself would report at its end that it cannot write.
        unwritten = _ended(sys.stdout.flush)
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # the stream has no file
                to_nowhere(stream)
        return BROKEN_PIPE
    return code or unwritten


def _ended(work: Callable[[], object]) -> int:
    """Do the work and return its exit code; the caller handles a reader that has gone."""
    from puter_client.cli.terminal import live, say

    try:
        code = work()
    except BrokenPipeError:
        raise
    except click.Abort:
        return INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()  # a group without a command shows its help
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
        # The text of the error may hold secrets, so only its class and place are shown.
        what = f"{type(error).__name__} in {_place(error)}"
        say(f"internal error in Puter: {what}; please report it (PUTER_DEBUG=1 shows the details)")
        return 1
    return code if isinstance(code, int) else 0


def _in_a_line(error: click.ClickException) -> str:
    """What is wrong, and which help to read."""
    text = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError) and error.ctx is not None and "--help" not in text:
        text += f" (see `{error.ctx.command_path} --help`)"
    return text


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown place"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119 - avoids loading pathlib
