"""What this client requested, as JSON lines in `client.jsonl` beside the worker's log.

Written when something is requested, never for a look; no run, env or user data, which may hold secrets.
"""

from __future__ import annotations

import os
from typing import Any

from puter_client.paths import Paths, secure_folder

FILE_NAME = "client.jsonl"
LIMIT_BYTES = 5_000_000


def log_action(paths: Paths, event: str, **facts: Any) -> None:
    """Add one line: `event` (`noun.past_verb`) with what belongs to it. One older file is kept.

    Raises:
        PuterError: the folder or the file is not fit for it.
        OSError: it cannot be written.
    """
    import structlog

    from puter_client.local.locks import open_log

    paths.secure_state()
    secure_folder(paths.logs)
    with os.fdopen(open_log(paths.logs / FILE_NAME, limit_bytes=LIMIT_BYTES), "a", encoding="utf-8") as file:
        # Unbuffered lines: those of two commands never mingle, for each is one write to a file opened to append.
        logger = structlog.wrap_logger(
            structlog.WriteLogger(file),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
        )
        logger.info(event, pid=os.getpid(), logger="puter.client", **facts)
