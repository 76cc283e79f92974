"""What others wrote is pasted into a shell: it must stay a word."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.ssh_commands import private_key, rsync_command, ssh_command


def record(**known: Any) -> Record:
    return Record(namespace="betty", tag="one", phase=Phase.RUNNING, created_at=0.0, changed_at=0.0, **known)


OWNS = ["$(touch owned)", "; touch owned;", "'; touch owned; '", "\n touch owned\n", "`touch owned`"]


@pytest.mark.parametrize("words", OWNS)
def test_a_pasted_command_runs_nothing_that_stands_in_an_address_or_a_path(words: str, tmp_path: Path) -> None:
    key = tmp_path / words.replace("/", "")
    key.touch()
    for evil in (record(public_ip="192.0.2.1", private_key_path=str(key)), record(public_ip=words)):
        for command in (rsync_command(evil), ssh_command(evil)):
            assert command
            shell = f"rsync() {{ :; }}; ssh() {{ :; }}; {command}"
            subprocess.run(["sh", "-c", shell], cwd=tmp_path, check=False, capture_output=True)

    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("path", ["x" * 10_000, "/" + "x/" * 5_000, "a\0b", "\ud800", ""])
def test_what_is_no_path_is_no_key(path: str) -> None:
    assert private_key(record(private_key_path=path)) is None
