"""`python -m benchmarks [NAME …]`: runs benchmarks and prints their table; a full run also rewrites README.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from benchmarks import machine
from benchmarks.fair import fairness
from benchmarks.hostile import hostile
from benchmarks.idle import idle
from benchmarks.launches import launch_few, launch_many, launch_spot, unlimited
from benchmarks.live import live_many
from benchmarks.queue import inbox, memory, status
from benchmarks.result import BenchmarkFailed, Row, table
from benchmarks.single import one_up
from benchmarks.sizes import TINY, Run, Sizes
from benchmarks.startup import startup

BENCHMARKS: dict[str, Callable[[Run], Awaitable[list[Row]]]] = {
    "startup": startup,
    "launch-200": launch_few,
    "spot-200": launch_spot,
    "launch-1000": launch_many,
    "live-1000": live_many,
    "unlimited-1000": unlimited,
    "fair": fairness,
    "hostile": hostile,
    "inbox": inbox,
    "one-up": one_up,
    "status-10000": status,
    "memory": memory,
    "idle": idle,
}
README = Path(__file__).with_name("README.md")
_ABOUT = """# Benchmarks

`make bench` runs them all (about 15 minutes) and renews this page; `python -m benchmarks NAME …` runs some of
{names} and prints their lines.

EC2 is the simulator of `tests/ec2sim`, a process of its own on the same machine, with the token buckets that AWS
publishes, at true speed, answering at once; Redis is the embedded Valkey with `appendfsync always`; workers are
processes. The baseline is `benchmarks/baseline.py`, run against the same simulator: boto3, 16 threads, `adaptive`
retries with 20 attempts, one look and one launch a tag. The clock starts before the first request is in Redis, with
nothing cached: image, key pair and security group are found or made within the time. Each run has a rig of its own.
Of several runs the median is given, with the lowest and highest.

"""


def main() -> int:
    """Read the options, run, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(BENCHMARKS)}; none is all")
    parser.add_argument("-q", "--quiet", action="store_true", help="print the table alone")
    parser.add_argument("--tiny", action="store_true", help="only see whether they run: a few tags, no README.md")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in BENCHMARKS]:
        parser.error(f"no benchmark {unknown[0]!r}: known are {', '.join(BENCHMARKS)}")
    names = options.names or list(BENCHMARKS)
    began = time.monotonic()

    def say(line: str) -> None:
        if not options.quiet:
            print(f"{time.monotonic() - began:6.1f} s  {line}", file=sys.stderr, flush=True)

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # for stages that run in this process
    try:
        rows, others = asyncio.run(_run_all(names, Run(TINY if options.tiny else Sizes(), say)))
    except BenchmarkFailed as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    told = table(rows)
    print(told + "\n" + _noise(others), end="")
    if not options.tiny and not options.names:
        facts = "\n".join(f"* {name}: {value}" for name, value in machine.described())
        README.write_text(_ABOUT.format(names=", ".join(f"`{name}`" for name in BENCHMARKS))
                          + f"{facts}\n\n{told}\n{_noise(others)}")  # fmt: skip
        say(f"{README} is renewed")
    return 0 if options.tiny or all(row.met is not False for row in rows) else 1


async def _run_all(names: list[str], run: Run) -> tuple[list[Row], dict[str, float]]:
    rows: list[Row] = []
    shares: dict[str, float] = {}
    for name in names:
        run.say(f"{name} …")
        with machine.Others() as others:
            rows += await BENCHMARKS[name](run)
        if others.share is not None:
            shares[name] = others.share
            run.say(f"{name}: others used {others.share:.0%} of the CPUs meanwhile")
    return rows, shares


def _noise(others: dict[str, float]) -> str:
    if not others:
        return ""
    told = ", ".join(f"{name} {share:.0%}" for name, share in others.items())
    load = f"load {os.getloadavg()[1]:.1f} over the last 5 minutes"
    return f"Of the CPUs other processes (and the host) took meanwhile: {told}; {load}, these runs included.\n"


if __name__ == "__main__":
    sys.exit(main())
