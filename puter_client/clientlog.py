"""The log of this client's requests: JSON lines in `client.jsonl`, beside the worker's log.

Commands that only read write nothing. Workloads, env and user data are never logged, since they may hold secrets.
"""

from __future__ import annotations

import os
from typing import Any

from puter_client.paths import Paths, secure_folder

FILE_NAME = "client.jsonl"
LIMIT_BYTES = 5_000_000


def log_action(paths: Paths, event: str, *, limit_bytes: int = LIMIT_BYTES, **facts: Any) -> None:
    """Append one line: `event` (`noun.past_verb`) and its facts. A log over `limit_bytes` is renamed to `.1` first.

    Raises:
        PuterError: the folder or the file cannot be used.
        OSError: the line cannot be written.
    """
    import structlog

    from puter_client.local.locks import open_log

    paths.secure_state()
    secure_folder(paths.logs)
    with os.fdopen(open_log(paths.logs / FILE_NAME, limit_bytes=limit_bytes), "a", encoding="utf-8") as file:
        # Lines of two commands never mix: each line is one write to a file opened to append.
        logger = structlog.wrap_logger(
            structlog.WriteLogger(file),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
        )
        logger.info(event, pid=os.getpid(), logger="puter.client", **facts)
