"""The real stages, a Redis whose writes are parked, a small EC2, and processes that die and are restarted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from math import inf
from typing import Any, cast

import msgspec
import redis

from puter_client.contract.key import PuterKey
from puter_client.contract.phase import LIVE, Phase
from puter_client.contract.record import Record
from puter_client.contract.request import CancelRequest, Origin, Request, UpRequest
from puter_client.contract.spec import Spec
from puter_client.store import names as public
from puter_worker.clock import Clock
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.groups import SecurityGroup
from puter_worker.ec2.images import Image
from puter_worker.ec2.keypairs import KeyPair
from puter_worker.errors import StageError
from puter_worker.memory import Memory
from puter_worker.pacer import Budget, Pacer
from puter_worker.rates import MOST_INSTANCES, Rates
from puter_worker.stages.ensure import Ensure
from puter_worker.stages.forgotten import Forgotten
from puter_worker.stages.intake import Intake
from puter_worker.stages.label import LabelWriter
from puter_worker.stages.launch import Launch
from puter_worker.stages.observe import Observe
from puter_worker.stages.quarantine import Quarantine
from puter_worker.stages.resolve import AT_ONCE, Resolve
from puter_worker.stages.restart import Restart
from puter_worker.stages.send import Sender
from puter_worker.store import names
from puter_worker.store.arq_adapter import JOB_PREFIX, LOCK_PREFIX, QUEUE
from puter_worker.store.database import NEEDS_NOTHING
from puter_worker.store.store import Store
from puter_worker.target import Target, TargetId
from puter_worker.timings import Timings
from tests.model.cloud import EPOCH_S, Cloud, unanswered
from tests.model.stepped_redis import SteppedRedis
from tests.model.steps import Call, Fate, Steps

TARGET = TargetId("123456789012", "us-east-1")
KEYS = tuple(PuterKey("ann", tag) for tag in ("a", "b", "c"))
HOSTS = ("one", "two")
PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPx8Tn8wJmVvLq1uwRWhGtg5zT8p7xyk8vJ4k8jVvq3Z me"
# A call to EC2 that was not carried out by then never is.
IN_FLIGHT_S = 5.0
TIMINGS = Timings()
# As long as a launch queue waits for more keys.
GATHERING_S = 0.35


class HandClock(Clock):
    """All clocks of all hosts: the loop's, which is set by hand."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def now(self) -> float:
        return EPOCH_S + self._steps.loop.at

    host_now = now
    monotonic = now


def _store(server: redis.Redis, steps: Steps) -> Store:
    """The workers' store with the model's clock; what it writes is durable at once."""
    store = Store(cast("Any", SteppedRedis(steps, server)), clock=HandClock(steps), timings=TIMINGS)
    store.db.durability = NEEDS_NOTHING
    return store


class _Caller(Caller):
    def __init__(self, steps: Steps, cloud: Cloud) -> None:
        super().__init__(cast("Any", None), profile=None, region=TARGET.region)
        self._steps = steps
        self._cloud = cloud

    async def _made(self, action: str, params: Any) -> dict[str, Any]:
        answer: dict[str, Any] = await self._steps.ask(
            "ec2", action, lambda: self._cloud.call(action, params), unanswered
        )
        return answer


class _Pacer(Pacer):
    """A pacer that permits a fixed number of calls: enough for each key, or so few that keys are launched together."""

    def __init__(self, world: World, clock: Clock) -> None:
        super().__init__(None, rates=Rates(), clock=clock, timings=TIMINGS)
        self._world = world

    async def budget(self) -> Budget:
        return Budget(self._world.calls_now, inf, MOST_INSTANCES, inf)


class _Target(Target):
    """A target whose image, key pair, group and zones are given."""

    async def image(self, **_: Any) -> Image:
        return Image(image_id="ami-1", name="al2023", architecture="x86_64", root_device_name="/dev/xvda")

    async def ssh_users(self, _: Any) -> dict[str, str]:
        return {}

    async def zones(self) -> list[str]:
        return ["us-east-1a", "us-east-1b"]

    async def key_pair(self, *_: Any) -> KeyPair:
        return KeyPair(name="puter-v1", key_pair_id="key-1")

    async def group(self, *_: Any) -> SecurityGroup:
        return SecurityGroup(group_id="sg-1", vpc_id="vpc-1")

    async def vcpus(self, _: str) -> int:
        return 2


class _Targets:
    def __init__(self, target: Target) -> None:
        self._target = target
        self.rules = target.rules

    def offers(self, _profile: str) -> bool:
        return True

    async def reaches(self, _target: TargetId) -> bool:
        return True

    def get(self, _target: TargetId) -> Target:
        return self._target

    async def find(self, _profile: str | None, _region: str | None) -> Target:
        return self._target


@dataclass
class Process:
    """One worker process: what it keeps in memory, which of its stages are at work, and whose turn is next."""

    name: str
    host: str
    target: Target
    gate: Quarantine
    launch: Launch
    observe: Observe
    memory: Memory
    running: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    turn: int = 0


class World:
    """Everything in one example.

    Attributes:
        steps: what is parked.
        cloud: EC2.
        calls_now: how many RunInstances calls the pacer would let through at once.
        only: stages that take turns; none named: all.
        processes: the one that runs on each host.
    """

    def __init__(self, server: redis.Redis) -> None:
        server.flushall()
        self.server: Any = server
        self.steps = Steps()
        self.cloud = Cloud(self.steps.loop)
        self.store = _store(server, self.steps)
        self.calls_now = 1
        self.only: frozenset[str] = frozenset()
        self._memories: dict[str, Memory] = {}
        self._lives = dict.fromkeys(HOSTS, 0)
        self._batches = 0
        self.processes = {host: self._process(host) for host in HOSTS}

    def close(self) -> None:
        """End it."""
        self.steps.close()

    def _process(self, host: str) -> Process:
        self._lives[host] += 1
        store, clock = self.store, self.store.db.clock
        target = _Target(TARGET, _Caller(self.steps, self.cloud), _Pacer(self, clock), TIMINGS, clock=clock)
        memory, name = Memory(None, clock=clock), str(TARGET)
        if host in self._memories and (known := self._memories[host].of(name)) is not None:
            memory.keep(name, known)  # as from the state folder
        self._memories[host] = memory
        gate = Quarantine(store, target, memory, clock=clock, timings=TIMINGS, quarantine_s=10.0)
        launch = Launch(store, target, gate, TIMINGS, most=100)
        observe = Observe(store, target, TIMINGS, quiet_s=25.0, is_end_awaited=lambda: False)
        return Process(f"{host}-{self._lives[host]}", host, target, gate, launch, observe, memory)

    # -- clients ------------------------------------------------------------------------------------------------

    def request(self, *keys: PuterKey) -> None:
        """A client requests machines, as one batch."""
        self._batches += 1
        for key in keys:
            spec = Spec(run=f"echo {key.tag}", region=TARGET.region, public_key=PUBLIC_KEY)
            batch = f"b{self._batches}"
            self._append(
                key, UpRequest(tag=key.tag, spec=spec, size=len(keys), batch=batch, user="ann", origin=Origin.UP)
            )

    def cancel(self, key: PuterKey) -> None:
        """A client cancels the request of a key."""
        self._append(key, CancelRequest(tag=key.tag, user="ann"))

    def _append(self, key: PuterKey, request: Request) -> None:
        self.server.rpush(public.inbox(key.namespace), msgspec.json.encode(request))
        self.server.sadd(public.READY, key.namespace)

    def record(self, key: PuterKey) -> Record | None:
        """A key's record."""
        doc = self.server.hget(public.record(key), "doc")
        return msgspec.json.decode(doc, type=Record) if doc else None

    # -- processes ----------------------------------------------------------------------------------------------

    def stages(self, process: Process) -> dict[str, Callable[[], Coroutine[Any, Any, Any]]]:
        """What a worker's stages do in one run, by name."""
        store, target = self.store, process.target

        async def take_in() -> None:
            await Intake(store, TIMINGS).run_once()
            await store.jobs.feed()

        async def restart() -> None:
            await Restart(store, TIMINGS).run_once()
            await store.jobs.feed()

        async def look_up() -> None:
            for namespace in await store.look_ups.namespaces(str(target)):
                tags = await store.look_ups.due(str(target), namespace, store.now(), AT_ONCE)
                if tags:
                    forgotten = Forgotten(store, cast("Any", _Targets(target)), process.memory)
                    keys = [PuterKey(namespace, tag) for tag in tags]
                    await Resolve(store, target, forgotten, TIMINGS).look_up(namespace, keys)

        async def take_up() -> None:
            if await process.gate.open():
                found = await store.intents.unattended(str(target), store.now())
                await asyncio.gather(*(Sender(store, target, TIMINGS).replay(intent) for intent in found))

        async def remember() -> None:
            shown, known = await store.epochs.read(), process.memory.of(str(target))
            if known is None or not known.contradicts(shown):
                process.memory.saw(str(target), shown)

        return {
            "intake": take_in,
            "remember": remember,
            "restart": restart,
            "ensure": lambda: self._ensure(process),
            "resolve": look_up,
            "launch": process.launch.run_once,
            "replay": take_up,
            "label": LabelWriter(store, target, TIMINGS).write_due,
            "observe": process.observe.run_once,
        }

    async def _ensure(self, process: Process) -> None:
        """arq's part: each job once at a time, under a lock that outlives its worker for a while."""
        ensure = Ensure(self.store, cast("Any", _Targets(process.target)), TIMINGS)
        for raw in self.server.zrange(QUEUE, 0, -1):
            job = raw.decode()
            if not self.server.set(LOCK_PREFIX + job, self.store.now() + TIMINGS.job_lock_s, nx=True):
                continue
            key = PuterKey.parse(job)
            self.server.zrem(names.places(key.namespace), key.tag)
            await ensure.run(key)
            self.server.zrem(QUEUE, job)
            self.server.delete(JOB_PREFIX + job, LOCK_PREFIX + job)

    def work(self, host: str, most: int) -> Call | None:
        """Run a worker until it has made `most` calls, but no further than one turn of each stage.

        Returns the call at which it stands then; None if it has nothing to ask.
        """
        process, begun = self.processes[host], 0
        stages = [item for item in self.stages(process).items() if not self.only or item[0] in self.only]
        while True:
            call = self.steps.oldest(process.name)
            if call is None:
                if begun == len(stages):
                    return None
                self._begin(process, *stages[process.turn % len(stages)])
                process.turn += 1
                begun += 1
            elif most > 0:
                most -= 1
                self.steps.let(call, Fate.WHOLE)
            else:
                return call

    def stand_still(self, host: str, at: str) -> Call | None:
        """Run a worker until it reaches a point of a launch; returns the call at that point.

        `opened`: an intent is stored, and it does not know yet. `sending`: RunInstances is about to be carried out.
        `sent`: it was, and the worker does not know yet. `told`: the same, and it is about to write what came of it.
        """
        for _ in range(60):
            call = self.work(host, 0)
            if call is None:
                return None
            if call.name == "RunInstances":
                if at == "sending":
                    return call
                if at == "sent":
                    self.steps.let(call, Fate.UNSEEN)
                    return call
                self.steps.let(call, Fate.WHOLE)
                if at == "told":
                    return self.steps.oldest(self.processes[host].name)
                continue
            before = self._intents()
            call.take_effect()
            if at == "opened" and self._intents() != before:
                return call
            self.steps.let(call, Fate.WHOLE)
        return None

    def _intents(self) -> list[Any]:
        ids = self.server.zrange(names.due("intents", str(TARGET)), 0, -1)
        return [(raw, self.server.hget(names.intent(raw.decode()), "rev")) for raw in ids]

    def _begin(self, process: Process, name: str, turn: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        running = process.running.get(name)
        if running is not None:
            if not running.done():
                return
            if not running.cancelled() and (error := running.exception()) is not None:
                self._check(error)
        if name == "launch" and self.server.zcard(names.launch_queue(str(TARGET), KEYS[0].namespace)):
            self.let_pass(GATHERING_S)
        process.running[name] = self.steps.start(process.name, turn())

    def _check(self, error: BaseException) -> None:
        """A stage may end with an error of Redis or EC2, but never with an internal error."""
        if not isinstance(error, (*self.store.errors, StageError)):
            raise error

    def crash(self, host: str, *, delivered: bool) -> None:
        """Kill a worker and start a new one in its place; the calls that it had sent are executed, or not."""
        process = self.processes[host]
        for call in self.steps.kill(process.name):
            if delivered:
                call.take_effect()
        self.processes[host] = self._process(host)

    # -- the world ----------------------------------------------------------------------------------------------

    def let_pass(self, seconds: float) -> None:
        """Let time pass; everything that needs time happens meanwhile."""
        loop, until = self.steps.loop, self.steps.loop.at + seconds
        while (due := loop.next_timer()) is not None and due <= until:
            loop.at = max(loop.at, due)
            loop.run_until_quiet()
        loop.at = until
        loop.run_until_quiet()
        for call in list(self.steps.parked):
            if call.what == "ec2" and not call.done and until - call.sent_at > IN_FLIGHT_S:
                self.steps.let(call, Fate.REFUSED)
        self.server.delete(*(names.taking(key.namespace) for key in KEYS))
        for name in self.server.keys(LOCK_PREFIX + "*"):
            if float(self.server.get(name)) < self.store.now():
                self.server.delete(name)

    def lose_redis(self) -> None:
        """Redis comes back empty; calls on their way to EC2 still arrive.

        Each worker had seen how far Redis had got: they look four times a second.
        """
        for process in self.processes.values():
            seen = self.steps.start(process.name, self.stages(process)["remember"]())
            while not seen.done():
                call = next(r for r in self.steps.parked if r.process == process.name and r.name == "pipeline")
                self.steps.let(call, Fate.WHOLE)
        for call in list(self.steps.parked):
            if call.what != "ec2":
                self.steps.let(call, Fate.REFUSED)
        self.server.flushall()

    def heal(self, as_requested: Callable[[], bool], *, patience: int = 120) -> bool:
        """Stop all faults; whether everything becomes as requested after some time."""
        self.cloud.weather.room = None
        self.cloud.weather.permitted = True
        self.only = frozenset()
        for turn in range(patience):
            for host in HOSTS:
                while self.work(host, 1_000) is not None:
                    pass
            if as_requested():
                return True
            self.let_pass(0.5 if turn < 10 else 15.0)
        return False

    def is_granted(self, key: PuterKey) -> bool:
        """Whether a key has its one machine, and its record and its tags say so."""
        record, live = self.record(key), self.cloud.live(key)
        return (
            len(live) == 1
            and record is not None
            and record.phase in LIVE
            and record.instance_id == live[0].id
            and record.intent is None
            and record.labelled
            and live[0].tags.get("puter:tag") == key.tag
        )

    def is_settled(self) -> bool:
        """Whether no request is under way."""
        records = [self.record(key) for key in KEYS]
        under_way = any(r is not None and r.phase in (Phase.QUEUED, Phase.RESOLVING, Phase.LAUNCHING) for r in records)
        return (
            not under_way
            and not self.server.llen(public.inbox("ann"))
            and not self.server.zcard(names.due("intents", str(TARGET)))
        )
