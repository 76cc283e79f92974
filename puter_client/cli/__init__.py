"""The command line."""

INTERRUPTED = 130  # the exit code of a Ctrl-C: 128 + SIGINT, as shells have it
