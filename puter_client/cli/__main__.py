"""`puter` starts here, with almost nothing loaded, so that Ctrl-C ends it silently from the first line on."""

from __future__ import annotations

import sys

from puter_client.cli import INTERRUPTED


def main() -> int:
    """Load the commands, run one, and return its exit code."""
    try:
        from puter_client.cli import app

        return app.main()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
