"""Fixtures: as `workshop`, with the simulated EC2 instead of moto: limits, lag, lost answers, dry zones and quotas.

What waits for AWS waits for a fraction of the time here (`SWIFT`), and what the pacer lets through is as much faster
as the simulated buckets refill (`SPEED`).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.record import Event, Record
from puter_client.contract.request import Origin
from puter_worker.rates import RUN_INSTANCES, Bucket, Rates
from puter_worker.timings import Timings
from puter_worker.worker import Worker
from tests.ec2sim.client import ControlClient
from tests.ec2sim.config import Fault, SimConfig
from tests.ec2sim.ledger import Entry
from tests.ec2sim.reports import Seen
from tests.integration.moto_server import point_at
from tests.integration.redis_servers import RedisServer
from tests.integration.workshop import PATIENCE_S, Workshop, spec

TARGET = "123456789012:us-east-1:"
SPEED = 20.0
CALM = SimConfig(speed=SPEED)
ROOT = Path(__file__).parents[2]


class SimWorkshop(Workshop):
    """What a test of launches works with.

    Attributes:
        sim: the simulator's side door.
    """

    def __init__(self, server: RedisServer, endpoint: str, sim: ControlClient) -> None:
        super().__init__(server, endpoint)
        self.sim = sim
        self._clients: list[PuterClient] = []

    def client_of(self, namespace: str) -> PuterClient:
        """A client in another namespace; closed with the workshop."""
        client = super().client_of(namespace)
        if hasattr(self, "_clients"):
            self._clients.append(client)
        return client

    async def aclose(self) -> None:
        """Close what was opened."""
        for client in (self.client, *self._clients):
            await client.aclose()
        self.ec2.close()

    def settings(self, **changes: Any) -> Any:
        """A worker's settings; it keeps to the rates, for the simulator refuses what is too much."""
        return super().settings(**({"pace": True, "max_group": 100, "quarantine_s": 0.5} | changes))

    async def submit(
        self,
        *tags: str,
        client: PuterClient | None = None,
        most: int | None = None,
        origin: Origin = Origin.UP,
        **fields: Any,
    ) -> str:
        """Request machines; the id of the batch."""
        asked = [MachineRequest(tag, spec(**fields)) for tag in tags]
        return await (client or self.client).submit(asked, origin=origin, max_parallel=most)

    async def records(self, *tags: str, client: PuterClient | None = None) -> list[Record]:
        """The tags' records, as far as there are some."""
        return [view.record for view in await (client or self.client).views(tags) if view.record is not None]

    async def reasons(self, *tags: str) -> list[str]:
        """Why these tags wait, of those that say so."""
        return [record.reason for record in await self.records(*tags) if record.reason]

    async def told(self, tag: str) -> list[Event]:
        """A tag's timeline."""
        return await self.client.events(tag)

    # -- what EC2 holds and was asked ---------------------------------------------------------------------------

    async def looks(self) -> int:
        """How often machines were looked at by their ids."""
        calls = await self.calls("DescribeInstances")
        return sum(call.params.get("Filter.1.Name") == "instance-id" for call in calls)

    async def calls(self, action: str) -> list[Entry]:
        """What was asked of EC2, in its order."""
        return await self.sim.ledger(action=action)

    async def seen(self) -> list[Seen]:
        """All instances as they really are, with their user data."""
        return await self.sim.instances(user_data=True)

    async def living(self) -> list[Seen]:
        """Instances that are pending or running."""
        return [one for one in await self.sim.instances() if one.live]

    async def refused(self, code: str) -> int:
        """How many calls EC2 refused with this code."""
        return sum(codes.get(code, 0) for codes in (await self.sim.summary()).counts.values())

    async def faults(self, *faults: Fault) -> None:
        """From now on these things go wrong."""
        await self.sim.configure(faults=msgspec.to_builtins(faults))

    async def one_each(self, *tags: str) -> None:
        """Each tag has exactly one living machine, and its record names it; nothing else lives."""
        living = Counter(one.id for one in await self.living())
        named = Counter(record.instance_id for record in await self.records(*tags))
        assert living == named
        assert len(living) == len(tags)


class Killed:
    """A worker that can be ended as by kill -9: nothing it had in hand goes on, nothing is put in order."""

    def __init__(self, worker: Worker, others: set[asyncio.Task[Any]]) -> None:
        self._worker = worker
        self._others = others
        self.dead = False

    async def kill(self) -> None:
        """End all that it does, at once."""
        self.dead = True
        pool: Any = self._worker.store.db.redis.connection_pool

        async def cut_off(*_: Any, **__: Any) -> Any:
            raise ConnectionError("this worker is dead")

        pool.get_connection = cut_off
        await pool.disconnect(inuse_connections=True)
        tasks = asyncio.all_tasks() - self._others - {asyncio.current_task()}
        pending = tasks
        while pending:  # once is not enough: before Python 3.12 `asyncio.wait_for` may swallow it
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.02)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._worker.targets.sessions.aclose()


@asynccontextmanager
async def doomed(shop: SimWorkshop, **settings: Any) -> AsyncIterator[Killed]:
    """A worker runs while inside, which the test kills; nothing else may begin meanwhile."""
    others = asyncio.all_tasks()
    ready = asyncio.Event()
    worker = shop.worker(on_ready=ready.set, **settings)
    running = asyncio.create_task(worker.run())
    victim = Killed(worker, others)
    await asyncio.wait({running, asyncio.create_task(ready.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if running.done():
        running.result()
    try:
        yield victim
    finally:
        if not victim.dead:
            worker.stop()
            await running


async def eventually(what: str, holds: Callable[[], Awaitable[bool]], *, for_s: float = PATIENCE_S) -> None:
    """Return once a condition holds that nobody announces; fail if it does not within `for_s`."""
    deadline = time.monotonic() + for_s
    while not await holds():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        await asyncio.sleep(0.02)


def no_capacity(**where: Any) -> Fault:
    """EC2 has no room for a launch."""
    return Fault(action="RunInstances", code="InsufficientInstanceCapacity", **where)


# -- fixtures ---


@pytest.fixture(scope="session")
def sim_url() -> Iterator[str]:
    """Address of a simulated EC2 that ends with the test run, however that ends."""
    config = msgspec.json.encode(CALM).decode()
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.ec2sim", "--stop-at-eof", "--config", config],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
    )
    assert server.stdin
    assert server.stdout
    with server:
        url = server.stdout.readline().strip()
        assert url, "the simulator did not start"
        yield url
        server.stdin.close()


@pytest.fixture
async def sim_workshop(
    valkey: RedisServer, sim_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[SimWorkshop]:
    """A client, a Valkey and the simulated EC2, empty and calm; workers are started by the test."""
    point_at(sim_url, monkeypatch, tmp_path)
    async with ControlClient(sim_url) as sim:
        await sim.reset(CALM)
        shop = SimWorkshop(valkey, sim_url, sim)
        shop.timings, shop.rates = SWIFT, Rates().faster(SPEED)
        yield shop
        await shop.aclose()
        summary = await sim.summary()
        assert summary.bugs == []
        assert not [action for action in summary.counts if action.startswith(("Delete", "Terminate", "Revoke"))]


# Pauses that are made for AWS are short.
SWIFT = Timings(
    send_again_s=0.1,
    after_credentials_error_s=0.1,
    second_look_s=1.0,
    launch_again_s=0.1,
    parallel_again_s=0.1,
    place_again_s=0.2,
    label_again_s=0.2,
    starting_s=0.3,
    awaited_s=0.3,
    shut_s=0.1,
    after_error_s=0.1,
    lease_renew_s=0.5,
    ensure_again_s=0.1,
    look_up_again_s=0.2,
    in_flight_s=0.0,
    no_capacity_s=1.0,
    quota_s=30.0,
)


def one_call_at_a_time(shop: Workshop) -> None:
    """Two keys are a group already: there is never more than one launch's token at hand, and a batch is complete."""
    shop.hurry(batch_longest_s=3.0)
    shop.set_bucket(RUN_INSTANCES, Bucket(1, 2 * SPEED))


@pytest.fixture
def in_groups(sim_workshop: SimWorkshop) -> None:
    """See one_call_at_a_time."""
    one_call_at_a_time(sim_workshop)
