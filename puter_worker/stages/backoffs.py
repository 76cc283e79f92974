"""Backoffs: what capacity and quotas have taught about how much may be requested, and when. Pure.

A zone that has refused a type is left alone for a while, and then probed with one machine, with twice as many after
each success: a refused group costs as many tokens of the instance bucket as it has members. A quota is reached from
above: a refused group is halved down to one machine; when that one is refused too, the family waits, until a machine
of the target ends or a minute has passed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import msgspec

from puter_worker.pacer import BUCKETS, INSTANCES
from puter_worker.store.backoff import Backoff

DRY_FOR_S = 60.0
QUOTA_FOR_S = 60.0
# A machine that shuts down counts against its quota until it has ended, which nobody tells: tried soon, then later.
FREED_AGAIN_S = 2.0
# As many as any launch may have: no backoff.
FREE = int(BUCKETS[INSTANCES].size)

# The families that share one vCPU quota, by the letters a type begins with; "Amazon EC2 service quotas" in AWS's
# general reference. What is not listed has a family of its own.
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


class Place(msgspec.Struct, frozen=True):
    """Where and what to launch.

    Attributes:
        instance_type: EC2's name of it.
        zone: availability zone; None leaves the choice to EC2.
        subnet: a subnet, where the request names some; its zone is the zone then.
    """

    instance_type: str
    zone: str | None = None
    subnet: str | None = None

    def __str__(self) -> str:
        where = self.subnet or self.zone
        return f"{self.instance_type} in {where}" if where else self.instance_type


class Choice(msgspec.Struct, frozen=True):
    """A place, and how many machines may be requested there at once; or how long to wait.

    Attributes:
        place: None if every place must be left alone for now.
        most: machines at once.
        wait_s: until the first place may be probed.
        why: of the backoff that holds longest, for people.
        quota: whether that backoff is a quota's.
        dry_since: since when EC2 has had no capacity in any place; None: it has, or that is not known.
    """

    place: Place | None
    most: int = FREE
    wait_s: float = 0.0
    why: str = ""
    quota: bool = False
    dry_since: float | None = None


def capacity_name(place: Place) -> str:
    """The name of a place's backoff."""
    return f"capacity/{place.instance_type}/{place.subnet or place.zone or '*'}"


def quota_name(instance_type: str, *, spot: bool) -> str:
    """The name of the backoff of the quota that a type counts against."""
    letters = re.match(r"[a-z]*", instance_type)[0]  # type: ignore[index]  # it matches the empty text too
    name = _FAMILIES.get(letters) or ("standard" if letters[:1] in _STANDARD else letters)
    return f"quota/{'spot ' if spot else ''}{name}"


def quota_reached(code: str, quota: str) -> str:
    """In plain words what EC2 said with a code about the quota of this name (see `quota_name`)."""
    family = quota.removeprefix("quota/")
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
            return f"EC2 takes no more at once ({code})"


def places(types: Sequence[str], zones: Sequence[str], subnets: Sequence[str]) -> list[Place]:
    """Where machines may be launched, the most wanted first.

    Types in the order of the request; within a type the subnets that it names, or first wherever EC2 likes and then
    each zone by itself: EC2's own choice is not the same as a try of every zone.
    """
    if subnets:
        return [Place(t, subnet=subnet) for t in types for subnet in subnets]
    return [place for t in types for place in (Place(t), *(Place(t, zone=zone) for zone in zones))]


def choose_place(wanted: Sequence[Place], backoffs: Mapping[str, Backoff], now: float, *, spot: bool) -> Choice:
    """The first place that may be requested machines now."""
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
    return Choice(None, wait_s=DRY_FOR_S, why="there is no place to launch in")


def after_no_capacity(before: Backoff | None, now: float, why: str) -> Backoff:
    """The backoff of a place that has refused, beside the one that it had."""
    since = now if before is None or before.since is None else before.since
    return Backoff(now + DRY_FOR_S, 1, why, since=since)


def with_doubt(now: float, why: str) -> Backoff:
    """The backoff of a place that was not asked itself, of a type that EC2 found nowhere."""
    return Backoff(now, 1, why)


def after_quota(before: Backoff | None, asked: int, now: float, why: str) -> Backoff:
    """The backoff of a quota that has refused so many machines, beside the one that it had."""
    if asked > 1:
        return Backoff(now, asked // 2, why)
    pause_s = min(QUOTA_FOR_S, (before and before.pause_s) or QUOTA_FOR_S)
    return Backoff(now + pause_s, 1, why, pause_s=2 * pause_s)


def after_an_end(before: Backoff) -> Backoff:
    """The backoff of a quota under which a machine has ended, or is about to."""
    return Backoff(0.0, before.most, before.why, pause_s=FREED_AGAIN_S)


def after_success(backoff: Backoff, launched: int) -> Backoff | None:
    """The backoff after a launch of so many under it; None: it is off."""
    most = max(backoff.most, 2 * launched)
    return Backoff(0.0, most, backoff.why) if most < 100 else None
