"""`puter demo`: it shows all, and leaves nothing, however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.cli_world import PATIENCE_S, PUTER, ROOT
from tests.integration.engine_world import wait_for


class Demo:
    """Runs demos whose folders are all in one, so that whatever they leave is found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder),
            "HOME": str(folder / "home"),
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*PUTER, "demo", *words],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def left(self) -> list[str]:
        """Files in the folder, and processes that were started in it."""
        ran = subprocess.run(["ps", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
        return [*map(str, self.folder.iterdir()), *(line for line in ran.splitlines() if str(self.folder) in line)]


@pytest.fixture
def demo(tmp_path: Path) -> Demo:
    folder = tmp_path / "tmp"
    folder.mkdir()
    return Demo(folder)


def masked(text: str) -> list[str]:
    """The lines of a text without what differs from time to time."""
    text = re.sub(r"\d+s ago|just now", "AGO", text)
    text = re.sub(r"/\S+/data/", "/mnt/data/", text)
    text = re.sub(r"\bb\d{8}-\d{6}-[0-9a-f]{6}\b", "BATCH", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def sessions_of_the_readme() -> list[str]:
    """The commands that it begins with, each with its output."""
    beginning = (ROOT / "README.md").read_text().partition("\n## ")[0]
    return re.findall(r"^```console\n(.*?)^```$", beginning, re.MULTILINE | re.DOTALL)


def test_it_shows_workloads_with_their_results_and_puts_everything_away(demo: Demo) -> None:
    with demo.start() as process:
        out, err = process.communicate(timeout=PATIENCE_S * 2)
    assert process.returncode == 0, err
    first, why, retried, again, last = re.split(r"^\$ puter (?:submit|why) .*$", out, flags=re.MULTILINE)[1:]
    assert "9 puters: 9 created" in first
    assert re.search(r"^pi-1000 +succeeded .* exit code 0", first, re.MULTILINE)
    assert re.search(r"^warmest-oslo +failed .* exit code 3", first, re.MULTILINE)
    assert "its workload: failed, exit code 3" in why
    assert re.search(r"/data/oslo.csv: No such file or directory$", why, re.MULTILINE)
    assert "retry 1 of 1: workload interrupted" in retried
    assert "its workload: succeeded, exit code 0" in retried
    assert "9 puters: 8 done, 1 skipped" in again
    assert "9 puters: 1 created, 8 done\nnow: 9 succeeded" in last
    for tag, printed in (("pi-6000", "3.14143"), ("warmest-oslo", "2026-07-17,31"), ("render", "frame 4")):
        assert re.search(rf"\b{tag} *\| {re.escape(printed)}", last), last
    assert demo.left() == []

    lines = masked(out)
    assert sessions_of_the_readme()
    assert [line for text in sessions_of_the_readme() for line in masked(text) if line not in lines] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "moment", ["engine/server.pid", "engine/worker.ready", "logs/client.jsonl", "machines/*/workload.pid"]
)
def test_stopped_at_any_moment_it_puts_everything_away(demo: Demo, moment: str, number: signal.Signals) -> None:
    with demo.start() as process:
        wait_for(lambda: any(demo.folder.glob(f"puter-demo-*/{moment}")), moment)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE_S * 2)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert demo.left() == []


def test_a_failure_shows_the_end_of_the_log_and_puts_everything_away(demo: Demo) -> None:
    # A worker that cannot be imported, and everything else can.
    broken = demo.folder.parent / "broken" / "arq"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('no such luck')\n")
    demo.environ["PYTHONPATH"] = f"{broken.parent}:{ROOT}"
    with demo.start() as process:
        _, err = process.communicate(timeout=PATIENCE_S * 2)
    assert process.returncode != 0
    assert "no such luck" in err
    assert demo.left() == []
