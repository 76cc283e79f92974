"""What a hostile user does, beside another namespace's single requests: how long these wait, and what it costs.

One worker, and a shared Redis with the settings of `deploy/` and users as `puter admin user` adds them. Each attack has
an idle host of its own; the single requests are sent while it goes on.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import sys
import tempfile
import threading
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec
import redis

from benchmarks.result import BenchmarkFailed, Row
from benchmarks.rig import ROOT, SPEC, until
from benchmarks.sizes import Run
from puter_client.acl.rules import Role
from puter_client.client import MachineRequest, PuterClient
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.regions import REGIONS
from puter_client.contract.request import MAX_REQUEST_BYTES
from puter_client.store import names
from puter_client.view import WaitFor
from tests.ec2sim.process import SimProcess
from tests.hostile.requests import hostile_requests, up
from tests.hostile.sizes import SEED
from tests.integration.redis_servers import server_binaries
from tests.integration.shared_host import SharedHost, shared_host

AFTER_S = (0.3, 2.0, 5.0)
TAKEN_S, LATER_S = 1.0, 2.0
INBOX = "mallory:mallory"
PATIENCE_S = 120.0


class Attack(NamedTuple):
    """One attack.

    Attributes:
        what: in the table.
        before: what it did before it was stopped.
        does: attacks through Mallory's connection until the event is set, or until it has done all.
    """

    what: str
    before: str
    does: Callable[[redis.Redis, int, threading.Event], None]


def _append(mallory: redis.Redis, requests: list[bytes]) -> None:
    with mallory.pipeline(transaction=True) as pipe:
        pipe.rpush(names.inbox(INBOX), *requests)
        pipe.sadd(names.READY, INBOX)
        pipe.publish(names.READY, "")
        pipe.execute()


def _names(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    for start in range(0, many, 1_000):
        mallory.sadd(names.READY, *(f"n{start + number}" for number in range(1_000)))


def _no_names(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    for start in range(0, many, 1_000):
        mallory.sadd(names.READY, *(f"../{start + number}{'x' * 100}" for number in range(1_000)))


def _requests(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    flood = hostile_requests(SEED)
    for _ in range(0, many // 10, 100):
        for request in islice(flood, 100):
            _append(mallory, [request])


def _large(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    for _ in range(many // 250):
        _append(mallory, [b"x" * (MAX_REQUEST_BYTES + 1)])


def _orders(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    kinds = ("cancel", "stop", "extend", "console")
    for start in range(0, many // 2, 1_000):
        _append(mallory, [
            b'{"type":"%s","tag":"t-%d","user":"m"}' % (kinds[number % 4].encode(), number)
            for number in range(start, start + 1_000)
        ])  # fmt: skip


def _regions(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    dice = random.Random(SEED)
    known = sorted(REGIONS)
    made_up = [f"us-made-{number}" for number in range(many // 250)]
    _append(mallory, [up(dice, {"region": region}, tag=f"r-{n}") for n, region in enumerate([*made_up, *known])])


def _messages(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    while not stop.is_set():
        with mallory.pipeline(transaction=False) as pipe:
            for _ in range(100):
                pipe.publish(names.READY, "")
            pipe.execute()


def _fills(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    request = b"x" * 400_000
    mallory.sadd(names.READY, INBOX)
    while not stop.is_set():
        with suppress(redis.OutOfMemoryError):
            mallory.rpush(names.inbox(INBOX), request, request)


def _connections(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    path = str(mallory.connection_pool.connection_kwargs["path"])
    opened = [socket.socket(socket.AF_UNIX) for _ in range(many // 100)]
    for one in opened:
        with suppress(OSError):
            one.connect(path)
    stop.wait()
    for one in opened:
        one.close()


def _reader(mallory: redis.Redis, many: int, stop: threading.Event) -> None:
    words = mallory.connection_pool.connection_kwargs
    batch = names.batch("mallory", "b-1")
    while not stop.is_set():
        with socket.socket(socket.AF_UNIX) as reader, suppress(OSError):
            reader.connect(str(words["path"]))
            reader.sendall(f"AUTH {words['username']} {words['password']}\r\n".encode())
            while not stop.is_set():
                reader.sendall(f"HGETALL {batch}\r\n".encode() * 50)


ATTACKS = (
    Attack("100,000 names without requests in the ready set", "not served in 240 s", _names),
    Attack("100,000 names that are none", "97 s, 38 MB of log", _no_names),
    Attack("10,000 hostile requests, of all kinds", "0.6 s of the loop for one", _requests),
    Attack("400 requests that are too large", "15 s, 3 GB", _large),
    Attack("50,000 orders for tags that nobody has", "-", _orders),
    Attack("400 regions that are none, and all that are", "21 s, 330 MB", _regions),
    Attack("messages without end", "-", _messages),
    Attack("an inbox that is filled until Redis is full, again and again", "all writes refused", _fills),
    Attack("1,000 connections", "-", _connections),
    Attack("readers of a large batch that do not read", "all writes refused", _reader),
)


async def hostile(run: Run) -> list[Row]:
    """A row for each attack."""
    return [await _beside(attack, run) for attack in ATTACKS[: run.sizes.attacks]]


class _Host(NamedTuple):
    host: SharedHost
    worker: str
    betty: str
    mallory: str
    log: Path

    def memory(self) -> int:
        with redis.Redis.from_url(self.worker) as client:
            return int(client.info("memory")["used_memory"])


async def _beside(attack: Attack, run: Run) -> Row:
    async with _running() as at, PuterClient.connect(at.betty, namespace="betty") as betty:
        with redis.Redis.from_url(at.worker) as behind:
            for start in range(0, run.sizes.flood // 10, 1_000):
                rows = {f"t-{start + number}": b"x" * 1_000 for number in range(1_000)}
                behind.hset(names.batch("mallory", "b-1"), mapping=rows)
        await _one(betty, "first")
        _, idle_s = await _one(betty, "idle")
        before, stop, peak = at.memory(), threading.Event(), 0
        flood = asyncio.create_task(asyncio.to_thread(_attacks, attack, at, run.sizes.flood, stop))
        try:
            waits: list[tuple[float, float]] = []
            began = time.monotonic()
            for after_s in AFTER_S[: run.sizes.repeats]:
                await asyncio.sleep(max(0.0, began + after_s - time.monotonic()))
                waits.append(await _one(betty, f"one-{len(waits)}"))
                peak = max(peak, at.memory())
                run.say(f"{attack.what}: after {after_s:g} s taken {waits[-1][0]:.2f} s, launched {waits[-1][1]:.2f} s")
        finally:
            stop.set()
            await flood
        log = at.log.stat().st_size
    taken_s, launched_s = max(taken for taken, _ in waits), max(launched for _, launched in waits)
    return Row(
        work=f"beside {attack.what}: a single request of another namespace, {len(waits)} times",
        measured=f"taken ≤{taken_s:.2f} s, launched ≤{launched_s:.2f} s (idle {idle_s:.2f} s); "
        f"{(peak - before) / 1e6:+,.0f} MB, log {log / 1e3:,.0f} KB",
        baseline=f"{attack.before} (measured before it was stopped)" if attack.before != "-" else "-",
        target=f"taken ≤{TAKEN_S:g} s, launched ≤{LATER_S:g} s later than idle",
        met=taken_s <= TAKEN_S and launched_s <= idle_s + LATER_S,
    )


def _attacks(attack: Attack, at: _Host, many: int, stop: threading.Event) -> None:
    with redis.Redis.from_url(at.mallory) as mallory, suppress(redis.OutOfMemoryError):
        attack.does(mallory, many, stop)


async def _one(client: PuterClient, tag: str) -> tuple[float, float]:
    """Seconds until a request was taken, and until its machine was launched; it is sent again while Redis is full."""
    began = time.monotonic()
    request = MachineRequest(tag, msgspec.structs.replace(SPEC, region="us-east-1"))
    batch_id = await _submitted(client, request)

    async def taken() -> bool:
        (view,) = await client.views([tag])
        return view.record is not None

    await until(taken, PATIENCE_S, f"{tag} was not taken")
    taken_s = time.monotonic() - began
    await client.wait(batch_id=batch_id, tags=[tag], wait=WaitFor.LAUNCHED, timeout_s=PATIENCE_S)
    return taken_s, time.monotonic() - began


async def _submitted(client: PuterClient, request: MachineRequest) -> str:
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await client.submit([request])
        except StoreUnavailable:
            if time.monotonic() > until_s:
                raise
            await asyncio.sleep(0.02)


@asynccontextmanager
async def _running() -> AsyncIterator[_Host]:
    """A simulated EC2, a shared Redis with its users, and one worker."""
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="puter-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        sim = await stack.enter_async_context(SimProcess())
        host = stack.enter_context(shared_host(folder, server_binaries()["valkey"]))
        await host.add("admin", Role.ADMIN)
        worker = (await host.add("worker", Role.WORKER)).url
        at = _Host(host, worker, (await host.add("betty")).url, (await host.add("mallory")).url, folder / "log.worker")
        host.start()
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        environ = {**kept, **sim.environment, "HOME": str(folder), "PUTER_HOME": str(folder / "puter")}
        with at.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "puter_worker", env={**environ, "PUTER_REDIS_URL": worker}, cwd=ROOT,
                stdin=DEVNULL, stderr=log,
            )  # fmt: skip
        stack.push_async_callback(_ended, process)
        async with PuterClient.connect(worker, namespace="betty") as client:

            async def there() -> bool:
                if process.returncode is not None:
                    raise BenchmarkFailed(f"the worker ended: {at.log.read_text()[-2_000:]}")
                return bool(await client.workers())

            await until(there, PATIENCE_S, "the worker does not take requests")
        yield at


async def _ended(worker: Process) -> None:
    if worker.returncode is None:
        worker.kill()
    await worker.wait()
