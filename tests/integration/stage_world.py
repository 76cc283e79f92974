"""For tests of the stages: waiting for what others do, time that passes, workers that die, and the rules of Redis."""

from __future__ import annotations

import asyncio
import pickletools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NoReturn

import msgspec
import pytest
import redis

from puter_client.client import MachineRequest
from puter_client.contract.key import PuterKey
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.store import names as public
from puter_worker.memory import Memory
from puter_worker.stages.ensure import Ensure
from puter_worker.stages.forgotten import Forgotten
from puter_worker.stages.ingress import Ingress
from puter_worker.stages.intake import Intake
from puter_worker.stages.label import LabelWriter
from puter_worker.stages.observe import Observe
from puter_worker.stages.resolve import Resolve
from puter_worker.store import names, wakeups
from puter_worker.store.txn import Txn
from puter_worker.target import Target
from puter_worker.timings import Timings
from puter_worker.worker import Worker
from tests.integration.workshop import PATIENCE_S, Workshop, spec

TARGET = "123456789012:us-east-1:"  # moto's account
# What may stay for good: requests that nobody has taken, and what is to be done.
_FOR_GOOD = (b"puter:_in:", b"puter:_ready", b"puter:_backlogs", b"arq:queue")


async def until(what: str, holds: Callable[[], bool], *, for_s: float = PATIENCE_S) -> None:
    """Return once a condition holds that nobody announces; fail if it does not within `for_s`."""
    deadline = time.monotonic() + for_s
    while not holds():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        await asyncio.sleep(0.01)


def rewrite(shop: Workshop, key: PuterKey, **changes: Any) -> None:
    """Change a key's record, as only time and other stages do; `observed_at` is when EC2 last showed its machine."""
    with shop.server.client() as behind:
        raw = behind.hget(public.record(key), "doc")
        assert raw
        changed = msgspec.json.decode(raw, type=Record).replace(**changes)
        behind.hset(public.record(key), "doc", msgspec.json.encode(changed))
        behind.hincrby(public.record(key), "rev", 1)
        if "observed_at" in changes:
            behind.hdel(public.observed(key.namespace), key.tag)


def wake_all(shop: Workshop) -> None:
    """Every stage of every worker looks at once: for what was written behind their backs."""
    with shop.server.client() as client:
        client.publish(names.WAKE, wakeups.EVERYTHING)


def time_passes(shop: Workshop) -> None:
    """Everything in Redis that only waits for its time is due now, and told: leases of the dead, locks, restarts."""
    with shop.server.client() as client:
        for pattern in ("puter:_lease:*", "puter:_taking:*", "arq:in-progress:*"):
            for key in client.scan_iter(pattern):
                client.delete(key)
        for pattern in (
            names.MOVING,
            names.PARKED,
            names.ingress("*"),
            names.FAILURES,
            "puter:_due:intents:*",
            "puter:_due:labels:*",
            "puter:_due:orders:*",
            "puter:_due:results:*",
            "puter:_launch_queue:*",
            "puter:_look_ups:*",
        ):
            for key in client.scan_iter(pattern):
                for member in client.zrange(key, 0, -1):
                    client.zadd(key, {member: 0}, xx=True)
    wake_all(shop)


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until they have ended.

    Once is not enough: before Python 3.12 `asyncio.wait_for`, through which redis-py sends, may swallow it.
    """
    all_of_them = set(tasks)
    pending = all_of_them
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=0.02)
    await asyncio.gather(*all_of_them, return_exceptions=True)


# -- workers that die ---------------------------------------------------------------------------------------------


class Death:
    """Ends a worker as kill -9 would, at its N-th step: nothing it had in hand goes on, nothing is put in order.

    A step is a write that others rest on (transactions, the feeding of arq's queue, the locking of its jobs), or a
    call that changes something in EC2. The worker dies just before its effect or just after it.

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
        self._worker = worker = shop.worker(**settings)
        store = worker.store
        for name in ("commit", "commit_durably"):
            self._watch(store.db, name, lambda args, _: bool(args[0]))
        for owner, name in ((store.jobs, "feed"), (store.jobs, "lock"), (store.requests, "take")):
            self._watch(owner, name, lambda _, answer: bool(answer and answer != ([], None)), only_after=True)
        targets: Any = worker.targets
        get = targets.get

        def watched_get(target_id: Any) -> Any:
            target = get(target_id)
            if "_made" not in vars(target.caller):
                self._watch(target.caller, "_made", lambda args, _: not args[0].startswith(("Describe", "Get")))
            return target

        targets.get = watched_get
        running = asyncio.create_task(worker.run())
        try:
            yield
        finally:
            worker.stop()
            dying = asyncio.create_task(self.dead.wait())  # also while it ends in order: a step may have begun before
            await asyncio.wait({running, dying}, return_when=asyncio.FIRST_COMPLETED)
            if self.dead.is_set():
                await end(asyncio.all_tasks() - self._others)
                await worker._sessions.aclose()
                await worker._redis.connection_pool.disconnect()
            else:
                await end([dying])
                await running

    def _watch(
        self,
        owner: object,
        name: str,
        counts: Callable[[tuple[Any, ...], Any], bool],
        *,
        only_after: bool = False,
    ) -> None:
        """Count calls of a method as steps; `counts` is asked with its arguments and, of `only_after`, its answer."""
        inner = getattr(owner, name)

        async def watched(*args: Any, **kwargs: Any) -> Any:
            is_last = not only_after and counts(args, None) and self._is_last()
            if is_last and not self._after:
                self._die(name, args)
            answer = await inner(*args, **kwargs)
            if is_last or (only_after and counts(args, answer) and self._is_last()):
                self._die(name, args)
            return answer

        setattr(owner, name, watched)

    def spare(self) -> None:
        """Let the worker live, whatever steps it still makes when it ends in order."""
        self._step = 0

    def _is_last(self) -> bool:
        self._step -= 1
        return self._step == 0

    def _die(self, name: str, args: tuple[Any, ...]) -> NoReturn:
        assert self._worker
        self.at = f"{'after' if self._after else 'before'} {name} {_shown(args)} (feed, lock and take: always after)"
        me = asyncio.current_task()
        pool: Any = self._worker._redis.connection_pool

        async def cut_off(*_: Any, **__: Any) -> Any:
            raise redis.ConnectionError("this worker is dead")

        pool.get_connection = cut_off
        for task in asyncio.all_tasks() - self._others:
            if task is not me:
                task.cancel()
        self.dead.set()
        raise asyncio.CancelledError


def _shown(args: tuple[Any, ...]) -> list[str]:
    words = [word for command in args[0].commands for word in command] if args and isinstance(args[0], Txn) else args
    return [word for word in words if isinstance(word, str)][:4]


# -- a worker whose stages the test runs ----------------------------------------------------------------------------


def resolver(worker: Worker, target: Target, timings: Timings) -> Resolve:
    """resolve, as a leader has it that remembers nothing."""
    forgotten = Forgotten(worker.store, worker.targets, Memory(None, clock=worker.store.db.clock))
    return Resolve(worker.store, target, forgotten, timings)


class Hands:
    """A worker that does nothing by itself: the test runs its stages.

    Attributes:
        shop: its world.
        worker: the worker.
        store: its view of Redis.
        targets: what it reaches in AWS.
    """

    def __init__(self, shop: Workshop, worker: Worker) -> None:
        self.shop = shop
        self.worker = worker
        self.store = worker.store
        self.targets = worker.targets

    async def take_requests(self) -> None:
        """intake: one helping of each namespace that has something."""
        await Intake(self.store, self.shop.timings).run_once()

    async def ensure(self, key: PuterKey) -> None:
        """The job of a key."""
        await Ensure(self.store, self.targets, self.shop.timings).run(key)

    async def target(self) -> Target:
        """The target of the tests' specs."""
        return await self.targets.find(None, "us-east-1")

    async def due_look_ups(self, target: Target) -> list[PuterKey]:
        """Keys of `betty` that are due to be looked up."""
        due = await self.store.look_ups.due(str(target), "betty", self.store.now(), most=500)
        return [PuterKey("betty", tag) for tag in due]

    async def look_up(self, target: Target, keys: Sequence[PuterKey] | None = None) -> None:
        """resolve: these keys, or all of `betty` that are due for it, without waiting for others."""
        keys = await self.due_look_ups(target) if keys is None else keys
        assert keys, "nothing is to be looked up"
        await self.resolver(target).look_up("betty", keys)

    def resolver(self, target: Target) -> Resolve:
        """resolve, as a leader has it that remembers nothing."""
        return resolver(self.worker, target, self.shop.timings)

    def observer(self, target: Target) -> Observe:
        """observe, as a leader has it."""
        return Observe(self.store, target, self.shop.timings, quiet_s=600.0, is_end_awaited=lambda: False)

    async def write_labels(self, target: Target) -> None:
        """label: those that are due."""
        await LabelWriter(self.store, target, self.shop.timings).write_due()

    async def open_ingress(self) -> None:
        """ingress: the rules that are due."""
        await Ingress(self.store, self.targets, self.shop.timings).run_once()

    async def until_looked_up(self) -> Target:
        """Request the key `one`, and take it as far as its look-up; its target."""
        await self.shop.client.submit([MachineRequest("one", spec())])
        await self.take_requests()
        await self.ensure(PuterKey("betty", "one"))
        return await self.target()

    def sorted(self, name: str) -> list[bytes]:
        """What a sorted set holds."""
        with self.shop.server.client() as behind:
            return list(behind.zrange(name, 0, -1))


@pytest.fixture
async def hands(workshop: Workshop) -> AsyncIterator[Hands]:
    """A worker whose stages the test runs."""
    workshop.hurry(account_s=PATIENCE_S)
    worker = workshop.worker()
    await worker.store.db.sync_clock()
    yield Hands(workshop, worker)
    await worker._sessions.aclose()
    await worker._redis.aclose()
    await worker._redis.connection_pool.disconnect()


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


def values(behind: redis.Redis, key: bytes) -> list[bytes]:
    """All that a key holds."""
    client: Any = behind  # its types tell of a pipeline, too
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


# -- what EC2 and Redis say ------------------------------------------------------------------------------------------


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
