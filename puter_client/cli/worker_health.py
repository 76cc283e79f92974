"""`puter worker --health`: whether the workers of this host work, for people, containers and supervisors.

A worker is found by the name of its host in what it publishes; a container has a name of its own. What was published
is not trusted.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from puter_client.cli.terminal import columns, out, out_json, plain
from puter_client.cli.when import rough_duration
from puter_client.cli.worker_stages import LONGEST_AGO_S, MOST_STAGES, stage_name, stage_table, to_json, warnings
from puter_client.contract.errors import StoreUnavailable
from puter_client.contract.health import StageHealth, WorkerHealth
from puter_client.timings import DEFAULT_TIMINGS, ClientTimings

HEALTHY, NOT_HEALTHY = 0, 1
_INDENT = "  "


async def show_health(url: str, named_by: str, *, as_json: bool, timings: ClientTimings = DEFAULT_TIMINGS) -> int:
    """Print each worker of this host with its stages; returns the exit code.

    `url`: the workers' Redis; `named_by`: the setting that holds it.
    """
    from puter_client.store.clientstore import ClientStore

    host = socket.gethostname()
    store = ClientStore.connect(url, url_from=named_by)
    try:
        workers, now = await store.workers(), await store.now()
    except StoreUnavailable as error:
        _tell(f"not healthy: {error}", {"healthy": False, "problems": [str(error)]}, as_json=as_json)
        return NOT_HEALTHY
    finally:
        await store.aclose()
    ours = of_host(workers, host, now, timings, runs=_runs)
    if not ours:
        problem = f"no worker of this host ({plain(host)}) reports to this Redis"
        _tell(f"not healthy: {problem}", {"healthy": False, "problems": [problem]}, as_json=as_json)
        return NOT_HEALTHY
    healthy = True
    for worker in ours:
        problems = problems_of(worker, now, timings)
        healthy = healthy and not problems
        _tell(
            "\n".join(lines(worker, problems, now, columns())),
            {**to_json(worker), "healthy": not problems, "problems": problems},
            as_json=as_json,
        )
    return HEALTHY if healthy else NOT_HEALTHY


def of_host(
    workers: Sequence[WorkerHealth], host: str, now: float, timings: ClientTimings, *, runs: Callable[[int], bool]
) -> list[WorkerHealth]:
    """The workers of a host. Pure, but for `runs`, which tells whether this host has a process with this id.

    A worker that was killed is still published for 30 s: one that is silent, and whose process is gone, is none.
    """
    return [
        worker
        for worker in workers
        if worker.host == host and (now - worker.seen_at <= timings.worker_gone_after_s or runs(worker.pid))
    ]


def problems_of(worker: WorkerHealth, now: float, timings: ClientTimings) -> list[str]:
    """Why a worker is not healthy; empty if it is. Pure."""
    problems = []
    silent_s = now - worker.seen_at
    if silent_s > timings.worker_gone_after_s:
        problems.append(f"it has not reported for {_for(silent_s)}")
    for stage in worker.stages[:MOST_STAGES]:
        runs_s = running_for_s(stage, now)
        if runs_s > timings.stage_hangs_after_s:
            problems.append(f"stage {stage_name(stage)} has been running for {_for(runs_s)}")
    return [*problems, *warnings([worker], now, timings.stage_failing_after_s)]


def running_for_s(stage: StageHealth, now: float) -> float:
    """For how many seconds a run of a stage has been going on; 0 if none is. Pure."""
    ended_at = max(stage.last_success_at or 0.0, stage.last_error_at or 0.0)
    return 0.0 if stage.began_at is None or stage.began_at <= ended_at else now - stage.began_at


def lines(worker: WorkerHealth, problems: Sequence[str], now: float, width: int | None = None) -> list[str]:
    """One worker with its problems, and when each of its stages last succeeded and failed. Pure.

    `width`: of the terminal; None is no limit.
    """
    name = plain(worker.worker_id)
    if problems:
        return [f"{name} not healthy: {'; '.join(problems)}", *_stages(worker, now, width)]
    draining = " (draining)" if worker.draining else ""
    if not worker.stages:
        return [f"{name} healthy{draining}: it has just started"]
    return [f"{name} healthy{draining}", *_stages(worker, now, width)]


def _stages(worker: WorkerHealth, now: float, width: int | None) -> list[str]:
    if not worker.stages:
        return []
    rows = stage_table(worker, now, None if width is None else max(1, width - len(_INDENT)))
    return [_INDENT + row.text for row in rows]


def _for(seconds: float) -> str:
    return rough_duration(min(seconds, LONGEST_AGO_S))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        return True
    return pid > 0


def _tell(text: str, fields: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        out_json(fields)
    else:
        out(text)
