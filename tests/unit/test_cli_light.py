"""What commands load: nothing that only workers need, and little for a look at the help."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"botocore", "aiobotocore", "boto3", "aioboto3", "arq", "moto", "puter_worker"}


def loaded(code: str) -> set[str]:
    """Top-level packages in memory after some code ran in an interpreter of its own."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "module",
    [
        "puter_client",
        "puter_client.cli.app",
        "puter_client.client",
        "puter_client.cli.up",
        "puter_client.cli.demo",
    ],
)
def test_nothing_that_only_workers_need_is_loaded(module: str) -> None:
    assert HEAVY & loaded(f"import {module}") == set()


def test_help_loads_neither_redis_nor_rich_nor_asyncio() -> None:
    code = "from puter_client.cli.app import main; main(['--help'])"
    assert loaded(code) & {"redis", "rich", "yaml", "structlog", "asyncio", "msgspec"} == set()


def test_status_loads_neither_rich_nor_yaml_nor_structlog() -> None:
    code = "import puter_client.cli.status, puter_client.cli.table, puter_client.cli.follow, puter_client.client"
    assert loaded(code) & {"rich", "yaml", "structlog"} == set()
