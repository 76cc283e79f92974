"""`puter`: the entry point, and what becomes of every error."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from puter_client import __version__
from puter_client.cli.group import BROKEN_PIPE, Commands
from puter_client.contract.errors import PuterError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it

_HELP = """EC2 machines for one-off workloads, each granted exactly once.

\b
  puter --profile P --tag T     ensure one machine (the same as `puter up`)
  puter submit batch.yaml       ensure many
  puter status                  where every wish stands
  puter why T                   why it stands there
  puter ssh T                   a shell on it

Wishing for the same tag again finds the same machine. Every machine ends
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
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows a "?", and the command goes on.
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")
    try:
        code = _run(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
        return BROKEN_PIPE
    return code


def _run(argv: Sequence[str] | None) -> int:
    from puter_client.cli.terminal import live, say

    try:
        code = puter.main(argv, prog_name="puter", standalone_mode=False)
    except click.Abort:
        return INTERRUPTED
    except click.ClickException as error:
        live.clear()
        error.show()
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


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}"  # noqa: PTH119 - pathlib is not loaded for this


def _silence() -> None:
    """Nobody reads any more: what Python would still write as it ends goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(nowhere, stream.fileno())
        except (OSError, ValueError):
            continue


if __name__ == "__main__":
    sys.exit(main())
