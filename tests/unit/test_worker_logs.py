"""The worker's log: private files of bounded number and size, and no line lost between them."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest
import structlog

from puter_worker.logs import MAX_BYTES, set_up_logs

NAME = "puter.of_a_test"
LIMIT_BYTES = 1_000


@contextmanager
def logging_into(folder: Path, max_bytes: int) -> Iterator[None]:
    """The process logs as a worker does, and afterwards as before."""
    loggers = [logging.getLogger(name) for name in (None, "puter", "puter_worker", "arq")]
    levels = [logger.level for logger in loggers]
    root = logging.getLogger()
    handlers, configured, configuration = root.handlers[:], structlog.is_configured(), structlog.get_config()
    set_up_logs(folder, max_bytes=max_bytes)
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = handlers
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        structlog.reset_defaults()
        if configured:
            structlog.configure(**configuration)


def write(folder: Path, lines: int, *, max_bytes: int = LIMIT_BYTES) -> None:
    """Log so many lines of about 150 bytes, every other through structlog, with their numbers; into small files."""
    with logging_into(folder, max_bytes):
        for number in range(lines):
            if number % 2:
                structlog.get_logger(NAME).info("line.written", number=number)
            else:
                logging.getLogger(NAME).info("line.written %d", number)


def files(folder: Path) -> list[Path]:
    """The log's files, the oldest first."""
    return sorted(folder.iterdir(), key=lambda path: path.suffix if path.suffix != ".jsonl" else ".0", reverse=True)


def numbers(folder: Path) -> list[int]:
    """The numbers of the lines that are kept, the oldest first."""
    told = [json.loads(line) for path in files(folder) for line in path.read_text().splitlines()]
    return [line["number"] if "number" in line else int(line["event"].rpartition(" ")[2]) for line in told]


def test_a_file_that_has_grown_is_put_aside(tmp_path: Path) -> None:
    write(tmp_path, 10)

    assert [path.name for path in files(tmp_path)] == ["worker.jsonl.1", "worker.jsonl"]
    assert all(0 < path.stat().st_size <= LIMIT_BYTES for path in files(tmp_path))


def test_no_line_is_lost_between_two_files(tmp_path: Path) -> None:
    write(tmp_path, 20)

    assert len(files(tmp_path)) > 2
    assert numbers(tmp_path) == list(range(20))


def test_five_older_files_are_kept_with_the_latest_lines(tmp_path: Path) -> None:
    write(tmp_path, 200)

    assert [path.name for path in files(tmp_path)] == [*(f"worker.jsonl.{n}" for n in (5, 4, 3, 2, 1)), "worker.jsonl"]
    kept = numbers(tmp_path)
    assert kept == list(range(200 - len(kept), 200))


def test_a_worker_that_starts_again_writes_on(tmp_path: Path) -> None:
    write(tmp_path, 4)
    write(tmp_path, 4)

    assert numbers(tmp_path) == [0, 1, 2, 3, 0, 1, 2, 3]


def test_nobody_else_can_read_any_of_its_files(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path, 100)
    finally:
        os.umask(before)

    assert {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)} == {0o600}


@pytest.mark.parametrize(("grown_to", "put_aside"), [(19_900_000, False), (20_000_000, True)])
def test_a_file_has_grown_at_20_mb(tmp_path: Path, grown_to: int, put_aside: bool) -> None:
    (tmp_path / "worker.jsonl").touch(0o600)
    os.truncate(tmp_path / "worker.jsonl", grown_to)  # a hole: it takes no room on the disk

    write(tmp_path, 1, max_bytes=MAX_BYTES)

    assert (tmp_path / "worker.jsonl.1").exists() is put_aside


LOGS_EVIL = """
import logging, structlog
from puter_worker.logs import set_up_logs
set_up_logs(None)
evil = "a\\x1b[2Jb\\x9b31mc\\u202ed\\u200be\\nf\\rg"
log = structlog.get_logger("puter.of_a_test")
log.warning(evil, reason=evil, several=[evil], nested={evil: evil})
logging.getLogger("library").warning(evil)
try:
    raise ValueError(evil)
except ValueError:
    log.exception("stage.failed")
"""


def test_on_a_terminal_nothing_that_others_wrote_is_obeyed() -> None:
    terminal = pexpect.spawn(sys.executable, ["-c", LOGS_EVIL], encoding="utf-8", dimensions=(24, 200))
    written = terminal.read()
    terminal.close()

    assert terminal.exitstatus == 0
    assert written.count("a\ufffd[2Jb\ufffd31mc\ufffdd\ufffde") >= 3
    own_styles = re.compile(r"\x1b\[\d+m")
    assert {c for c in own_styles.sub("", written) if not c.isprintable()} <= {"\r", "\n"}
