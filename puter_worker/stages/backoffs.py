"""Backoffs: after refusals for capacity or quota, how much may be launched, and when. Pure.

After a refusal for capacity, a place is not tried for a while, then with one machine, then with twice as many after
each success: a refused group costs as many tokens of the instance bucket as it has members. The room under a quota is
searched from above: a refused group is halved down to one machine; if that one is refused too, the family waits until
a machine of the target ends or a minute has passed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from puter_worker.rates import MOST_INSTANCES
from puter_worker.store.backoff import Backoff
from puter_worker.store.intent import Place
from puter_worker.timings import Timings

# No backoff: the largest number of machines that any launch may have.
FREE = MOST_INSTANCES
CAPACITY_PREFIX = "capacity/"
QUOTA_PREFIX = "quota/"

# The families that share one vCPU quota, by the letters that a type begins with. Source: "Amazon EC2 service quotas" in
# AWS's general reference. Letters that are not listed are a family of their own.
_STANDARD = "acdhimrtz"
_FAMILIES = {
    "g": "G and VT",
    "vt": "G and VT",
    "p": "P",
    "x": "X",
    "f": "F",
    "inf": "Inf",
    "trn": "Trn",
    "dl": "DL",
    "hpc": "HPC",
}


class Choice(msgspec.Struct, frozen=True):
    """A place and how many machines may be launched there at once, or how long to wait.

    Attributes:
        place: None if no place may be tried now.
        most: the largest number of machines at once.
        wait_s: seconds until the first place may be tried.
        why: the reason of the longest backoff of that place, in plain words.
        quota: whether that backoff is a quota's.
        dry_since: since when EC2 has had no capacity in any place; None: it has capacity, or this is not known.
    """

    place: Place | None
    most: int = FREE
    wait_s: float = 0.0
    why: str = ""
    quota: bool = False
    dry_since: float | None = None


def capacity_name(place: Place) -> str:
    """The name of a place's backoff."""
    return f"{CAPACITY_PREFIX}{place.instance_type}/{place.subnet or place.zone or '*'}"


def quota_family(instance_type: str, *, spot: bool) -> str:
    """The family of types that share a type's quota, as AWS names it."""
    letters = re.match(r"[a-z]*", instance_type)[0]  # type: ignore[index]  # it matches the empty text too
    name = _FAMILIES.get(letters) or ("standard" if letters[:1] in _STANDARD else letters)
    return f"{'spot ' if spot else ''}{name}"


def quota_name(instance_type: str, *, spot: bool) -> str:
    """The name of the backoff for the quota that a type counts against."""
    return f"{QUOTA_PREFIX}{quota_family(instance_type, spot=spot)}"


def quota_reached(code: str, family: str) -> str:
    """What a code of EC2's means for the quota of a family (see `quota_family`), in plain words."""
    of = "" if family == "standard" else f" of {family} types"
    match code:
        case "VcpuLimitExceeded":
            return f"vCPU quota{of} reached"
        case "InstanceLimitExceeded":
            return f"instance quota{of} reached"
        case "MaxSpotInstanceCountExceeded":
            return "Spot quota reached"
        case "PendingVerification":
            return "AWS is still verifying the account"
        case _:
            return f"EC2 limit reached ({code})"


def places(types: Sequence[str], zones: Sequence[str], subnets: Sequence[str]) -> list[Place]:
    """The places where machines may be launched, in the order in which they are tried.

    Types come in the request's order. For each type come the subnets that the request names; if it names none, first a
    place without a zone (EC2 chooses), then each zone by itself: EC2 does not try every zone when it chooses.
    """
    if subnets:
        return [Place(t, subnet=subnet) for t in types for subnet in subnets]
    return [place for t in types for place in (Place(t), *(Place(t, zone=zone) for zone in zones))]


def choose_place(
    wanted: Sequence[Place], backoffs: Mapping[str, Backoff], now: float, *, spot: bool, timings: Timings
) -> Choice:
    """The first place where machines may be launched now."""
    soonest: Choice | None = None
    dry: list[float] = []
    for place in wanted:
        quota = backoffs.get(quota_name(place.instance_type, spot=spot))
        capacity = backoffs.get(capacity_name(place))
        held = [backoff for backoff in (quota, capacity) if backoff is not None]
        waiting = [backoff for backoff in held if backoff.until > now]
        if not waiting:
            return Choice(place, most=min((backoff.most for backoff in held), default=FREE))
        longest = max(waiting, key=lambda backoff: backoff.until)
        wait_s = longest.until - now
        if soonest is None or wait_s < soonest.wait_s:
            soonest = Choice(None, wait_s=wait_s, why=longest.why, quota=longest is quota)
        if capacity is not None and waiting == [capacity] and capacity.since is not None:
            dry.append(capacity.since)
    if soonest is not None:
        return msgspec.structs.replace(soonest, dry_since=max(dry) if len(dry) == len(wanted) else None)
    return Choice(None, wait_s=timings.no_capacity_s, why="there is no place to launch in")


def after_no_capacity(before: Backoff | None, now: float, why: str, timings: Timings) -> Backoff:
    """The backoff of a place after a refusal for capacity; `before`: the one that it had."""
    since = now if before is None or before.since is None else before.since
    return Backoff(now + timings.no_capacity_s, 1, why, since=since)


def with_doubt(now: float, why: str) -> Backoff:
    """The backoff of a zone that was not tried by itself, for a type for which EC2 found no capacity in any zone."""
    return Backoff(now, 1, why)


def after_quota(before: Backoff | None, machines: int, now: float, why: str, timings: Timings) -> Backoff:
    """The backoff of a quota after a refusal of so many machines; `before`: the one that it had."""
    if machines > 1:
        return Backoff(now, machines // 2, why)
    pause_s = min(timings.quota_s, (before and before.pause_s) or timings.quota_s)
    return Backoff(now + pause_s, 1, why, pause_s=2 * pause_s)


def after_an_end(before: Backoff, timings: Timings) -> Backoff:
    """The backoff of a quota after a machine that counts against it has ended, or begins to shut down.

    A machine that shuts down counts against its quota until it has ended, and EC2 does not announce that: the quota is
    tried soon, and then less and less often.
    """
    return Backoff(0.0, before.most, before.why, pause_s=timings.quota_freed_s)


def after_success(backoff: Backoff, launched: int) -> Backoff | None:
    """The backoff after a launch of so many machines; None: it is no longer needed."""
    most = max(backoff.most, 2 * launched)
    return Backoff(0.0, most, backoff.why) if most < 100 else None
