"""A target is led as long as something is there, and is let go of afterwards: its lease, its stages, its memory."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.view import WaitFor
from puter_worker.store import names
from puter_worker.store.store import Store
from puter_worker.store.targets import NamespaceTargets
from puter_worker.store.txn import Txn
from puter_worker.target import TargetId
from puter_worker.worker import Worker
from tests.integration.sim_workshop import TARGET, SimWorkshop, eventually, sim_url, sim_workshop
from tests.integration.workshop import PATIENCE_S

__all__ = ["sim_url", "sim_workshop"]
KEY = PuterKey("betty", "one")
STAGES_OF_A_TARGET = 8


@pytest.fixture
def shop(sim_workshop: SimWorkshop) -> SimWorkshop:
    """Workers that give targets up soon."""
    sim_workshop.hurry(target_look_s=0.1, target_idle_s=0.6)
    return sim_workshop


async def targets(worker: Worker) -> list[str]:
    return await worker.store.targets.all()


async def given_up(worker: Worker) -> None:
    async def nothing_is_led() -> bool:
        return not await targets(worker) and not worker.targets.known()

    await eventually("the target is given up", nothing_is_led)


async def ended(shop: SimWorkshop, tag: str) -> None:
    record = await shop.record(tag)
    await shop.sim.shut_down(record.instance_id or "")
    await shop.client.wait(tags=[tag], wait=WaitFor.TERMINATED, timeout_s=PATIENCE_S)


async def test_a_target_with_nothing_left_is_given_up_and_comes_back_with_the_next_request(shop: SimWorkshop) -> None:
    async with shop.working() as worker:
        await shop.request("one")
        assert await targets(worker) == [TARGET]
        tasks = len(asyncio.all_tasks())
        target = weakref.ref(worker.targets.get(TargetId.parse(TARGET)))
        async with worker.targets.sessions.ec2(None, "us-east-1") as lent:
            client = weakref.ref(lent)
        del lent
        await ended(shop, "one")
        await given_up(worker)

        with shop.server.client() as behind:
            assert not behind.exists(names.lease(TARGET))

        async def nothing_holds_it() -> bool:
            gc.collect()
            return target() is None and client() is None

        await eventually("target and client are gone", nothing_holds_it)
        assert len(asyncio.all_tasks()) <= tasks - STAGES_OF_A_TARGET
        (view,) = await shop.request("two")

    assert view.phase is Phase.RUNNING
    assert view.record
    assert view.record.target == TARGET


async def test_a_target_in_which_a_machine_lives_is_kept(shop: SimWorkshop) -> None:
    async with shop.working() as worker:
        await shop.request("one")
        looks = 0
        real = NamespaceTargets.renew

        async def renew(self: NamespaceTargets, target: str) -> bool:
            nonlocal looks
            looks += 1
            return await real(self, target)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(NamespaceTargets, "renew", renew)

            async def looked_often() -> bool:
                return looks > 12

            await eventually("the leader has looked for longer than a target may be idle", looked_often)
        assert await targets(worker) == [TARGET]


async def test_a_worker_without_time_to_drain_leaves_nothing_behind(shop: SimWorkshop) -> None:
    """What its leaders still did used clients that were closed, or made new ones."""
    before = asyncio.all_tasks()
    async with shop.working(drain_s=0.01):
        await shop.request("one")
        await shop.sim.configure(latency_s=(2.0, 2.0))
        await shop.submit("two")

    assert {task for task in asyncio.all_tasks() if not task.done()} <= before


LEFT: dict[str, Callable[[Store, Txn], None]] = {
    "a look-up": lambda store, txn: store.look_ups.add(txn, TARGET, KEY, store.now() + 50),
    "a launch": lambda store, txn: store.launch_queue.add(txn, TARGET, KEY, store.now() + 50),
    "an intent": lambda store, txn: txn.do("ZADD", names.due(names.INTENTS, TARGET), 1, "x"),
    "a label": lambda store, txn: txn.do("ZADD", names.due(names.LABELS, TARGET), 1, "x"),
    "an order": lambda store, txn: txn.do("ZADD", names.due(names.ORDERS, TARGET), 1, "x"),
    "a result": lambda store, txn: txn.do("ZADD", names.due(names.RESULTS, TARGET), 1, "x"),
    "a console": lambda store, txn: txn.do("ZADD", names.due(names.CONSOLES, TARGET), 1, "x"),
    "a machine": lambda store, txn: txn.do("ZADD", names.live(TARGET), 1, str(KEY)),
    "a machine that starts": lambda store, txn: txn.do("SADD", names.starting(TARGET), str(KEY)),
}


@pytest.mark.parametrize("left", LEFT)
async def test_nothing_that_is_left_is_forgotten(shop: SimWorkshop, left: str) -> None:
    async with shop.idle() as worker:
        store, txn = worker.store, Txn()
        store.targets.put(txn, TARGET, 7.0)
        LEFT[left](store, txn)
        await store.commit(txn)
        last_put = await store.targets.last_put(TARGET)
        assert last_put is not None

        assert await store.targets_of.renew(TARGET)
        assert not await store.targets.give_up(TARGET, last_put)
        assert await store.targets.last_put(TARGET) == last_put


async def test_what_is_put_into_a_target_at_the_last_moment_keeps_it(shop: SimWorkshop) -> None:
    async with shop.idle() as worker:
        store = worker.store
        await store.unsure.put([TARGET])
        before = await store.targets.last_put(TARGET)
        await store.unsure.put([TARGET])
        assert before is not None

        assert not await store.targets.give_up(TARGET, before)
        now = await store.targets.last_put(TARGET)
        assert now is not None
        assert await store.targets.give_up(TARGET, now)
        assert await store.targets.last_put(TARGET) is None
