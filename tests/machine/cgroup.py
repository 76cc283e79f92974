"""A control group for each machine: two systemds that share one get in each other's way."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.machine.abandoned import abandoned, named

_PREFIX = "puter-test."
_UNIFIED = Path("/sys/fs/cgroup")
# Where a host has version 1, systemd's own hierarchy has a name, and version 2 stands beside it, if at all.
_LEGACY = _UNIFIED / "systemd"
_BESIDE = _UNIFIED / "unified"
_PATIENCE_S = 60.0


def hierarchy() -> dict[str, str]:
    """What systemd-nspawn must be told about this host's control groups."""
    return {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "0"} if _LEGACY.exists() else {}


class Cgroup:
    """A control group, in each hierarchy that systemd-nspawn looks at.

    Attributes:
        procs: the files that take processes into it.
    """

    def __init__(self, name: str) -> None:
        for base in _bases():
            for folder in abandoned(base, _PREFIX):
                _removed(folder)
        self._folders = [base / f"{named(_PREFIX)}{name}" for base in _bases()]
        for folder in self._folders:
            folder.mkdir()
        self.procs = [folder / "cgroup.procs" for folder in self._folders]

    async def remove(self) -> None:
        """Remove it once its processes, which have been killed, are gone."""
        give_up_at = time.monotonic() + _PATIENCE_S
        for folder in self._folders:
            while not _removed(folder):
                assert time.monotonic() < give_up_at, f"processes are left in {folder}"
                await asyncio.sleep(0.02)


def _bases() -> Iterator[Path]:
    yield from (each for each in (_LEGACY, _BESIDE) if each.exists())
    if not _LEGACY.exists():
        yield _UNIFIED


def _removed(folder: Path) -> bool:
    for path, _, _ in os.walk(folder, topdown=False):
        try:
            Path(path).rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            return False
    return True
