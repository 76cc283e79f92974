"""A profile whose credentials a program gives, as a test tells it to."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from puter_worker.ec2.answers import Vpcs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.session import Sessions
from puter_worker.errors import StageError
from tests.integration.engine_world import is_running
from tests.integration.moto_server import REGION

KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
GOOD = f'{{"Version": 1, "AccessKeyId": "{KEY_ID}", "SecretAccessKey": "{SECRET}"'


def configure(text: str | bytes) -> None:
    Path(os.environ["AWS_CONFIG_FILE"]).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], str]:
    """Writes a shell script as credential_process of profile lab; each of its runs adds a line to `runs`."""

    def write(script: str) -> str:
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/runs\n{script}\n")
        path.chmod(0o700)
        configure(f"[profile lab]\ncredential_process = {path}\n")
        return str(path)

    return write


def runs(folder: Path) -> list[int]:
    """Process ids of the program's runs so far."""
    path = folder / "runs"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def caller(sessions: Sessions, profile: str | None = "lab") -> Caller:
    return Caller(sessions, profile=profile, region=REGION)


async def error_of(sessions: Sessions, profile: str | None = "lab") -> StageError:
    with pytest.raises(StageError) as caught:
        await caller(sessions, profile).call("DescribeVpcs", Vpcs)
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def gone(pids: list[int]) -> None:
    try:
        await until(lambda: not any(is_running(pid) for pid in pids))
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
