"""What a test run that was killed has left behind: names have the id of the process that made them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def named(prefix: str) -> str:
    """The beginning of a name by which `abandoned` finds it."""
    return f"{prefix}{os.getpid()}."


def abandoned(folder: Path, prefix: str) -> Iterator[Path]:
    """What is in a folder and was made by a process that is gone."""
    for path in folder.glob(f"{prefix}*.*"):
        if not Path("/proc", path.name.removeprefix(prefix).partition(".")[0]).exists():
            yield path
