"""What a worker remembers of a target, and how it is kept."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from puter_worker.clock import Clock
from puter_worker.memory import Epoch, Memory, Remembered

TARGET = "123456789012:us-east-1:"
KNOWN = Remembered(Epoch("e1", 3), 1_000.0)


@pytest.mark.parametrize(
    ("shown", "forgot"),
    [
        (Epoch("e1", 3), False),
        (Epoch("e1", 4), False),
        (Epoch("e1", 2), True),
        (Epoch("e2", 9), True),
    ],
    ids=["as it was", "gone on", "put back", "emptied"],
)
def test_an_epoch_tells_whether_redis_has_forgotten(shown: Epoch, forgot: bool) -> None:
    assert KNOWN.contradicts(shown) is forgot


def test_what_was_never_seen_is_not_remembered(tmp_path: Path) -> None:
    assert Memory(tmp_path, clock=Clock()).of(TARGET) is None


def test_what_is_kept_outlives_the_process(tmp_path: Path) -> None:
    Memory(tmp_path / "targets", clock=Clock()).keep(TARGET, KNOWN)

    assert Memory(tmp_path / "targets", clock=Clock()).of(TARGET) == KNOWN


def test_targets_are_remembered_apart(tmp_path: Path) -> None:
    Memory(tmp_path, clock=Clock()).keep(TARGET, KNOWN)

    assert Memory(tmp_path, clock=Clock()).of("123456789012:eu-central-1:") is None


def test_without_a_folder_it_is_remembered_in_the_process() -> None:
    memory = Memory(None, clock=Clock())

    memory.keep(TARGET, KNOWN)

    assert memory.of(TARGET) == KNOWN


def test_its_files_are_its_owners_alone(tmp_path: Path) -> None:
    Memory(tmp_path / "targets", clock=Clock()).keep(TARGET, KNOWN)

    (file,) = (tmp_path / "targets").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b'{"epoch":{"epoch_id":"\xff","launches":1}}', b"[1]"])
def test_a_damaged_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    memory = Memory(tmp_path, clock=Clock())
    memory.keep(TARGET, KNOWN)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)

    assert Memory(tmp_path, clock=Clock()).of(TARGET) is None


def test_a_folder_that_cannot_be_written_costs_the_memory_on_disk_alone(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    memory = Memory(tmp_path / "taken", clock=Clock())

    memory.keep(TARGET, KNOWN)

    assert memory.of(TARGET) == KNOWN


@pytest.mark.parametrize("named", [TARGET, "nothing", "", "123456789012:eu-west-1:"])
def test_a_file_that_does_not_name_its_own_target_is_not_used(tmp_path: Path, named: str) -> None:
    Memory(tmp_path, clock=Clock()).keep(TARGET, Remembered(Epoch("e1", 3), 1_000.0, target=named))

    assert list(Memory(tmp_path, clock=Clock()).launched_in()) == ([TARGET] if named == TARGET else [])
