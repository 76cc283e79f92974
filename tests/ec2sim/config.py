"""How the simulated EC2 behaves; everything that can be set, in one place."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
# A time drawn evenly between two ends for each thing that takes it.
Span = tuple[Seconds, Seconds]
NO_TIME: Span = (0.0, 0.0)


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Something that goes wrong with some calls.

    Attributes:
        action: which calls, a glob of action names.
        region: only in this region.
        access_key: only calls signed with this access key id.
        params: only calls with these parameters: names and globs of their values; "" also matches one that is not sent.
        when: before the call has its effect, or after.
        code: answer this error; its HTTP status is the one EC2 gives it unless `status` says another.
        message: of that error.
        status: of that error.
        drop: close the connection without an answer.
        cut: send half of the answer, then close the connection.
        delay_s: wait so long first.
        hold: wait first until other faults are configured.
        skip: leave so many matching calls alone at first.
        times: then so many calls meet it; None is all.
        probability: with which each of them does.
    """

    action: str = "*"
    region: str | None = None
    access_key: str | None = None
    params: tuple[tuple[str, str], ...] = ()
    when: Literal["before", "after"] = "before"
    code: str | None = None
    message: str | None = None
    status: int | None = None
    drop: bool = False
    cut: bool = False
    delay_s: Seconds = 0.0
    hold: bool = False
    skip: int = 0
    times: int | None = None
    probability: Share = 1.0


class Capacity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many live instances a zone holds; the first row that matches a zone and type counts.

    Attributes:
        zone: glob of zone names.
        instance_type: glob of instance types; each type that matches has these slots for itself.
        market: glob of `spot` and `on-demand`; each that matches has these slots for itself.
        slots: live instances at most.
    """

    zone: str = "*"
    instance_type: str = "*"
    market: str = "*"
    slots: int


class Unsupported(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Types that a zone does not offer.

    Attributes:
        zone: glob of zone names.
        instance_type: glob of instance types.
    """

    zone: str = "*"
    instance_type: str = "*"


class SimConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole behaviour. As it stands: throttled as AWS is, otherwise calm, quick and without surprises.

    Attributes:
        seed: of every dice; the same calls in the same order then go the same way.
        account_id: of every access key that `accounts` does not name.
        accounts: access key id → account id.
        regions: that exist.
        default_vpc: whether each region has its default VPC.
        instance_profiles: names of IAM instance profiles that exist; None is any.

        throttle: whether the token buckets refuse.
        speed: the buckets refill so many times as fast as AWS's.
        burst_scale: the buckets hold so many times as much as AWS's.
        refused_cost: tokens that a refused call takes from what is left.
        latency_s: of every call, before its effect.
        faults: what goes wrong; the first that answers an error, drops or cuts decides, delays add up.

        id_lag_s: from launch until calls that name the instance find it.
        list_lag_s: from launch until a Describe that does not name it shows it.
        create_tags_lag_s: from launch until CreateTags finds it.
        tag_lag_s: from CreateTags until a Describe shows the tag and filters by it.
        group_lag_s: from its creation until a security group is found.
        flapping: share of new instances that are shown, missed and shown again within their lag.
        shuffled: whether instances are listed in any order (within a page; a launch's answer too).
        filter_values: that one call may have.
        short_pages: whether a page may hold fewer rows than requested, or none, and still not be the last.

        dead_token: a ClientToken whose instances all ended: error, the dead instances, or now this, now that.
        token_mismatch: a ClientToken with other parameters: error, or success without effect.
        token_bound_by_failed_launch: whether a launch without capacity binds its token to its parameters.
        token_lifetime_s: after which a token is forgotten.

        capacity: rows that limit it; without a match there is no limit.
        unsupported: rows of types not offered.
        gaps: whether launch indexes of a partial fill have gaps.
        vcpu_quota: vCPUs of live on-demand instances by quota class (`standard`, `g-and-vt`).
        instance_quota: live on-demand instances.
        spot_quota: live Spot instances.
        quota_refuses: what does not fit under a quota: all of a launch, or what is too much of it.

        pending_s: from launch to running.
        address_s: from running to the public address.
        stillborn: share of instances that end instead of starting.
        shutdown_s: from shutting-down to terminated, and from stopping to stopped.
        tags_fade_s: how long a terminated instance takes to lose its tags, one after the other.
        gone_s: how long a terminated instance can be seen.
        console_delay_s: until console output can be read without `Latest`.
        greeting: whether an instance writes on its console when it runs; off where real machines do.
    """

    seed: int = 1
    account_id: str = "123456789012"
    accounts: dict[str, str] = {}
    regions: tuple[str, ...] = ("us-east-1", "us-west-2", "eu-central-1")
    default_vpc: bool = True
    instance_profiles: tuple[str, ...] | None = None
    # calls
    throttle: bool = True
    speed: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    burst_scale: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    refused_cost: Annotated[float, msgspec.Meta(ge=0)] = 1.0
    latency_s: Span = NO_TIME
    faults: tuple[Fault, ...] = ()
    # eventual consistency
    id_lag_s: Span = NO_TIME
    list_lag_s: Span = NO_TIME
    create_tags_lag_s: Span = NO_TIME
    tag_lag_s: Span = NO_TIME
    group_lag_s: Span = NO_TIME
    flapping: Share = 0.0
    shuffled: bool = False
    filter_values: int = 200
    short_pages: bool = False
    # tokens
    dead_token: Literal["error", "instances", "either"] = "error"
    token_mismatch: Literal["error", "ignore"] = "error"
    token_bound_by_failed_launch: bool = True
    token_lifetime_s: Seconds = 86_400.0
    # room
    capacity: tuple[Capacity, ...] = ()
    unsupported: tuple[Unsupported, ...] = ()
    gaps: bool = True
    vcpu_quota: dict[str, int] = {}
    instance_quota: int | None = None
    spot_quota: int | None = None
    quota_refuses: Literal["all", "rest"] = "rest"
    # lives
    pending_s: Span = NO_TIME
    address_s: Span = NO_TIME
    stillborn: Share = 0.0
    shutdown_s: Span = NO_TIME
    tags_fade_s: Seconds = 1_800.0
    gone_s: Seconds = 3_600.0
    console_delay_s: Seconds = 0.0
    greeting: bool = True


def adverse(seed: int, speed: float = 20.0) -> SimConfig:
    """A bad day at AWS: everything that it has been reported to do, a little of each, in quick motion."""
    return SimConfig(
        seed=seed,
        speed=speed,
        latency_s=(0.001, 0.02),
        faults=(
            Fault(code="ServiceUnavailable", probability=0.02),
            Fault(code="InternalError", when="after", probability=0.02),
            Fault(drop=True, when="before", probability=0.01),
            Fault(drop=True, when="after", probability=0.02),
            Fault(cut=True, when="after", probability=0.01),
        ),
        id_lag_s=(0.0, 0.5),
        list_lag_s=(0.0, 1.0),
        create_tags_lag_s=(0.0, 0.5),
        tag_lag_s=(0.0, 0.5),
        group_lag_s=(0.0, 0.3),
        flapping=0.3,
        shuffled=True,
        short_pages=True,
        dead_token="either",
        pending_s=(0.1, 0.6),
        address_s=(0.0, 0.1),
        shutdown_s=(0.05, 0.2),
        console_delay_s=0.2,
    )
