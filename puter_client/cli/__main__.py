"""`puter` begins here, with next to nothing loaded: from its first line on a Ctrl-C ends it without a word."""

from __future__ import annotations

import sys

from puter_client.cli import INTERRUPTED


def main() -> int:
    """Load the commands and run one; its exit code."""
    try:
        from puter_client.cli import app

        return app.main()
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
