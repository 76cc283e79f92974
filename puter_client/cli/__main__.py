"""`puter` starts here, with almost nothing loaded, so that Ctrl-C ends it silently from the first line on."""

from __future__ import annotations

import os
import sys

from puter_client.cli import INTERRUPTED


def main() -> int:
    """Load the commands, run one, and return its exit code."""
    sys.unraisablehook = _unraisable
    try:
        from puter_client.cli import app

        return app.main()
    except KeyboardInterrupt:
        return INTERRUPTED


def _unraisable(error: sys.UnraisableHookArgs) -> None:
    """End on a Ctrl-C that Python cannot raise: amid an import it may come in a callback, which would swallow it."""
    if issubclass(error.exc_type, KeyboardInterrupt):
        os._exit(INTERRUPTED)
    sys.__unraisablehook__(error)


if __name__ == "__main__":
    sys.exit(main())
