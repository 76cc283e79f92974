"""Each pair of AWS profile and region is a target that is led: one namespace has a limited number of them.

400 of one namespace kept a worker so busy that it lost their leases, and another namespace waited 21 s for its launch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from puter_client.client import MachineRequest
from puter_client.contract.phase import LIVE, Phase
from puter_client.contract.regions import REGIONS
from puter_client.contract.request import Origin
from puter_client.view import WaitFor
from puter_worker.store import names
from puter_worker.store.targets import MOST_TARGETS
from puter_worker.store.txn import Txn
from puter_worker.timings import Timings
from tests.integration.redis_servers import valkey, valkey_server
from tests.integration.sim_workshop import SimWorkshop, eventually, sim_url, sim_workshop
from tests.integration.workshop import PATIENCE_S, spec

__all__ = ["sim_url", "sim_workshop", "valkey", "valkey_server"]
PROFILES = [f"p{number}" for number in range(9)]
PAIRS = list(itertools.product(PROFILES, sorted(REGIONS)))[:400]


@pytest.fixture
async def shop(sim_workshop: SimWorkshop, tmp_path: Path) -> SimWorkshop:
    """EC2 has every region, and the worker's host many profiles."""
    keys = "aws_access_key_id = {0}\naws_secret_access_key = {0}\n"
    (tmp_path / "aws-credentials").write_text("".join(f"[{name}]\n{keys.format(name)}" for name in PROFILES))
    await sim_workshop.sim.configure(regions=sorted(REGIONS))
    sim_workshop.timings = Timings()
    return sim_workshop


async def test_four_hundred_targets_of_one_namespace_are_forty(shop: SimWorkshop) -> None:
    mallory = shop.client_of("mallory")
    asked = [
        MachineRequest(f"t-{number}", spec(profile=profile, region=region))
        for number, (profile, region) in enumerate(PAIRS)
    ]
    batch = await mallory.submit(asked, origin=Origin.UP)
    with capture_logs() as lines:
        async with shop.working(drain_s=60.0) as worker:
            bettys = await shop.submit("one")
            (betty,) = await shop.client.wait(batch_id=bettys, wait=WaitFor.LAUNCHED, timeout_s=PATIENCE_S)
            tags = [request.tag for request in asked]
            views = await mallory.wait(batch_id=batch, tags=tags, wait=WaitFor.LAUNCHED, timeout_s=PATIENCE_S)
            with shop.server.client() as behind:
                assert behind.zcard(names.TARGETS) == MOST_TARGETS + 1
                assert behind.zcard(names.targets_of("mallory")) == MOST_TARGETS

            async def others_are_let_go() -> bool:
                return len(worker.targets.known()) == MOST_TARGETS + 1

            await eventually("nothing is held of other targets", others_are_let_go)

    assert betty.phase in LIVE
    led = {line["target"] for line in lines if line["event"] == "lease.taken"}
    assert len(led) == MOST_TARGETS + 1
    failed = [view for view in views if view.phase is Phase.FAILED]
    assert len(failed) == len(PAIRS) - MOST_TARGETS
    codes = Counter(view.record.error.code for view in failed if view.record and view.record.error)
    assert codes == {"TooManyTargets": len(failed)}
    (view, *_) = failed
    assert "'mallory' has requests or machines in 40 pairs of region and AWS profile, the most" in (view.reason or "")


async def test_a_target_that_others_have_counts_for_each_namespace(shop: SimWorkshop) -> None:
    async with shop.idle() as worker:
        store = worker.store

        async def put(namespace: str, target: str, now: float) -> bool:
            txn = Txn()
            store.targets_of.put(txn, namespace, target, now)
            return not await store.commit(txn)

        now, idle_s = store.now(), store.timings.target_idle_s
        for number in range(MOST_TARGETS):
            assert await put("mallory", f"t-{number}", now)

        assert not await put("mallory", "another", now)
        assert await put("mallory", "t-7", now)
        assert await put("betty", "another", now)
        # Those in which mallory has nothing any more make room.
        assert not await put("mallory", "another", now + idle_s - 1)
        assert await put("mallory", "another", now + idle_s + 1)
