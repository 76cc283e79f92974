"""Workers that die at any step of a launch under a limit: whoever comes next launches what fits, and no more."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from puter_client.client import MachineRequest
from puter_client.contract.phase import LIVE
from puter_client.contract.request import Origin
from puter_worker.ec2.session import Sessions
from puter_worker.store import names
from puter_worker.timings import Timings
from puter_worker.worker import Worker
from tests.integration.redis_servers import RedisServer
from tests.integration.sim_workshop import eventually
from tests.integration.stage_world import Death, end, redis_keeps_its_rules, time_passes
from tests.integration.workshop import Workshop, spec

__all__ = ["redis_keeps_its_rules"]
pytestmark = [
    pytest.mark.usefixtures("redis_keeps_its_rules"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # the dead leave their connections open
]

TAGS = ["one", "two"]
FEW = 10
MANY = 80
WAITS = "waiting for one of the namespace's 1 machines to end (policy rule most_machines)"
POLICY = """[namespaces."*"]
default_credentials = true
regions = ["us-east-1"]
instance_types = ["t3.micro"]
images = ["al2023"]
ssh_from_ipv4_prefix = 32
ssh_from_count = 1
longest_ttl = "1h"
most_machines = 1
most_vcpus = "unlimited"
most_machines_an_hour = 1
most_requests = 2
most_records = 2
"""


class SharingWorkshop(Workshop):
    """A workshop whose workers have a policy, and share their sessions: making them takes most of a short life."""

    def __init__(self, server: RedisServer, endpoint: str, sessions: Sessions, policy: Path) -> None:
        super().__init__(server, endpoint)
        self._sessions = sessions
        self._policy = policy

    def worker(self, *, on_ready: Callable[[], None] = lambda: None, **changes: object) -> Worker:
        settings = self.settings(policy_file=self._policy, **changes)
        return Worker(settings, timings=self.timings, rates=self.rates, sessions=self._sessions, on_ready=on_ready)


@pytest.fixture
async def workshop(valkey: RedisServer, moto: str, tmp_path: Path) -> AsyncIterator[Workshop]:
    """As everywhere, with sessions that all workers of a test share, and a policy."""

    class Shared(Sessions):
        async def aclose(self) -> None:
            """Nobody's to close."""

    shared = Shared(Timings(), version="0")
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    shop = SharingWorkshop(valkey, moto, shared, policy)
    yield shop
    await shop.client.aclose()
    shop.ec2.close()
    await Sessions.aclose(shared)


@pytest.mark.parametrize("after", [True, False], ids=["after", "before"])
async def test_a_worker_may_die_at_any_step_under_a_limit(workshop: Workshop, after: bool) -> None:
    workshop.hurry(second_look_s=0.1, send_again_s=0.1, shut_s=0.1, parallel_again_s=0.1)
    step, died = 0, True
    while died:
        step += 1
        assert step < MANY, "there is no end of steps"
        died = await _a_life(workshop, f"life-{step}", Death(step, after=after))
    assert step > FEW, "the worker died at hardly any step"


async def _a_life(shop: Workshop, namespace: str, death: Death) -> bool:
    """Two requests of which one fits, with a worker that dies on the way and one that goes on; whether one died."""
    with shop.server.client() as behind:
        behind.flushall()
    client = shop.client_of(namespace)
    await client.submit([MachineRequest(tag, spec()) for tag in TAGS], origin=Origin.UP)

    async def settled() -> bool:
        records = [view.record for view in await client.views(TAGS) if view.record is not None]
        alive = [record for record in records if record.phase in LIVE]
        waiting = [record for record in records if record.reason == WAITS]
        return (len(alive), len(waiting)) == (1, 1)

    struck = asyncio.create_task(death.dead.wait())
    granted = asyncio.create_task(eventually("one lives and one waits", settled))
    try:
        async with death.awaits(shop):
            await asyncio.wait({granted, struck}, return_when=asyncio.FIRST_COMPLETED)
            await end([granted, struck])
            if not death.dead.is_set():
                death.spare()
        time_passes(shop)
        async with shop.working():
            await eventually("one lives and one waits", settled)
        held = Counter(
            tag["Value"] for one in shop.instances("pending", "running") for tag in one.get("Tags", [])
            if tag["Key"] == "puter:namespace"
        )  # fmt: skip
        assert held[namespace] == 1
        with shop.server.client() as behind:
            assert behind.hlen(names.machines(namespace)) == 1
            assert behind.zcard(names.launched(namespace)) == 1
            assert behind.scard(names.waiting(namespace)) == 1
    except BaseException as error:
        error.add_note(f"the worker had died {death.at}")
        raise
    finally:
        await end([granted, struck])
        await client.aclose()
    return death.dead.is_set()
