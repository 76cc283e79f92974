"""deploy/puter-worker@.service is what systemd reads, and keeps what the pages say of it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from puter_worker.settings import WorkerSettings
from puter_worker.supervisor import Supervisor

UNIT = Path(__file__).parents[2] / "deploy" / "puter-worker@.service"
DRAIN_S = WorkerSettings(redis_url="", worker_id="", host="").drain_s
analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine")


def settings(section: str) -> dict[str, str]:
    read = configparser.RawConfigParser(strict=False, delimiters=("=",))
    read.optionxform = str  # type: ignore[assignment, method-assign]
    read.read_string(UNIT.read_text())
    return dict(read[section])


SERVICE = settings("Service")


@analyze
def test_systemd_finds_nothing_wrong_with_it(tmp_path: Path) -> None:
    installed = tmp_path / UNIT.name
    installed.write_text(UNIT.read_text().replace("/opt/puter/bin/python", sys.executable))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", installed], capture_output=True, text=True, check=False
    )

    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")


@analyze
def test_a_worker_has_few_rights_on_its_host() -> None:
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", UNIT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert told.returncode == 0, told.stdout  # an exposure of 2.0 at most, of 10


def test_it_is_started_when_it_takes_requests_and_watched_from_then_on() -> None:
    watchdog_s = Supervisor({"WATCHDOG_USEC": f"{int(SERVICE['WatchdogSec'])}000000"}).watchdog_s

    assert SERVICE["Type"] == "notify"
    assert watchdog_s == 120


def test_a_worker_may_drain_before_it_is_killed() -> None:
    assert int(SERVICE["TimeoutStopSec"]) > DRAIN_S


def test_it_is_started_again_unless_a_setting_cannot_be_used() -> None:
    assert (SERVICE["Restart"], SERVICE["RestartPreventExitStatus"]) == ("always", "2")


def test_its_memory_is_bounded_and_no_core_holds_credentials() -> None:
    assert SERVICE["MemoryMax"] == "1G"
    assert SERVICE["LimitCORE"] == "0"


def test_its_folders_are_made_by_systemd() -> None:
    assert SERVICE["StateDirectory"].split() == ["puter", "puter/.aws"]
    assert SERVICE["WorkingDirectory"] == "/var/lib/puter"
    assert SERVICE["ConfigurationDirectory"] == "puter"
    assert settings("Unit")["AssertFileNotEmpty"] == SERVICE["EnvironmentFile"] == "/etc/puter/worker.env"


def test_no_password_stands_in_it() -> None:
    assert not re.search(r"://[^/\s]*@", UNIT.read_text())
