"""A worker's structured log: JSON lines into a rotated file, or to standard error, readable on a terminal."""

from __future__ import annotations

import logging
import logging.handlers
import os
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import structlog

from puter_client.contract.plain import plain, printable
from puter_worker.log_limit import LogLimit

MAX_BYTES = 20_000_000
KEEP_FILES = 5


def set_up_logs(folder: Path | None, *, level: int = logging.INFO, max_bytes: int = MAX_BYTES) -> LogLimit:
    """Send every log line, structlog's and the libraries', to one place; returns what bounds the number of warnings.

    `folder`: where `worker.jsonl` is written (mode 0600, five older files are kept); None: lines go to standard error,
    as JSON, or as readable text if that is a terminal. `max_bytes`: the size at which a new file is begun.
    """
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    handler: logging.Handler
    if folder is None:
        handler = logging.StreamHandler(sys.stderr)
        readable = sys.stderr.isatty()
    else:
        handler = PrivateRotatingFileHandler(folder / "worker.jsonl", maxBytes=max_bytes, backupCount=KEEP_FILES)
        readable = False
    if readable:
        rendered: list[Any] = [_safe_for_a_terminal, structlog.dev.ConsoleRenderer()]
    else:
        rendered = [structlog.processors.JSONRenderer()]
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    limit = LogLimit()
    handler.addFilter(limit)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for ours in ("puter", "puter_worker"):
        logging.getLogger(ours).setLevel(level)
    # arq logs every job at INFO; the log lines of the stages say more.
    logging.getLogger("arq").setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return limit


def _safe_for_a_terminal(_logger: Any, _method: str, fields: MutableMapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a line without what a terminal obeys; the lines of a traceback stay lines."""
    return {name: _safe(name, value) if isinstance(value, str) else value for name, value in fields.items()}


def _safe(name: str, value: str) -> str:
    if name != "exception":
        return plain(value)
    return "\n".join(map(printable, value.split("\n")))


class PrivateRotatingFileHandler(logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner can read."""

    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")
