"""Streams that cannot be written or were closed, and a Ctrl-C before a command has begun: never Python's own words."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

PUTER = [sys.executable, "-m", "puter_client.cli"]
FULL = "puter: standard output cannot be written: No space left on device\n"
CLOSED = "puter: standard output cannot be written: Bad file descriptor\n"


def ran(words: str, redirected: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A command as a shell starts it, its streams redirected; with a home of its own."""
    return subprocess.run(
        ["/bin/sh", "-c", f"{shlex.join(PUTER)} {words} {redirected}"],
        env={"PUTER_HOME": str(home), "PUTER_NAMESPACE": "betty", "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("words", ["--help", "--version", "status", "up x --dry-run --ssh-from none"])
@pytest.mark.parametrize(
    ("redirected", "code", "told"),
    [
        (">/dev/full", 1, FULL),
        (">&-", 1, CLOSED),
        ("<&- >&-", 1, CLOSED),
        ("<&- >&- 2>&-", 1, ""),
        (">/dev/full 2>/dev/full", 1, ""),
    ],
)
def test_a_result_that_cannot_be_written_is_one_line(
    words: str, redirected: str, code: int, told: str, tmp_path: Path
) -> None:
    done = ran(words, redirected, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", told)


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "<&-", "<&- 2>&-"])
def test_other_streams_hold_up_no_result(redirected: str, tmp_path: Path) -> None:
    done = ran("--version", redirected, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("puter ")


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-"])
def test_wrong_usage_has_its_exit_code_where_nobody_can_be_told(redirected: str, tmp_path: Path) -> None:
    done = ran("submti", redirected, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


def test_no_file_is_taken_for_a_closed_stream(tmp_path: Path) -> None:
    """What a command opens first would else get the number 1 or 2, and be written to."""
    batch = tmp_path / "batch.yaml"
    batch.write_text("puters: [{tag: x, nonsense: 1}]\n")
    before = batch.read_text()
    done = ran(f"submit {batch}", "<&- >&- 2>&-", tmp_path)
    assert (done.returncode, batch.read_text()) == (2, before)


def test_a_batch_from_a_closed_standard_input_is_one_line(tmp_path: Path) -> None:
    done = ran("submit -", "<&-", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "puter: batch file '-': standard input is closed: name a file, or pipe one in\n"


PRESS = "import atexit, os, signal, weakref\ndef press(*_):\n    os.kill(os.getpid(), signal.SIGINT)\n"
# Python raises no exception of a callback, as its import system has some: it prints the exception and goes on.
IN_A_CALLBACK = "class Module: pass\nmodule = Module()\nweak = weakref.ref(module, press)\ndel module\n"


def interrupted(loading: str, module: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """`puter --help`, with this module in the place of one that the commands need."""
    (folder / f"{loading}.py").write_text(module)
    return subprocess.run(
        [*PUTER, "--help"],
        env={"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("how", ["press()\n", IN_A_CALLBACK], ids=["anywhere", "in a callback"])
@pytest.mark.parametrize("loading", ["click", "difflib"])
def test_a_ctrl_c_while_it_loads_ends_it_without_a_word(loading: str, how: str, tmp_path: Path) -> None:
    done = interrupted(loading, PRESS + how, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_ctrl_c_while_it_ends_ends_it_without_a_word(tmp_path: Path) -> None:
    done = interrupted("difflib", PRESS + "atexit.register(press)\n", tmp_path)
    assert (done.returncode, done.stdout[:12], done.stderr) == (130, "Usage: puter", "")
