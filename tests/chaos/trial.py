"""One run of chaos, from the first request to the verdict."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import redis

from puter_client.contract.key import PuterKey
from puter_worker.store import names
from tests.agents import Agents, running
from tests.chaos.clients import Clients
from tests.chaos.crew import Crew, worker_environ
from tests.chaos.finding import Finding
from tests.chaos.plan import NAMESPACES, Plan, bad_day
from tests.chaos.report import report, shares, words_of
from tests.chaos.verdict import TARGET, for_good, judge, left_to_do
from tests.chaos.workloads import Ends, fate_of
from tests.ec2sim.process import SimProcess
from tests.integration.redis_servers import RedisServer, running_server, server_binaries

LOOK_EVERY_S = 0.5
TTL_EVERY_S = 1.5
REDIS_AWAY_S = (0.0, 1.5)
# Past every lease, with the workers' hurry.
FROZEN_S = (11.0, 16.0)
# By how much a clock is set, at most: a wrong time zone, or a battery that was empty.
STEP_S = 12 * 3_600.0
LOG_LINES = 40


class Trial:
    """One seeded run.

    Attributes:
        seed: of all dice; processes and the network add their own.
        plan: how much of what.
        told: lines about how it went, for people.
    """

    def __init__(self, seed: int, plan: Plan, folder: Path) -> None:
        self.seed = seed
        self.plan = plan
        self._folder = folder
        self._dice = random.Random(seed)
        self._for_good: set[bytes] = set()
        self._looks = 0
        self.told: list[str] = []
        keys = [PuterKey(NAMESPACES[n % len(NAMESPACES)], f"k-{n}") for n in range(plan.keys)]
        self.fates = {key: fate_of(key.tag) for key in keys}

    async def run(self) -> str | None:
        """Run the trial; None if everything holds, else the findings and what is known about them."""
        with running_server(server_binaries()["valkey"]) as server:
            async with SimProcess(bad_day(self.seed, self.plan.speed)) as sim:
                environ = worker_environ(sim.environment, server.url, self._folder / "home")
                crew = Crew(environ, self._folder, size=self.plan.workers, speed=self.plan.speed, hurry=self.plan.hurry)
                try:
                    return await self._run(server, sim, crew)
                finally:
                    crew.abandon()

    async def _run(self, server: RedisServer, sim: SimProcess, crew: Crew) -> str | None:
        began = time.monotonic()
        keys, dice = list(self.fates), random.Random(self._dice.random())
        clients = Clients(server.url, keys, dice, self.plan.trouble_s / 2)
        ends = Ends(random.Random(self._dice.random()))
        agents = Agents(sim.control, lambda one: ends(one, time.time()))
        await crew.fill()
        with server.client() as client:
            async with self._watching_ttls(server), running(agents, look_every_s=LOOK_EVERY_S):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._request(clients))
                    group.create_task(self._kill_workers(server, crew))
                    group.create_task(self._freeze_workers(crew))
                    group.create_task(self._kill_redis(server, crew))
                    group.create_task(self._set_clocks(crew))
                await crew.thaw_all()
                healing = time.monotonic()
                left = await self._healed(client, crew)
            codes = await crew.end()
            findings = [Finding(f"not in time: {what}") for what in left]
            findings += [Finding(f"worker {pid} ended with {code}") for pid, code in codes.items() if code]
            instances, ledger = await sim.control.instances(), await sim.control.ledger()
            findings += [Finding(f"{key!r} had no TTL during the run") for key in sorted(self._for_good)]
            if not self._looks:
                findings.append(Finding("nobody looked whether all keys have a TTL during the run"))
            findings += judge(
                client,
                self.fates,
                clients.acknowledged,
                instances,
                ledger,
                ended=agents.ended,
                expires_at=clients.expires_at,
            )
            results = Counter(end.result.value for end in agents.ended.values())
            self._tell("ends: " + ", ".join(f"{count} {result}" for result, count in sorted(results.items())))
            self._tell(f"{sum(s.holding for s in instances)} live instances of {len(instances)} launched")
            self._tell(f"{sum(e.action == 'RunInstances' for e in ledger)} RunInstances of {len(ledger)} calls")
            self._tell(shares(ledger))
            self._tell(f"{self._looks} looks for keys without TTL")
            self._tell(
                f"{crew.killed} workers killed, {crew.stalled} frozen, Redis killed {self.plan.redis_kills} times"
            )
            self._tell(f"clocks set {crew.clocks_set} times; {sum(s.spot for s in instances)} Spot instances")
            self._tell(
                f"healed {time.monotonic() - healing:.0f} s after the trouble, {time.monotonic() - began:.0f} s in all"
            )
            if not findings:
                return None
            words = words_of(client, findings, instances)
            logs = "\n".join([*crew.history[-30:], crew.tails(LOG_LINES, words), crew.tails(5)])
            return report(client, findings, instances, ledger, logs)

    def _tell(self, line: str) -> None:
        self.told.append(line)

    async def _request(self, clients: Clients) -> None:
        await clients.submit_all()
        with suppress(TimeoutError):  # the verdict finds what was not ordered
            await asyncio.wait_for(clients.order_all(), self.plan.heal_s)

    # -- trouble ------------------------------------------------------------------------------------------------

    async def _kill_workers(self, server: RedisServer, crew: Crew) -> None:
        """Kill workers again and again; every other time the leader of the target, which has most work."""
        ends = time.monotonic() + self.plan.trouble_s
        while time.monotonic() < ends:
            await asyncio.sleep(self.plan.kill_every_s * self._dice.uniform(0.5, 1.5))
            await crew.fill()
            victim = self._dice.choice(crew.pids)
            if self._dice.random() < 0.5:
                victim = self._leader(server) or victim
            await crew.kill(victim)

    @staticmethod
    def _leader(server: RedisServer) -> int | None:
        with server.client() as client:
            try:
                holder = client.get(names.lease(TARGET))
            except redis.RedisError:
                return None
        return int(holder.decode().split(":")[1]) if holder else None

    async def _freeze_workers(self, crew: Crew) -> None:
        ends = time.monotonic() + self.plan.trouble_s
        while time.monotonic() < ends:
            await asyncio.sleep(self.plan.freeze_every_s * self._dice.uniform(0.5, 1.5))
            if pids := crew.pids:
                crew.freeze(self._dice.choice(pids), self._dice.uniform(*FROZEN_S) / self.plan.hurry)

    async def _kill_redis(self, server: RedisServer, crew: Crew) -> None:
        moments = sorted(self._dice.uniform(0.2, 0.9) * self.plan.trouble_s for _ in range(self.plan.redis_kills))
        began = time.monotonic()
        for moment in moments:
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            away_s = self._dice.uniform(*REDIS_AWAY_S)
            crew.history.append(f"Redis killed for {away_s:.1f} s")
            server.kill()
            await asyncio.sleep(away_s)
            server.start()

    async def _set_clocks(self, crew: Crew) -> None:
        """Set clocks by hours, forwards and backwards: Redis's, the workers', or both."""
        moments = sorted(self._dice.uniform(0.1, 0.9) * self.plan.trouble_s for _ in range(self.plan.clock_steps))
        began = time.monotonic()
        for moment in moments:
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            redis_s, host_s = (self._dice.choice((0.0, 1.0)) * self._dice.uniform(-STEP_S, STEP_S) for _ in range(2))
            crew.set_clocks(redis_s or host_s, host_s)

    # -- watching -----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _watching_ttls(self, server: RedisServer) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch_ttls(server))
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _watch_ttls(self, server: RedisServer) -> None:
        """From time to time, look for keys in Redis that would never expire if a worker was killed now."""
        while True:
            await asyncio.sleep(TTL_EVERY_S)
            try:
                self._for_good.update(await asyncio.to_thread(_look_for_good, server))
            except redis.RedisError:
                continue  # it is being killed
            self._looks += 1

    # -- healing ------------------------------------------------------------------------------------------------

    async def _healed(self, client: redis.Redis, crew: Crew) -> list[str]:
        """Wait until nothing is left to do; returns what is left if that took too long."""
        deadline = time.monotonic() + self.plan.heal_s
        while left := left_to_do(client, self.fates):
            if time.monotonic() > deadline:
                return left
            await crew.fill()
            await asyncio.sleep(LOOK_EVERY_S)
        return []


def _look_for_good(server: RedisServer) -> list[bytes]:
    with server.client() as client:
        return for_good(client)
