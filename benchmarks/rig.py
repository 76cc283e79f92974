"""The rig of the benchmarks: a simulated EC2, a Valkey that syncs every write to disk, and worker processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from benchmarks.result import BenchmarkFailed
from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.record import Record
from puter_client.contract.spec import Spec
from puter_client.view import View
from tests.ec2sim.config import SimConfig
from tests.ec2sim.process import SimProcess
from tests.ec2sim.reports import Seen
from tests.integration.redis_servers import RedisServer, running_server, server_binaries

ROOT = Path(__file__).parents[1]
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx8Tn8wJmVvLq1uwRWhGtg5zT8p7xyk8vJ4k8jVvq3Z bench"
SPEC = Spec(public_key=PUBLIC_KEY, ssh_from=("192.0.2.7/32",))
START_S = 30.0
STOP_S = 20.0


class Baseline(msgspec.Struct, frozen=True):
    """The output of `benchmarks.baseline`.

    Attributes:
        seconds: it took in all.
        made: machines launched.
        found: machines that were there.
        failed: tags without one.
        calls: that it sent.
        each: seconds of each tag.
    """

    seconds: float
    made: int
    found: int
    failed: int
    calls: int
    each: list[float]


class Rig:
    """`async with Rig(…) as rig:`; nothing remains afterwards.

    Attributes:
        sim: the simulated EC2.
        server: the Valkey.
        client: in namespace `bench`.
        workers: processes.
    """

    sim: SimProcess
    server: RedisServer
    client: PuterClient

    def __init__(self, config: SimConfig | None = None, *, workers: int = 0, pace: bool = True) -> None:
        """EC2's published buckets unless `config` says otherwise; `pace`: whether workers respect them."""
        self._config = config or SimConfig()
        self._wanted = workers
        self._stack = AsyncExitStack()
        self.pace = pace
        self.workers: list[Process] = []

    async def __aenter__(self) -> Self:
        try:
            self.folder = Path(tempfile.mkdtemp(prefix="puter-bench-"))
            self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            self.sim = await self._stack.enter_async_context(SimProcess(self._config))
            self.server = self._stack.enter_context(running_server(server_binaries()["valkey"]))
            self.client = PuterClient.connect(self.server.url, namespace="bench", user="bench")
            self._stack.push_async_callback(self.client.aclose)
            self._stack.push_async_callback(self.stop_workers)
            await self.start_workers(self._wanted)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process on the rig: the simulator, this Valkey, and its own home."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        return {
            **kept,
            **self.sim.environment,
            "HOME": str(self.folder),
            "PUTER_HOME": str(self.folder / "puter"),
            "PUTER_REDIS_URL": self.server.url,
            "PUTER_NAMESPACE": "bench",
            "PUTER_PACE": "on" if self.pace else "off",
        }

    async def start_workers(self, count: int) -> None:
        """Start more worker processes; returns when all of them take requests."""
        for _ in range(count):
            with (self.folder / "worker.log").open("ab") as log:
                self.workers.append(
                    await asyncio.create_subprocess_exec(
                        sys.executable, "-m", "puter_worker", env=self.environment, cwd=ROOT, stdin=DEVNULL, stderr=log
                    )
                )

        async def there() -> bool:
            for worker in self.workers:
                if worker.returncode is not None:
                    raise BenchmarkFailed(f"a worker ended with exit code {worker.returncode}: {self.log_end()}")
            return len(await self.client.workers()) >= len(self.workers)

        await until(there, START_S, "the workers do not take requests")

    async def stop_workers(self) -> None:
        """End all worker processes after they have finished their work."""
        for worker in self.workers:
            if worker.returncode is None:
                worker.terminate()
        for worker in self.workers:
            try:
                await asyncio.wait_for(worker.wait(), STOP_S)
            except TimeoutError:
                worker.kill()
                await worker.wait()
        self.workers.clear()

    def log_end(self) -> str:
        """The last lines that a worker logged."""
        return (self.folder / "worker.log").read_text(errors="replace")[-2_000:]

    async def baseline(self, count: int, *options: str) -> Baseline:
        """Run the baseline script against this EC2."""
        said = await self.run(
            sys.executable, "-m", "benchmarks.baseline", "--ami", await self._ami(), "--count", str(count), *options
        )
        return msgspec.json.decode(said, type=Baseline)

    async def run(self, *command: str, environment: dict[str, str] | None = None) -> bytes:
        """The standard output of a process, which must end with exit code 0."""
        process = await asyncio.create_subprocess_exec(
            *command, env=environment or self.environment, cwd=ROOT, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
        )
        out, err = await process.communicate()
        if process.returncode:
            raise BenchmarkFailed(
                f"{' '.join(command)} ended with exit code {process.returncode}: {err.decode()[-2_000:]}"
            )
        return out

    async def _ami(self) -> str:
        """An image of Amazon Linux in the simulator."""
        return (await self.run(sys.executable, "-c", _FIND_AMI)).decode().strip()

    # -- what was done ------------------------------------------------------------------------------------------

    async def refused(self) -> int:
        """The number of calls that EC2 refused because of its call rates."""
        counts = (await self.sim.control.summary()).counts
        return sum(codes.get("RequestLimitExceeded", 0) for codes in counts.values())

    async def calls(self, action: str) -> int:
        """The number of calls of an action so far."""
        return sum((await self.sim.control.summary()).counts.get(action, {}).values())

    async def check(self, tags: list[str], views: list[View], *, labelled: bool) -> None:
        """Fail unless each tag has exactly the machine that its record names, with its own name if labelled."""
        live = {one.id: one for one in await self.sim.control.instances() if one.live}
        named = {view.tag: view.record.instance_id for view in views if view.record}
        if sorted(named) != sorted(tags) or set(named.values()) - live.keys() or len(live) < len(set(named.values())):
            raise BenchmarkFailed(f"{len(tags)} tags, {len(named)} records, {len(live)} machines: {self.log_end()}")
        if len(set(named.values())) != len(tags):
            raise BenchmarkFailed("two tags share a machine")
        wrong = [
            view.tag
            for view in views
            if labelled and view.record and not _knows_its_name(view.record, live[view.record.instance_id or ""])
        ]
        if wrong:
            raise BenchmarkFailed(f"{len(wrong)} machines have a wrong name, first {wrong[0]}")


def _knows_its_name(record: Record, machine: Seen) -> bool:
    member = None if record.member is None else str(record.member)
    return (machine.tags.get("puter:tag"), machine.tags.get("puter:member")) == (record.tag, member)


_FIND_AMI = """
import boto3
wanted = {"name": "al2023-ami-2023.*-kernel-6.1-x86_64", "state": "available"}
images = boto3.client("ec2").describe_images(
    Owners=["amazon"], Filters=[{"Name": name, "Values": [value]} for name, value in wanted.items()])["Images"]
print(max(images, key=lambda image: image["CreationDate"])["ImageId"])
"""


def asked(count: int, prefix: str = "t-", *, spot: bool = False) -> list[MachineRequest]:
    """Requests, each with its own workload."""
    return [
        MachineRequest(f"{prefix}{number}", msgspec.structs.replace(SPEC, run=f"sweep.sh {number}", spot=spot))
        for number in range(count)
    ]


async def until(so: Callable[[], Awaitable[bool]], patience_s: float, otherwise: str, *, every_s: float = 0.02) -> None:
    """Return as soon as a condition is true; fail after `patience_s`."""
    try:
        async with asyncio.timeout(patience_s):
            while not await so():
                await asyncio.sleep(every_s)
    except TimeoutError:
        raise BenchmarkFailed(f"{otherwise} after {patience_s:g} s") from None
