"""Starts the simulator for a test, in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tests.ec2sim.client import ControlClient
from tests.ec2sim.config import SimConfig

ROOT = Path(__file__).parents[2]
START_S = 120.0
STOP_S = 5.0


class SimulatorFailed(Exception):
    """The simulator did not start, or had an internal error; the text says which."""


class SimProcess:
    """`async with SimProcess(SimConfig(…)) as sim:` and EC2 is at `sim.endpoint_url`.

    Leaving it fails the test if the simulator met a defect of its own meanwhile.

    Attributes:
        config: the behaviour at its start.
        endpoint_url: of EC2 and STS alike.
        control: the side door.
        environment: what an AWS SDK in another process needs to find it.
    """

    endpoint_url: str
    control: ControlClient

    def __init__(self, config: SimConfig | None = None) -> None:
        self.config = config or SimConfig()
        self._process: Process | None = None

    @property
    def pid(self) -> int:
        """Of the simulator's process."""
        if self._process is None:
            raise SimulatorFailed("use SimProcess inside `async with`")
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """`AWS_*` for this simulator, none of it a secret."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": "AKIASIMULATED",
            "AWS_SECRET_ACCESS_KEY": "simulated",
            "AWS_DEFAULT_REGION": self.config.regions[0],
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    async def __aenter__(self) -> Self:
        config = msgspec.json.encode(self.config).decode()
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.ec2sim", "--stop-at-eof", "--config", config, stdin=PIPE, stdout=PIPE, cwd=ROOT
        )
        try:
            self.endpoint_url = await self._address(self._process)
            self.control = await ControlClient(self.endpoint_url).__aenter__()
        except BaseException:
            await self._stop(self._process)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        bugs: list[str] = []
        try:
            if kind is None:
                bugs = (await self.control.summary()).bugs
        finally:
            await self.control.__aexit__(kind, error, trace)
            if self._process:
                await self._stop(self._process)
        if bugs:
            raise SimulatorFailed("\n".join(bugs))

    @staticmethod
    async def _address(process: Process) -> str:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        if not line:
            raise SimulatorFailed(f"python -m tests.ec2sim ended with {await process.wait()}")
        return line.decode().strip()

    @staticmethod
    async def _stop(process: Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        if process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(ConnectionError):
                await process.stdin.wait_closed()
