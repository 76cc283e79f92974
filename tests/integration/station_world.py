"""For tests of the stations: waiting for what others do, time that passes, workers that die, and the rules of Redis."""

from __future__ import annotations

import asyncio
import pickletools
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from puter_client.contract.phase import Phase
from puter_worker.ec2.calls import Caller
from puter_worker.store.txn import Txn
from puter_worker.store.workerstore import WorkerStore
from puter_worker.worker import Worker
from tests.integration.workshop import PATIENCE_S, Workshop

FLEET = "123456789012:us-east-1:"  # moto's account
# What may stay for good: wishes that nobody has taken, and what is to be done.
_FOR_GOOD = (b"puter:_in:", b"puter:_bell", b"puter:_backlogs", b"arq:queue")


async def until(what: str, holds: Callable[[], bool], *, for_s: float = PATIENCE_S) -> None:
    """Return once a condition holds that nobody announces; fail if it does not within `for_s`."""
    deadline = time.monotonic() + for_s
    while not holds():
        assert time.monotonic() < deadline, f"in vain waited until {what}"
        await asyncio.sleep(0.01)


def time_passes(shop: Workshop) -> None:
    """Everything in Redis that only waits for its time is due now: leases of the dead, locks, restarts."""
    with shop.server.client() as client:
        for pattern in ("puter:_lease:*", "puter:_taking:*", "arq:in-progress:*"):
            for key in client.scan_iter(pattern):
                client.delete(key)
        for pattern in ("puter:_moving", "puter:_intents:*", "puter:_labels:*", "puter:_admissions", "puter:_pad:*"):
            for key in client.scan_iter(pattern):
                for member in client.zrange(key, 0, -1):
                    client.zadd(key, {member: 0}, xx=True)


# -- workers that die ---------------------------------------------------------------------------------------------


class Death:
    """Ends a worker as kill -9 would, at its N-th step: nothing it had in hand goes on, nothing is put in order.

    A step is a write that others rest on (transactions, the feeding of arq's queue), or a call that changes
    something in EC2. The worker dies just before its effect or just after it.

    Attributes:
        dead: set once it has died.
        at: what it died at.
    """

    def __init__(self, step: int, *, after: bool) -> None:
        self._step = step
        self._after = after
        self._others: set[asyncio.Task[Any]] = set()
        self._worker: Worker | None = None
        self.dead = asyncio.Event()
        self.at = ""

    @asynccontextmanager
    async def awaits(self, shop: Workshop, **settings: Any) -> AsyncIterator[None]:
        """A worker runs while inside, until its time has come."""
        self._others = asyncio.all_tasks()
        self._worker = worker = Worker(shop.settings(**settings))
        store: Any = worker.store
        for name in ("commit", "commit_durably"):
            self._watch(store, name, lambda args, _: bool(args[0]))
        for name in ("feed", "take"):
            self._watch(store, name, lambda _, answer: bool(answer and answer != ([], None)), only_after=True)
        fleets: Any = worker._fleets
        get = fleets.get

        def watched_get(fleet_id: Any) -> Any:
            fleet = get(fleet_id)
            if "_made" not in vars(fleet.caller):
                self._watch(fleet.caller, "_made", lambda args, _: not args[0].startswith(("Describe", "Get")))
            return fleet

        fleets.get = watched_get
        running = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            if self.dead.is_set():
                await self._bury(asyncio.all_tasks() - self._others)
                await worker._sessions.aclose()
                await worker._redis.connection_pool.disconnect()
            else:
                worker.stop()
                await running

    async def _bury(self, tasks: set[asyncio.Task[Any]]) -> None:
        # Once is not enough: before Python 3.12 `asyncio.wait_for`, through which redis-py sends, may swallow it.
        pending = tasks
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.02)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _watch(
        self, owner: WorkerStore | Caller, name: str, counts: Callable[[tuple[Any, ...], Any], bool], *, only_after: bool = False
    ) -> None:
        inner = getattr(owner, name)

        async def watched(*args: Any, **kwargs: Any) -> Any:
            if not only_after and counts(args, None):
                self._step -= 1
                if self._step == 0 and not self._after:
                    await self._die(name, args)
                mine = self._step == 0
                answer = await inner(*args, **kwargs)
                if mine:
                    await self._die(name, args)
                return answer
            answer = await inner(*args, **kwargs)
            if only_after and counts(args, answer):
                self._step -= 1
                if self._step == 0:
                    await self._die(name, args)
            return answer

        setattr(owner, name, watched)

    async def _die(self, name: str, args: tuple[Any, ...]) -> None:
        assert self._worker
        txn = args[0] if args else ""
        detail = [str(word) for word in txn._commands if isinstance(word, str) and ":" in word][:3] if isinstance(txn, Txn) else txn
        self.at = f"{'after' if self._after or name in ('feed', 'take') else 'before'} {name} {detail}"
        me = asyncio.current_task()
        pool: Any = self._worker._redis.connection_pool

        async def cut_off(*_: Any, **__: Any) -> Any:
            raise redis.ConnectionError("this worker is dead")

        pool.get_connection = cut_off
        await pool.disconnect(inuse_connections=True)
        self.dead.set()
        for task in asyncio.all_tasks() - self._others:
            if task is not me:
                task.cancel()
        raise asyncio.CancelledError


# -- rules ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def redis_keeps_its_rules(workshop: Workshop) -> Iterator[None]:
    """Checks, after the test, that no key stays for good, and that nothing holds a pickle."""
    yield
    with workshop.server.client() as client:
        assert keys_for_good(client) == []
        assert pickles(client) == []


def keys_for_good(client: redis.Redis) -> list[bytes]:
    """Keys that never expire, though they should."""
    return [key for key in client.scan_iter() if client.ttl(key) == -1 and not key.startswith(_FOR_GOOD)]


def pickles(client: redis.Redis) -> list[bytes]:
    """Keys that hold a value that `pickle` would read."""
    return [key for key in client.scan_iter() if any(is_pickle(value) for value in values(client, key))]


def values(client: redis.Redis, key: bytes) -> list[bytes]:
    """All that a key holds."""
    match client.type(key):
        case b"string":
            return [client.get(key) or b""]
        case b"list":
            return list(client.lrange(key, 0, -1))
        case b"set":
            return list(client.smembers(key))
        case b"zset":
            return list(client.zrange(key, 0, -1))
        case b"hash":
            return list(client.hvals(key))
        case other:
            raise AssertionError(f"{key!r} is a {other!r}")


def is_pickle(value: bytes) -> bool:
    """Whether `pickle` would read it; protocol 2 and later begin with one byte."""
    if not value.startswith(b"\x80"):
        return False
    try:
        list(pickletools.genops(value))
    except ValueError:
        return False
    return True


# -- what EC2 and Redis say -------------------------------------------------------------------------------------------


async def one_machine_each(shop: Workshop, namespace: str, tags: list[str]) -> None:
    """Each tag has exactly one instance that EC2 holds, and its record names it."""
    client = shop.client_of(namespace)
    try:
        views = await client.views(tags)
    finally:
        await client.aclose()
    held: dict[str, list[str]] = {}
    for instance in shop.instances():
        named = {tag["Key"]: tag["Value"] for tag in instance.get("Tags", [])}
        if named.get("puter:namespace") == namespace:
            held.setdefault(named.get("puter:tag", "?"), []).append(instance["InstanceId"])
    records = {view.tag: [view.record.instance_id] for view in views if view.record}
    assert held == records
    assert {view.phase for view in views} == {Phase.RUNNING}
