"""The plan of one chaos run: how much is requested, and what goes wrong how often."""

from __future__ import annotations

import os
import secrets

import msgspec

from tests.ec2sim.config import Fault, SimConfig, adverse

NAMESPACES = ("ann", "bob", "cy")
# Of instances and tags, from when they are there until they are seen: up to 2 s, and seldom much less.
LAG_S = (1.0, 2.0)
REFUSED = 0.05
LOST = 0.10
# Answers that are wrong in other ways, besides: halved, or an error though the effect took place.
MANGLED = 0.01
# The calls of Puter's that change something.
MUTATING = ("RunInstances", "Create*", "Import*", "Authorize*", "Modify*")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers of one chaos run.

    Attributes:
        keys: how many, over all namespaces.
        workers: processes at a time.
        kill_every_s: after how long, about, a worker is killed and another one started.
        freeze_every_s: after how long, about, a worker is frozen past its leases.
        trouble_s: for how long workers and Redis are killed; EC2 goes on to misbehave.
        redis_kills: how often Redis is killed and started again.
        clock_steps: how often the clocks of Redis's host and of the workers' host are set.
        heal_s: a deadline, generous: how long it may then take until all is as requested.
        speed: of EC2's token buckets and of the workers' pacer.
        hurry: by which the workers' leases, claims and pauses are divided.
    """

    keys: int
    workers: int
    kill_every_s: float
    freeze_every_s: float
    trouble_s: float
    redis_kills: int
    clock_steps: int
    heal_s: float
    speed: float = 20.0
    hurry: float = 1.0


SHORT = Plan(
    keys=120,
    workers=2,
    kill_every_s=2.0,
    freeze_every_s=6.0,
    trouble_s=15.0,
    redis_kills=1,
    clock_steps=2,
    heal_s=120.0,
    hurry=4.0,
)
LONG = Plan(
    keys=1_000,
    workers=4,
    kill_every_s=2.0,
    freeze_every_s=8.0,
    trouble_s=40.0,
    redis_kills=2,
    clock_steps=3,
    heal_s=300.0,
)


def chosen_plan() -> Plan:
    """The long form with PUTER_CHAOS=long, else the short one."""
    return LONG if os.environ.get("PUTER_CHAOS") == "long" else SHORT


def chosen_seeds() -> list[int | None]:
    """PUTER_CHAOS_SEEDS, separated by blanks; None is any."""
    return [int(seed) for seed in os.environ.get("PUTER_CHAOS_SEEDS", "").split()] or [None]


def any_seed() -> int:
    """A random seed."""
    return secrets.randbelow(1_000_000)


def bad_day(seed: int, speed: float) -> SimConfig:
    """The behaviour of the simulated EC2 during the run.

    Five of a hundred calls are refused with a 503; of the others that change something, ten lose their answer after
    the effect. The refusals come first, so that none of them hides a lost answer.
    """
    lost = tuple(
        fault
        for action in MUTATING
        for fault in (
            Fault(action=action, drop=True, when="after", probability=LOST),
            Fault(action=action, cut=True, when="after", probability=MANGLED),
            Fault(action=action, code="InternalError", when="after", probability=MANGLED),
        )
    )
    return msgspec.structs.replace(
        adverse(seed, speed),
        faults=(Fault(code="ServiceUnavailable", probability=REFUSED), *lost),
        id_lag_s=LAG_S,
        list_lag_s=LAG_S,
        create_tags_lag_s=LAG_S,
        tag_lag_s=LAG_S,
    )
