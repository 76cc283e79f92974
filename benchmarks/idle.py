"""What a worker costs while nothing happens: commands that Redis executes for it, and its CPU time.

One worker process, nobody waiting, buckets on: nothing was ever requested; one machine is live; 1,000 are. Commands
inside scripts count, too; the benchmark's own do not. What the worker does once, at its start and after a launch, is
over before the measurement begins.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
import redis.asyncio

from benchmarks.live import looked_at_all, make
from benchmarks.machine import cpu_s
from benchmarks.result import BenchmarkFailed, Row, times
from benchmarks.rig import Rig, asked
from benchmarks.sizes import Run

WORKERS_TO_MAKE = 2
SETTLE_S = 5.0


class Cost(msgspec.Struct, frozen=True):
    """What was used in a second, on average.

    Attributes:
        commands: of Redis.
        cpu: share of one core; None where that cannot be measured.
    """

    commands: float
    cpu: float | None

    def __str__(self) -> str:
        return f"{self.commands:.1f} commands/s" + ("" if self.cpu is None else f", {self.cpu:.1%} of a core")


# The last version whose worker polled: one process, measured in this way on such a machine.
POLLED_IDLE, POLLED_ONE = Cost(124, 0.09), Cost(679, 0.18)


async def idle(run: Run) -> list[Row]:
    """Commands and CPU time of one worker: with no machine, with one, and with 1,000."""
    n = run.sizes.many
    async with Rig(workers=1) as rig:
        nothing = await _measured(run, rig, "nothing requested")
        await make(rig, asked(1))
        one = await _measured(run, rig, "one machine live")
        run.say(f"{n:,} machines are made first")
        await _make_many(rig, n)
        many = await _measured(run, rig, f"{n:,} machines live")
    return [
        _row("nothing was ever requested", nothing, most=Cost(5, 0.01), polled=POLLED_IDLE),
        _row("one machine is live, nobody waits", one, most=Cost(15, 0.02), polled=POLLED_ONE),
        _row(f"{n:,} machines are live, nobody waits", many, most=Cost(60, 0.1)),
    ]


async def _make_many(rig: Rig, n: int) -> None:
    """Launch without limits; then the buckets are enabled, full, and one worker that respects them takes over."""
    requests = asked(n)
    await rig.stop_workers()
    await rig.sim.control.configure(throttle=False)
    rig.pace = False
    await rig.start_workers(WORKERS_TO_MAKE)
    await make(rig, requests)
    await rig.stop_workers()
    await rig.sim.control.configure(throttle=True)
    rig.pace = True
    await rig.start_workers(1)
    await looked_at_all(rig, requests)


async def _measured(run: Run, rig: Rig, what: str) -> Cost:
    (worker,) = rig.workers
    await asyncio.sleep(SETTLE_S)
    async with redis.asyncio.Redis.from_url(rig.server.url) as look:
        await look.ping()  # connecting takes commands, too
        before, cpu_before, began = await _calls(look), cpu_s(worker.pid), time.monotonic()
        await asyncio.sleep(run.sizes.idle_s)
        took_s = time.monotonic() - began
        after, cpu_after = await _calls(look), cpu_s(worker.pid)
    if worker.returncode is not None:
        raise BenchmarkFailed(f"the worker ended with exit code {worker.returncode}: {rig.log_end()}")
    used = {name: (calls - before.get(name, 0)) / took_s for name, calls in after.items()}
    used["info"] -= 1 / took_s  # the first of ours: a command counts itself when it has ended
    cpu = None if cpu_before is None or cpu_after is None else (cpu_after - cpu_before) / took_s
    cost = Cost(sum(used.values()), cpu)
    most = sorted(used.items(), key=lambda item: -item[1])[:6]
    run.say(f"{what}: {cost}; " + ", ".join(f"{name} {calls:.1f}/s" for name, calls in most))
    return cost


async def _calls(look: redis.asyncio.Redis) -> dict[str, int]:
    """How often each command was executed so far."""
    stats = await look.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(stat["calls"]) for name, stat in stats.items()}


def _row(what: str, cost: Cost, *, most: Cost, polled: Cost | None = None) -> Row:
    assert most.cpu is not None
    return Row(
        work=f"one worker process while {what}",
        measured=str(cost),
        baseline="-" if polled is None else f"{polled.commands:.0f}/s, {polled.cpu:.0%} by the polling worker before",
        ratio="-" if polled is None else times(cost.commands / polled.commands),
        target=f"≤{most.commands:.0f}/s, ≤{most.cpu:.0%}",
        met=cost.commands <= most.commands and (cost.cpu is None or cost.cpu <= most.cpu),
    )
