"""The scripts of user data and the real apt: they wait for the locks that apt's own option does not wait for."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from puter_worker.ec2 import userdata

APT = shutil.which("apt-get")
INSTALL = Path(userdata.__file__).with_name("install.sh")
HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)

pytestmark = pytest.mark.skipif(APT is None, reason="this system has no apt-get")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Folders of apt's own, in which nothing is installed or offered, and what stands before its commands."""
    for folder in ("var/lib/apt/lists/partial", "var/lib/dpkg", "var/cache/apt/archives/partial", "etc/apt", "bin"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("etc/apt/sources.list", "var/lib/dpkg/status"):
        (tmp_path / file).touch()
    command(
        tmp_path, "apt-get", f'exec {APT} -o Dir={tmp_path} -o Dir::State::status={tmp_path}/var/lib/dpkg/status "$@"'
    )
    return tmp_path


def command(root: Path, name: str, script: str) -> None:
    (root / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    (root / "bin" / name).chmod(0o755)


@contextmanager
def held(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds a lock as apt does until it ends."""
    pipe = subprocess.PIPE
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdin=pipe, stdout=pipe, text=True)
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def apt(root: Path, action: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": f"{root / 'bin'}:/usr/bin:/bin"}
    script = f". {INSTALL}; apt {action}"
    return subprocess.run(["sh", "-uc", script], env=env, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("lock", "action"), [("var/lib/apt/lists/lock", "update"), ("var/cache/apt/archives/lock", "clean")]
)
def test_a_lock_that_another_process_holds_is_waited_for(root: Path, lock: str, action: str) -> None:
    with held(root / lock) as holder:
        command(root, "sleep", f"echo slept; kill {holder.pid}")  # instead of time passing: the other process ends
        done = apt(root, action)

    assert (done.returncode, done.stdout.count("Could not get lock") > 0) == (0, True), done.stdout
    assert "slept" in done.stdout


def test_what_fails_for_another_reason_is_not_tried_again(root: Path) -> None:
    command(root, "sleep", "echo slept")
    done = apt(root, "install -y nothing-of-this-name")

    assert (done.returncode, "slept" in done.stdout) == (1, False), done.stdout
    assert "nothing-of-this-name" in done.stdout
