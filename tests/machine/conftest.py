"""Machines are booted where that was asked for: by `make machine-test`, which sets PUTER_MACHINE=1."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from tests.integration.redis_servers import valkey, valkey_server
from tests.integration.sim_workshop import SimWorkshop, sim_url, sim_workshop
from tests.machine.root import CannotBuild, root_folder
from tests.machine.world import MachineWorld

__all__ = ["sim_url", "sim_workshop", "valkey", "valkey_server"]

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Skip what boots machines."""
    if os.environ.get("PUTER_MACHINE") == "1":
        return
    skipped = pytest.mark.skip(reason="boots machines, which needs root: run `make machine-test`")
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(skipped)


@pytest.fixture(scope="session")
def root() -> Path:
    """The disk that all machines start from."""
    try:
        return root_folder()
    except CannotBuild as error:
        pytest.exit(f"machine-test: {error}", returncode=1)


@pytest.fixture
async def world(root: Path, sim_workshop: SimWorkshop) -> AsyncIterator[MachineWorld]:
    """What is launched in `sim_workshop` boots."""
    async with MachineWorld(root, sim_workshop.sim, sim_workshop.ec2) as world:
        yield world
