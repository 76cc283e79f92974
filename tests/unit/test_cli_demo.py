"""What `puter demo` checks before it begins, and the file that it shows."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from puter_client.batch import read_batch
from puter_client.cli import demo


@pytest.mark.skipif(not hasattr(os, "ST_NOEXEC"), reason="only Linux tells")
def test_it_refuses_a_folder_in_which_no_program_can_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=os.ST_NOEXEC))
    ran = CliRunner().invoke(demo.demo, [])

    assert isinstance(ran.exception, demo.DemoFailed)
    assert str(ran.exception) == f"{tmp_path} is mounted noexec, and the demo runs programs in it: set TMPDIR"
    assert list(tmp_path.iterdir()) == []


def test_it_refuses_a_computer_without_bash(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = CliRunner().invoke(demo.demo, [])

    assert isinstance(ran.exception, demo.DemoFailed)
    assert "no bash" in str(ran.exception)


@pytest.mark.parametrize("count", [1, demo.COUNT, demo.MOST])
@pytest.mark.parametrize("data", ["/tmp/puter-demo-1/data", "/a folder: with #odd 'names'/data", '/"quoted"/data'])
def test_its_file_is_a_batch_of_as_many_workloads_wherever_the_data_is(count: int, data: str) -> None:
    text = demo.batch_text(Path(data), count).encode()
    batch = read_batch("-", text, overrides={}, config={}, format="yaml", resolve_ssh_from=lambda _: ())

    tags = {entry.tag: entry.spec for entry in batch.entries}
    assert len(tags) == count + 3
    assert tags[demo.FAILS].env == {"DATA": data}
    assert tags[demo.RETRIED].spot
    assert tags[demo.RETRIED].retries == 1
