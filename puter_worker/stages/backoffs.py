"""Backoffs: after refusals for capacity or quota, how much may be launched, and when. Pure.

A backoff holds what its refusal was about, and nothing else (`ec2.refusals` says what each is about): where EC2 has no
Spot capacity, On-Demand machines of the same type do not wait. Its name says what that is:
`capacity/type=t3.micro,market=spot,place=us-east-1a`.

After a refusal for capacity, a place is not tried for a while, then with one machine, then with twice as many after
each success: a refused group costs as many tokens of the instance bucket as it has members. The room under a quota is
searched from above: a refused group is halved down to one machine; if that one is refused too, the family waits until
a machine of the target ends or a minute has passed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import inf

import msgspec

from puter_worker.ec2.refusals import subjects
from puter_worker.errors import About, Ec2Error, Handling
from puter_worker.rates import MOST_INSTANCES
from puter_worker.store.backoff import Backoff
from puter_worker.store.intent import Place
from puter_worker.timings import Timings

# No backoff: the largest number of machines that any launch may have.
FREE = MOST_INSTANCES
CAPACITY_PREFIX = "capacity/"
QUOTA_PREFIX = "quota/"

_CAPACITIES = subjects(Handling.OTHER_ZONE)
_QUOTAS = subjects(Handling.QUOTA, Handling.SPLIT)

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
        limits: names of the backoffs that limit how many are launched in the place.
        dry_since: since when EC2 has had no capacity in any place; None: it has capacity, or this is not known.
        refused_since: since when EC2 has refused each attempt in every place, for capacity or a quota; None: in some
            place there was no attempt for long, or it had success.
        refused_at: when EC2 has refused one of them last, as far as backoffs tell.
    """

    place: Place | None
    most: int = FREE
    wait_s: float = 0.0
    why: str = ""
    quota: bool = False
    limits: frozenset[str] = frozenset()
    dry_since: float | None = None
    refused_since: float | None = None
    refused_at: float | None = None


def is_of_capacity(name: str) -> bool:
    """Whether the backoff of this name follows from want of capacity."""
    return name.startswith(CAPACITY_PREFIX)


def is_of_quota(name: str) -> bool:
    """Whether the backoff of this name follows from a quota or another limit of EC2's."""
    return name.startswith(QUOTA_PREFIX)


def capacity_name(
    place: Place, disk: int | None = None, *, about: About = About.TYPE | About.MARKET | About.PLACE
) -> str:
    """The name of the backoff after a refusal for want of capacity.

    Args:
        place: what was to be launched, and where.
        disk: its root disk in GiB; None is the image's size.
        about: what the refusal was about: usually this type in this market and place.
    """
    return CAPACITY_PREFIX + _subject(about, place, disk)


def quota_name(place: Place, disk: int | None = None, *, about: About = About.FAMILY | About.MARKET) -> str:
    """The name of the backoff after a refusal for a quota; arguments as for `capacity_name`."""
    return QUOTA_PREFIX + _subject(about, place, disk)


def names_of(place: Place, disk: int | None) -> frozenset[str]:
    """The names of all backoffs that may hold a launch: one for each kind of refusal."""
    capacities = (capacity_name(place, disk, about=about) for about in _CAPACITIES)
    return frozenset((*capacities, *(quota_name(place, disk, about=about) for about in _QUOTAS)))


def _subject(about: About, place: Place, disk: int | None) -> str:
    parts = {
        About.TYPE: f"type={place.instance_type}",
        About.FAMILY: f"family={quota_family(place.instance_type)}",
        About.MARKET: f"market={'spot' if place.spot else 'on-demand'}",
        About.PLACE: f"place={place.where or '*'}",
        About.DISK: f"disk={disk or 'image'}",
        About.ACCOUNT: "account",
        About.CALL: "call",
    }
    return ",".join(part for one, part in parts.items() if one in about)


def quota_family(instance_type: str) -> str:
    """The family of types that share a type's quota, as AWS names it."""
    letters = re.match(r"[a-z]*", instance_type)[0]  # type: ignore[index]  # it matches the empty text too
    return _FAMILIES.get(letters) or ("standard" if letters[:1] in _STANDARD else letters)


def capacity_missing(error: Ec2Error, place: Place) -> str:
    """What a refusal for want of capacity means, in plain words."""
    if error.code == "Unsupported":
        return f"{place.instance_type} is not offered {f'in {place.where}' if place.where else 'there'} ({error.code})"
    if About.TYPE in error.about:
        return f"no {'Spot ' if place.spot else ''}capacity for {place} ({error.code})"
    what = "disk" if About.DISK in error.about else "free addresses"
    return f"no {what} {f'in {place.where}' if place.where else 'there'} ({error.code})"


def quota_reached(code: str, place: Place) -> str:
    """What a code of EC2's means for a quota that these machines count against, in plain words."""
    family = quota_family(place.instance_type)
    of = "" if family == "standard" else f" of {family} types"
    match code:
        case "VcpuLimitExceeded":
            return f"vCPU quota{of} reached"
        case "InstanceLimitExceeded":
            return f"instance quota of {place.instance_type} reached"
        case "MaxSpotInstanceCountExceeded":
            return f"Spot quota{of} reached"
        case "VolumeLimitExceeded":
            return "quota of EBS volumes reached"
        case "PendingVerification":
            return "AWS is still verifying the account"
        case _:
            return f"EC2 limit reached ({code})"


def places(types: Sequence[str], zones: Sequence[str], subnets: Sequence[str], *, spot: bool = False) -> list[Place]:
    """The places where machines may be launched, in the order in which they are tried.

    Types come in the request's order. For each type come the subnets that the request names; if it names none, first a
    place without a zone (EC2 chooses), then each zone by itself: EC2 does not try every zone when it chooses.
    """
    if subnets:
        return [Place(t, subnet=subnet, spot=spot) for t in types for subnet in subnets]
    return [Place(t, zone=zone, spot=spot) for t in types for zone in (None, *zones)]


def choose_place(
    wanted: Sequence[Place], backoffs: Mapping[str, Backoff], now: float, *, disk: int | None = None, timings: Timings
) -> Choice:
    """The first place where machines may be launched now.

    Attempts may be so slow that the pause of the first place ends before the last was tried. So a place that is refused
    again and again is tried less and less often, as long as there is another one; of several such comes first the one
    that nobody has tried for longest.

    `backoffs`: those of the target, by name; `disk`: the root disk in GiB.
    """
    due: tuple[float, Choice] | None = None
    soonest: Choice | None = None
    dry: list[float] = []
    refused_since, refused_at = _refused(wanted, backoffs, now, disk, timings)
    for place in wanted:
        held = {name: backoffs[name] for name in names_of(place, disk) if name in backoffs}
        waiting = {name: backoff for name, backoff in held.items() if backoff.until > now}
        if not waiting:
            turn = max((_turn(backoff, now, timings) for backoff in held.values()), default=-inf)
            if due is None or turn < due[0]:
                most = min((backoff.most for backoff in held.values()), default=FREE)
                due = turn, Choice(place, most=most, limits=frozenset(held))
            continue
        longest = max(waiting, key=lambda name: waiting[name].until)
        wait_s = waiting[longest].until - now
        if soonest is None or wait_s < soonest.wait_s:
            soonest = Choice(None, wait_s=wait_s, why=waiting[longest].why, quota=is_of_quota(longest))
        since = [backoff.since for backoff in waiting.values() if backoff.since is not None]
        if since and all(map(is_of_capacity, waiting)):
            dry.append(min(since))
    if due is not None:
        return msgspec.structs.replace(due[1], refused_since=refused_since, refused_at=refused_at)
    if soonest is not None:
        dry_since = max(dry) if len(dry) == len(wanted) else None
        return msgspec.structs.replace(soonest, dry_since=dry_since, refused_since=refused_since, refused_at=refused_at)
    return Choice(None, wait_s=timings.no_capacity_s, why="there is no place to launch in")


def _turn(backoff: Backoff, now: float, timings: Timings) -> float:
    """Orders places whose pause is over: -inf is tried in the request's order, the others after that, in their own.

    A place is put off until nobody has tried it for half as long as it was refused before, and for its pause at least.
    """
    if backoff.since is None or not _is_recent(backoff, now, timings):
        return -inf
    put_off_s = (backoff.until - backoff.since) / 2 - timings.no_capacity_s
    return -inf if now >= backoff.until + put_off_s else backoff.until


def _refused(
    wanted: Sequence[Place], backoffs: Mapping[str, Backoff], now: float, disk: int | None, timings: Timings
) -> tuple[float | None, float | None]:
    """`refused_since` and `refused_at` of Choice.

    Places are tried one after the other, so not all of them have a backoff that holds at one time.
    """
    since: list[float] = []
    last: list[float] = []
    for place in wanted:
        of_place = [backoffs[name] for name in names_of(place, disk) if name in backoffs]
        recent = [one for one in of_place if one.since is not None and _is_recent(one, now, timings)]
        if not recent:
            return None, None
        since.append(min(one.since for one in recent if one.since is not None))
        last.append(max(one.until for one in recent) - timings.no_capacity_s)
    return max(since, default=None), max(last, default=None)


def _is_recent(backoff: Backoff, now: float, timings: Timings) -> bool:
    return now <= backoff.until + timings.refusals_end_s


def either(spot: Choice, on_demand: Choice) -> Choice:
    """The choice of a launch that may take On-Demand instances, because Spot has long been refused."""
    if on_demand.place is not None or on_demand.dry_since is None or spot.dry_since is None:
        return on_demand  # it takes them, or waits for their quota
    sooner = min(spot, on_demand, key=lambda choice: choice.wait_s)
    both_since = max(spot.dry_since, on_demand.dry_since)
    return msgspec.structs.replace(sooner, why=f"{spot.why}; {on_demand.why}", dry_since=both_since)


def after_no_capacity(before: Backoff | None, now: float, why: str, timings: Timings) -> Backoff:
    """The backoff of a place after a refusal for capacity; `before`: the one that it had."""
    return Backoff(now + timings.no_capacity_s, 1, why, since=_since(before, now, timings))


def _since(before: Backoff | None, now: float, timings: Timings) -> float:
    """Since when each attempt was refused; what nobody has tried for long begins anew."""
    return before.since if before and before.since is not None and _is_recent(before, now, timings) else now


def with_doubt(now: float, why: str) -> Backoff:
    """The backoff of a zone that was not tried by itself, for a type for which EC2 found no capacity in any zone."""
    return Backoff(now, 1, why)


def after_quota(before: Backoff | None, machines: int, now: float, why: str, timings: Timings) -> Backoff:
    """The backoff of a quota after a refusal of so many machines; `before`: the one that it had."""
    if machines > 1:
        return Backoff(now, machines // 2, why)
    pause_s = min(timings.quota_s, (before and before.pause_s) or timings.quota_s)
    return Backoff(now + pause_s, 1, why, since=_since(before, now, timings), pause_s=2 * pause_s)


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
