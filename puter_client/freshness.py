"""Why what is known of a machine is not fresher: it is as EC2 last showed it, and no worker reads it now. Pure.

Workers write no reason into each record that they cannot read again. They publish the health of their stages; what is
wrong with the stage that reads a machine's target is what is wrong with its record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from puter_client.contract.health import StageHealth, WorkerHealth
from puter_client.contract.key import shown
from puter_client.contract.phase import LIVE, ON_ITS_WAY
from puter_client.contract.record import Record

_SETTLES_S = 20.0  # a worker that has just started announces the stages of its targets within 10 s


class Absence(NamedTuple):
    """No worker is there, so what is shown is as the last one left it.

    Attributes:
        for_s: since how many seconds; None if that is not known, since the last worker ended in order.
        seen_at: when the last one announced itself, seconds of Redis TIME; None if that is not known.
    """

    for_s: float | None = None
    seen_at: float | None = None


def absence(seen_at: float | None, now: float, silent_after_s: float) -> Absence | None:
    """Whether no worker is there; None if one is.

    Args:
        seen_at: when a worker last announced itself; None if none has, or the last one has ended in order.
        now: Redis TIME.
        silent_after_s: a worker that has announced nothing for so long counts as gone.
    """
    if seen_at is None:
        return Absence()
    return Absence(now - seen_at, seen_at) if now - seen_at > silent_after_s else None


def is_stale(record: Record, now: float, after_s: float) -> bool:
    """Whether a record is older than it would be if a worker looked after its target.

    Args:
        record: with `observed_at` up to date.
        now: Redis TIME.
        after_s: the greatest age of a record that is looked after.
    """
    if record.target is None:
        return False
    if record.phase in LIVE:
        return now - max(record.observed_at or 0.0, record.changed_at) > after_s
    return record.phase in ON_ITS_WAY and now - record.changed_at > after_s


def stage_reason(record: Record, workers: Sequence[WorkerHealth], now: float) -> str | None:
    """What to do, then why no worker has brought a stale record up to date; None if it only waits for its turn."""
    target = record.target or ""
    stages = [stage for worker in workers for stage in worker.stages if stage.name.endswith(f" {target}")]
    if not stages:
        why = _why_not_served(target, workers, now)
    elif record.phase not in LIVE:
        return None  # the stages write into the record what it waits for
    else:
        why = _why_not_observed([stage for stage in stages if stage.name == f"observe {target}"])
    if record.phase not in LIVE:
        return why
    return f"{why} (EC2 last showed it {int(now - (record.observed_at or record.changed_at)) // 60}m ago)"


def _why_not_observed(observe: Sequence[StageHealth]) -> str:
    for stage in observe:
        if stage.last_error_at is not None and stage.last_error_at > (stage.last_success_at or 0.0):
            return stage.last_error or "it cannot be read"
    return "EC2 does not show it any more; what EC2 has not shown for an hour has ended"


def _why_not_served(target: str, workers: Sequence[WorkerHealth], now: float) -> str:
    account, _, rest = target.partition(":")
    region, _, profile = rest.partition(":")
    if not workers:
        return "start a worker: none is running"
    if profile and all(profile not in worker.profiles for worker in workers):
        return f"add AWS profile {shown(profile)} to the AWS config of a worker's host: no running worker has it"
    if now - max(worker.started_at for worker in workers) < _SETTLES_S:
        return "a worker has just started, and will look"
    of = f"AWS profile {shown(profile)}" if profile else "the default AWS profile"
    return (
        f"check which account {of} of the workers belongs to: no running worker reaches account {account} in {region}"
    )
