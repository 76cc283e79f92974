"""300 workloads from a batch file to their results, and the same file again: each runs as often as it should.

Commands and workers are processes; machines run their user data's workloads by the real agent (`real_agents`).
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from puter_client.client import PuterClient
from puter_client.contract.key import PuterKey
from puter_client.contract.record import EventKind
from tests.acceptance.cli_world import ROOT, CliWorld
from tests.acceptance.real_agents import RealAgents, at_work
from tests.ec2sim.client import ControlClient
from tests.ec2sim.reports import Seen
from tests.integration.engine_world import wait_for
from tests.integration.redis_servers import RedisServer
from tests.integration.sim_workshop import CALM, sim_url

__all__ = ["sim_url"]

WORKERS = 2


class Kind(NamedTuple):
    """Workloads that end alike.

    Attributes:
        size: how many there are.
        does: in bash, what each does at its first run, before something is repaired; then it succeeds.
        first: results and exit codes of its runs for the first request, in turn.
        fields: further fields in the batch file.
        fate: of its machines, see RealAgents; `first` in front: of the first one only.
        reason: how it ended, in plain words.
    """

    size: int
    does: str
    first: tuple[tuple[str, int | None], ...]
    fields: str = ""
    fate: str = ""
    reason: str = ""


WAIT = "while :; do read -r -t 1 <> <(:); done"
KINDS = {
    "good": Kind(152, "exit 0", (("succeeded", 0),), reason="workload succeeded"),
    "one": Kind(30, "exit 1", (("failed", 1),), reason="workload failed, exit code 1"),
    "three": Kind(25, "exit 3", (("failed", 3),), reason="workload failed, exit code 3"),
    "missing": Kind(15, "no-such-command", (("failed", 127),), reason="workload failed, exit code 127"),
    "killed": Kind(
        15, "kill -KILL $$", (("failed", 137),), reason="workload failed, exit code 137: ended by signal 9"
    ),
    "most": Kind(15, "exit 255", (("failed", 255),), reason="workload failed, exit code 255"),
    "flaky": Kind(8, "exit 75", (("failed", 75), ("succeeded", 0)), "retry_on: [75]", reason="workload succeeded"),
    "taken": Kind(12, WAIT, (("interrupted", None), ("succeeded", 0)), fate="first taken", reason="workload succeeded"),
    "dies": Kind(8, WAIT, (("lost", None), ("succeeded", 0)), fate="first dies", reason="workload succeeded"),
    "gone": Kind(
        4, WAIT, (("interrupted", None),), "retries: 0", "first taken",
        "workload interrupted: EC2 has taken the Spot machine back",
    ),
    "lost": Kind(
        4, WAIT, (("lost", None),), "retries: 0", "first dies",
        "workload lost: its machine has ended, and its console does not say how the workload did",
    ),
    "stop": Kind(
        12, WAIT, (("stopped", 143),), fate="first watched",
        reason="workload stopped, exit code 143: its owner has ordered it",
    ),
}  # fmt: skip
TAGS = {f"{name}-{n}": kind for name, kind in KINDS.items() for n in range(kind.size)}
SUCCEED = {tag for tag, kind in TAGS.items() if kind.first[-1][0] == "succeeded"}
WORK = """\
echo "begun: $TAG"
[ ! -e "$DESK/repaired" ] && [ ! -e "$DESK/ran/$TAG" ] || exit 0
: >"$DESK/ran/$TAG"
"""


def batch_file(desk: Path) -> str:
    """The batch file: an entry with a matrix for each kind."""
    lines = [
        "defaults:",
        "  docker: false",
        "  retries: 1",
        "  ssh_from: none",
        f"  env: {{DESK: {desk}}}",
        "puters:",
    ]
    for name, kind in KINDS.items():
        lines += [
            f"  - tag: {name}-{{n}}",
            f"    matrix: {{n: {list(range(kind.size))}}}",
            f"    run: bash {desk}/{name}",
            f"    env: {{TAG: '{name}-{{n}}'}}",
            *([f"    {kind.fields}"] if kind.fields else []),
        ]
    return "\n".join([*lines, ""])


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """What the workloads share: their scripts, and what they leave."""
    made = tmp_path / "desk"
    (made / "ran").mkdir(parents=True)
    for name, kind in KINDS.items():
        (made / name).write_text(f"{WORK}{kind.does}\n")
    return made


@pytest.fixture
def world(sim_url: str, valkey: RedisServer, tmp_path: Path) -> Iterator[CliWorld]:
    """A user of a shared Redis with two workers, and of an EC2 that is empty."""

    async def empty() -> None:
        async with ControlClient(sim_url) as sim:
            await sim.reset(CALM)

    asyncio.run(empty())
    made = CliWorld(tmp_path, sim_url)
    made.environ |= {
        "PUTER_REDIS_URL": valkey.url,
        "PUTER_PACE": "on",
        "PUTER_MAX_GROUP": "100",
        "PUTER_QUIET_SWEEP_S": "1",
    }
    log = (tmp_path / "worker.log").open("wb")
    command = [sys.executable, "-m", "tests.acceptance.quick_worker"]
    environ = {**made.environ, "PATH": os.environ["PATH"]}
    workers = [subprocess.Popen(command, env=environ, cwd=ROOT, stderr=log) for _ in range(WORKERS)]
    yield made
    for worker in workers:
        worker.terminate()
    codes = [worker.wait(60) for worker in workers]
    log.close()
    assert codes == [0] * WORKERS


@pytest.fixture
def agents(sim_url: str, world: CliWorld, tmp_path: Path) -> Iterator[RealAgents]:
    """Machines run their workloads."""

    def fate(key: PuterKey, generation: int) -> str:
        when, _, what = TAGS[key.tag].fate.partition(" ")
        return what if when == "first" and generation == 1 else ""

    with at_work(sim_url, tmp_path / "machines", fate) as working:
        yield working


def machines(sim_url: str) -> list[Seen]:
    """All that were ever launched."""

    async def read() -> list[Seen]:
        async with ControlClient(sim_url) as sim:
            return await sim.instances()

    return asyncio.run(read())


def ends_told(server: RedisServer) -> dict[str, Counter[EventKind | None]]:
    """How often each tag's timeline tells that a run has ended."""

    async def read() -> dict[str, Counter[EventKind | None]]:
        async with PuterClient.connect(server.url, namespace="betty") as client:
            told = {tag: await client.events(tag) for tag in TAGS}
        ends = {EventKind.WORKLOAD_FINISHED, EventKind.WORKLOAD_RETRIED}
        return {tag: Counter(event.kind for event in events if event.kind in ends) for tag, events in told.items()}

    return asyncio.run(read())


def wrong_ends(told: dict[str, dict[str, Any]]) -> list[str]:
    """What is not as the table says, of the first request."""
    wrong: list[str] = []
    for tag, kind in TAGS.items():
        one = told[tag]
        runs = [(each["result"], each.get("exit_code")) for each in one["attempts"]]
        runs.append((one["result"], one["exit_code"]))
        if runs != list(kind.first):
            wrong.append(f"{tag}: {runs}, not {kind.first}")
        if one["reason"] != kind.reason:
            wrong.append(f"{tag}: {one['reason']!r}, not {kind.reason!r}")
        if one["exit_code"] is not None and one["log_tail"].splitlines()[0] != f"begun: {tag}":
            wrong.append(f"{tag}: output {one['log_tail']!r}")
        if not one["launched_at"] <= one["finished_at"] <= one["ended_at"]:
            wrong.append(f"{tag}: launched {one['launched_at']} finished {one['finished_at']} ended {one['ended_at']}")
        if (one["phase"], one["generation"]) != ("terminated", len(kind.first)):
            wrong.append(f"{tag}: {one['phase']}, generation {one['generation']}")
    return wrong


def test_300_workloads_from_a_file_to_their_results_and_again(
    world: CliWorld, agents: RealAgents, desk: Path, sim_url: str, valkey: RedisServer
) -> None:
    (desk.parent / "batch.yaml").write_text(batch_file(desk))
    submitted = world.puter("submit", "batch.yaml")
    assert submitted.code == 0, submitted.err
    stops = [tag for tag in TAGS if tag.startswith("stop-")]
    wait_for(lambda: all((desk / "ran" / tag).exists() for tag in stops), "all that are to be stopped to run")
    stopped = world.puter("stop", *stops)
    first = world.puter("wait", "--batch", "last", "--for", "finished", "--json")
    ran_first = Counter({key.tag: count for key, count in agents.ran.items()})
    launched_first = len(machines(sim_url))

    again = world.puter("submit", "batch.yaml", "--wait", "finished", "--json")
    launched_again = len(machines(sim_url))

    (desk / "repaired").touch()
    mended = world.puter("submit", "batch.yaml", "--retry-failed", "--wait", "finished", "--json")

    assert (stopped.code, stopped.out) == (0, "12 ended\n")
    assert first.code == 1
    assert wrong_ends({one["tag"]: one for one in first.objects()}) == []
    assert ran_first == {tag: len(kind.first) for tag, kind in TAGS.items()}
    assert launched_first == sum(len(kind.first) for kind in TAGS.values())

    assert again.code == 1
    assert {one["tag"]: one["outcome"] for one in again.objects()} == {
        tag: "done" if tag in SUCCEED else "skipped" for tag in TAGS
    }
    assert launched_again == launched_first

    assert mended.code == 0, mended.err
    told = {one["tag"]: one for one in mended.objects()}
    assert {tag: one["outcome"] for tag, one in told.items()} == {
        tag: "done" if tag in SUCCEED else "created" for tag in TAGS
    }
    assert {(one["result"], one["exit_code"]) for one in told.values()} == {("succeeded", 0)}
    assert {key.tag: count for key, count in agents.ran.items()} == {
        tag: len(kind.first) + (tag not in SUCCEED) for tag, kind in TAGS.items()
    }
    seen = machines(sim_url)
    assert {one.state for one in seen} == {"terminated"}
    assert len(seen) == launched_first + len(TAGS.keys() - SUCCEED)
    assert ends_told(valkey) == {
        tag: Counter(
            {
                EventKind.WORKLOAD_FINISHED: 1 + (tag not in SUCCEED),
                EventKind.WORKLOAD_RETRIED: len(kind.first) - 1,
            }
        )
        for tag, kind in TAGS.items()
    }
