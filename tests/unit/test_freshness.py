"""Why what is known of a machine is not fresher."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from puter_client.contract.health import StageHealth, WorkerHealth
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.freshness import Absence, absence, is_stale, stage_reason
from puter_worker.clock import Clock
from puter_worker.errors import CredentialsError
from puter_worker.runner import Runner
from puter_worker.stages.stage import Stage
from puter_worker.store.wakeups import Wakeups
from puter_worker.target import TargetId
from puter_worker.timings import Timings

NOW = 1_800_000_000.0
TARGET = TargetId("123456789012", "eu-west-1", "lab")
AFTER_S = 60.0


def record(phase: Phase = Phase.RUNNING, age_s: float = 300.0, **changes: Any) -> Record:
    """A record that was last changed, and its machine last seen, so long ago."""
    at = NOW - age_s
    fields = {"created_at": at, "changed_at": at, "observed_at": at, "target": str(TARGET), **changes}
    return Record(namespace="betty", tag="one", phase=phase, **fields)


def worker(*stages: StageHealth, profiles: tuple[str, ...] = ("lab",), started_s: float = 3_600.0) -> WorkerHealth:
    return WorkerHealth(
        worker_id="h:1:a", host="h", pid=1, version="1", started_at=NOW - started_s, seen_at=NOW,
        profiles=profiles, stages=stages,
    )  # fmt: skip


def stage(name: str = "observe", *, success_s: float | None = 5.0, error_s: float | None = None) -> StageHealth:
    return StageHealth(
        name=f"{name} {TARGET}",
        last_success_at=None if success_s is None else NOW - success_s,
        last_error_at=None if error_s is None else NOW - error_s,
        last_error=None if error_s is None else "CredentialsError: sign in",
    )


@pytest.mark.parametrize(
    ("known", "stale"),
    [
        (record(), True),
        (record(age_s=59.0), False),
        (record(observed_at=NOW - 10), False),
        (record(changed_at=NOW - 10), False),
        (record(observed_at=None), True),
        (record(Phase.PENDING), True),
        (record(Phase.LAUNCHING), True),
        (record(Phase.RESOLVING), True),
        (record(Phase.QUEUED, target=None), False),
        (record(Phase.TERMINATED), False),
        (record(Phase.FAILED), False),
    ],
)
def test_what_a_worker_would_have_read_by_now_is_stale(known: Record, stale: bool) -> None:
    assert is_stale(known, NOW, AFTER_S) is stale


GONE = "add AWS profile 'lab' to the AWS config of a worker's host: no running worker has it"
MOVED = (
    "check which account AWS profile 'lab' of the workers belongs to: no running worker reaches account 123456789012 "
    "in eu-west-1"
)


@pytest.mark.parametrize(
    ("workers", "why"),
    [
        ([], "start a worker: none is running"),
        ([worker(profiles=())], GONE),
        ([worker(profiles=()), worker(profiles=("art",))], GONE),
        ([worker(), worker(profiles=())], MOVED),
        ([worker(started_s=5.0)], "a worker has just started, and will look"),
        ([worker(stage(success_s=300.0, error_s=3.0))], "CredentialsError: sign in"),
        ([worker(stage(success_s=None, error_s=3.0))], "CredentialsError: sign in"),
        ([worker(stage(success_s=3.0, error_s=300.0))], "EC2 does not show it any more"),
        ([worker(stage("launch", success_s=300.0, error_s=3.0), stage())], "EC2 does not show it any more"),
    ],
)
def test_a_machine_is_told_with_when_it_was_last_seen_and_why_not_since(workers: list[WorkerHealth], why: str) -> None:
    told = stage_reason(record(), workers, NOW)

    assert told is not None
    assert told.startswith(why)
    assert told.endswith(" (EC2 last showed it 5m ago)")


def test_the_default_profile_is_named_so() -> None:
    known = record(target=str(TargetId("123456789012", "eu-west-1")))

    assert "which account the default AWS profile of the workers belongs to" in str(
        stage_reason(known, [worker()], NOW)
    )


@pytest.mark.parametrize("phase", [Phase.RESOLVING, Phase.LAUNCHING])
def test_a_request_whose_profile_is_gone_on_its_way_is_told_why_nothing_happens(phase: Phase) -> None:
    assert stage_reason(record(phase), [worker(profiles=())], NOW) == GONE
    assert stage_reason(record(phase), [worker(stage("launch", error_s=3.0))], NOW) is None  # its record says it


@pytest.mark.parametrize(
    ("seen_s", "told"),
    [
        (0.0, None),
        (30.0, None),
        (-5.0, None),  # the clock of Redis's host was set back
        (40.0, Absence(40.0, NOW - 40)),
        (None, Absence()),
    ],
)
def test_no_worker_is_there_when_none_has_announced_itself_for_30_s(seen_s: float | None, told: Absence | None) -> None:
    assert absence(None if seen_s is None else NOW - seen_s, NOW, 30.0) == told


class Failing(Stage):
    name = "observe"

    async def run_once(self) -> float:
        self.ran.set()
        raise CredentialsError("sign in")

    def __init__(self) -> None:
        super().__init__()
        self.ran = asyncio.Event()


async def test_a_stage_is_found_by_the_name_that_a_worker_gives_it() -> None:
    runner, failing = Runner(Wakeups.__new__(Wakeups), clock=Clock(), timings=Timings()), Failing()
    runner.start([failing], where=str(TARGET))
    await failing.ran.wait()
    health = runner.health()
    await runner.stop([failing])

    assert "CredentialsError: sign in" in str(stage_reason(record(), [worker(*health)], NOW))
