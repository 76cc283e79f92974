"""The client's log: one private line an action."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from puter_client.clientlog import log_action
from puter_client.contract.errors import PuterError
from puter_client.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths.from_environ({"PUTER_HOME": str(tmp_path / "home")})


def lines(paths: Paths) -> list[dict[str, object]]:
    return [json.loads(line) for line in (paths.logs / "client.jsonl").read_text().splitlines()]


def test_an_action_is_a_line_with_its_facts_and_its_time(paths: Paths) -> None:
    log_action(paths, "requests.submitted", count=3, tags=["a\nb"])
    (line,) = lines(paths)
    assert line.keys() >= {"timestamp", "level", "pid"}
    assert (line["event"], line["count"], line["tags"]) == ("requests.submitted", 3, ["a\nb"])


def test_lines_are_added_and_nobody_else_can_read_them(paths: Paths) -> None:
    log_action(paths, "a.done")
    log_action(paths, "b.done")
    assert [line["event"] for line in lines(paths)] == ["a.done", "b.done"]
    assert stat.S_IMODE((paths.logs / "client.jsonl").stat().st_mode) == 0o600


def test_a_file_that_has_grown_is_put_aside(paths: Paths) -> None:
    for event in ("a.done", "b.done"):
        log_action(paths, event, limit_bytes=10)
    assert [line["event"] for line in lines(paths)] == ["b.done"]
    assert "a.done" in (paths.logs / "client.jsonl.1").read_text()


def test_a_symlink_in_its_place_is_not_followed(paths: Paths, tmp_path: Path) -> None:
    log_action(paths, "a.done")
    (paths.logs / "client.jsonl").unlink()
    (paths.logs / "client.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((PuterError, OSError)):
        log_action(paths, "b.done")
    assert not (tmp_path / "elsewhere").exists()
