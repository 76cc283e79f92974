"""What `make machine-test` says where it cannot have a disk to boot from; with stand-ins for the tools."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.machine import root

# Each is called with the next one's command line; the last writes down what it was asked for, and builds nothing.
PASS_ON = '#!/bin/sh\nwhile [ "$1" != unshare ] && [ "$1" != debootstrap ]; do shift; done\nexec "$@"\n'
STAND_INS = {
    "setpriv": PASS_ON,
    "unshare": PASS_ON,
    "nsenter": "#!/bin/sh\n",
    "systemd-nspawn": "#!/bin/sh\n",
    "debootstrap": '#!/bin/sh\necho "I: asked for $*"\necho "E: no such thing"\nexit 1\n',
}


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all tools and nothing else, on a host whose user is root."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to(shutil.which("sh") or "sh")
    for name, text in STAND_INS.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv(root.CACHE, str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return folder


def complaint(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which it gives up."""
    with pytest.raises(SystemExit) as ended:
        root.main()
    assert ended.value.code == 1
    line, rest = capsys.readouterr().err.split("\n", 1)
    assert rest == ""
    return line


def test_whoever_is_not_root_is_told_what_to_run(
    tools: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)

    assert complaint(capsys) == "machine-test: machines are booted by root alone: run `sudo make machine-test`"


@pytest.mark.parametrize(("tool", "package"), [("debootstrap",) * 2, ("systemd-nspawn", "systemd-container")])
def test_a_missing_tool_is_named_with_its_package(
    tools: Path, tool: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tools / tool).unlink()

    assert complaint(capsys) == f"machine-test: not found: {tool}; install them: apt-get install {package}"


def test_a_build_that_fails_says_why_and_leaves_no_disk(
    tools: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "cache/build.log"

    said = complaint(capsys)

    assert said == f"machine-test: debootstrap failed, its last words: E: no such thing (all of them: {log})"
    assert list((tmp_path / "cache").glob("bookworm-*")) == []


@pytest.mark.parametrize(
    ("listed", "mirror"),
    [
        ("trixie mirror:other/\nbookworm mirror:debian/\nbookworm mirror:second/\n", " mirror:debian/"),
        ("noble mirror:other/\n", ""),
        (None, ""),
    ],
)
def test_the_mirror_is_that_of_the_hosts_apt(
    tools: Path, tmp_path: Path, listed: str | None, mirror: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if listed is not None:
        (tools / "apt-get").write_text(f"#!/bin/sh\nprintf '{listed}'\n")
        (tools / "apt-get").chmod(0o755)

    complaint(capsys)

    asked = (tmp_path / "cache/build.log").read_text().splitlines()[0]
    assert asked.endswith(f" bookworm {tmp_path}/cache/building{mirror}")
