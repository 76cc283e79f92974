"""User data that Puter does not take ends a command with one line, before anything was done."""

from __future__ import annotations

from pathlib import Path

import pytest

from puter_client.cli.app import main

MULTIPART = "Content-Type: multipart/mixed; boundary=b\nMIME-Version: 1.0\n\n--b\n"
REFUSED = {
    "echo hunter2\n": "does not say what it is",
    "#include https://example.com/hunter2\n": "begins with #include",
    "#cloud-config\nhunter2: [\n": "is not valid YAML in its line",
    f"{MULTIPART}Content-Type: application/gzipped\n\nhunter2\n--b--\n": "has the Content-Type 'application/gzipped'",
    f"{MULTIPART}Content-Type: téxt/x\n\n#!hunter2\n--b--\n": "has the Content-Type",
    f"{MULTIPART}\n#!hunter2\n": "is not valid MIME",
    "#!/bin/sh\nhunter2\0": "contains a NUL character",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PUTER_HOME that does not exist."""
    for name in ("PUTER_REDIS_URL", "PUTER_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PUTER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LOGNAME", "betty")
    return tmp_path / "home"


@pytest.mark.parametrize(("written", "complaint"), REFUSED.items(), ids=range(len(REFUSED)))
@pytest.mark.parametrize("words", [["up", "x", "--ssh-from", "none", "--user-data"], ["submit", "batch.yaml"]])
def test_it_is_refused_in_one_line_with_exit_code_2(
    written: str,
    complaint: str,
    words: list[str],
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own").write_text(written, encoding="utf-8")
    Path("batch.yaml").write_text("puters: [{tag: x, user_data_file: own, ssh_from: none}]\n")

    code = main([*words, "own"] if words[0] == "up" else words)

    said = capsys.readouterr().err.splitlines()
    assert code == 2
    assert [complaint in line for line in said if "user" in line] == [True]
    assert not [line for line in said if "hunter2" in line or "Traceback" in line]
    assert not home.exists()
