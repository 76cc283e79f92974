"""What refusals teach, and where machines are requested next."""

from __future__ import annotations

from itertools import pairwise

import pytest

from puter_worker.ec2.refusals import REFUSALS
from puter_worker.errors import About, Ec2Error, Handling
from puter_worker.stages.backoffs import (
    FREE,
    Choice,
    after_an_end,
    after_no_capacity,
    after_quota,
    after_success,
    capacity_missing,
    capacity_name,
    choose_place,
    either,
    is_of_capacity,
    is_of_quota,
    names_of,
    places,
    quota_name,
    quota_reached,
)
from puter_worker.store.backoff import Backoff
from puter_worker.store.intent import Place
from puter_worker.timings import Timings

NOW = 1_000.0
TIMINGS = Timings()
ANYWHERE, IN_A, IN_B = Place("t3.micro"), Place("t3.micro", zone="a"), Place("t3.micro", zone="b")
QUOTA = quota_name(ANYWHERE)


def held(until: float = NOW + 10, most: int = 1, why: str = "why") -> Backoff:
    return Backoff(until, most, why)


# -- where ---


def test_ec2s_own_choice_comes_before_each_zone() -> None:
    assert places(["t3.micro"], ["a", "b"], []) == [ANYWHERE, IN_A, IN_B]


def test_every_place_of_a_type_comes_before_the_next_type() -> None:
    assert [place.instance_type for place in places(["x", "y"], ["a"], [])] == ["x", "x", "y", "y"]


def test_subnets_that_are_named_leave_no_other_place() -> None:
    assert places(["x"], ["a"], ["s1", "s2"]) == [Place("x", subnet="s1"), Place("x", subnet="s2")]


def test_without_backoffs_the_first_place_is_free() -> None:
    choice = choose_place([ANYWHERE, IN_A], {}, NOW, timings=TIMINGS)

    assert (choice.place, choice.most) == (ANYWHERE, FREE)


def test_a_dry_place_is_passed_over() -> None:
    backoffs = {capacity_name(ANYWHERE): held()}

    assert choose_place([ANYWHERE, IN_A], backoffs, NOW, timings=TIMINGS).place == IN_A


def test_a_place_whose_time_has_come_is_probed_with_as_many_as_its_backoff_lets() -> None:
    choice = choose_place([IN_A], {capacity_name(IN_A): held(until=NOW, most=4)}, NOW, timings=TIMINGS)

    assert (choice.place, choice.most) == (IN_A, 4)


def test_of_two_backoffs_the_tighter_counts() -> None:
    backoffs = {capacity_name(IN_A): held(until=NOW, most=8), QUOTA: held(until=NOW, most=2)}

    assert choose_place([IN_A], backoffs, NOW, timings=TIMINGS).most == 2


def test_if_all_must_be_left_alone_the_soonest_tells_how_long() -> None:
    backoffs = {capacity_name(IN_A): held(NOW + 9, why="a"), capacity_name(IN_B): held(NOW + 5, why="b")}

    choice = choose_place([IN_A, IN_B], backoffs, NOW, timings=TIMINGS)

    assert (choice.place, choice.wait_s, choice.why, choice.quota) == (None, 5.0, "b", False)


def test_a_quota_holds_every_place_of_its_family() -> None:
    choice = choose_place([ANYWHERE, IN_A], {QUOTA: held(why="quota")}, NOW, timings=TIMINGS)

    assert (choice.place, choice.why, choice.quota) == (None, "quota", True)


def test_a_type_of_another_family_is_not_held() -> None:
    gpu = Place("g5.xlarge")

    assert choose_place([ANYWHERE, gpu], {QUOTA: held()}, NOW, timings=TIMINGS).place == gpu


# What is refused, what does not wait for it, and what does.
SPOT_IN_A = Place("t3.micro", zone="a", spot=True)
NEIGHBOURS = [
    ("InsufficientInstanceCapacity", (SPOT_IN_A, None), (IN_A, None), (SPOT_IN_A, 50)),
    ("InsufficientInstanceCapacity", (IN_A, None), (SPOT_IN_A, None), (IN_A, 50)),
    ("InsufficientInstanceCapacity", (IN_A, None), (Place("t3.small", zone="a"), None), (IN_A, None)),
    ("InsufficientInstanceCapacity", (IN_A, None), (IN_B, None), (IN_A, None)),
    ("InsufficientFreeAddressesInSubnet", (IN_A, None), (IN_B, None), (Place("g5.xlarge", zone="a", spot=True), None)),
    ("InsufficientVolumeCapacity", (IN_A, 500), (IN_A, 50), (SPOT_IN_A, 500)),
    ("VcpuLimitExceeded", (IN_A, None), (SPOT_IN_A, None), (Place("m5.large", zone="b"), None)),
    ("VcpuLimitExceeded", (IN_A, None), (Place("g5.xlarge", zone="a"), None), (IN_B, None)),
    ("MaxSpotInstanceCountExceeded", (SPOT_IN_A, None), (IN_A, None), (Place("m5.large", spot=True), None)),
    ("InstanceLimitExceeded", (IN_A, None), (Place("t3.small", zone="a"), None), (IN_B, None)),
    ("VolumeLimitExceeded", (IN_A, 16_000), (IN_A, None), (SPOT_IN_A, 16_000)),
]


@pytest.mark.parametrize(("code", "refused", "free", "waits"), NEIGHBOURS)
def test_a_refusal_holds_what_it_is_about_and_nothing_else(
    code: str, refused: tuple[Place, int | None], free: tuple[Place, int | None], waits: tuple[Place, int | None]
) -> None:
    handling, about = REFUSALS[code]
    name_of = capacity_name if handling is Handling.OTHER_ZONE else quota_name
    backoffs = {name_of(*refused, about=about): held()}

    assert choose_place([free[0]], backoffs, NOW, disk=free[1], timings=TIMINGS).place == free[0]
    assert choose_place([waits[0]], backoffs, NOW, disk=waits[1], timings=TIMINGS).place is None


@pytest.mark.parametrize("code", ["PendingVerification", "NetworkInterfaceLimitExceeded"])
@pytest.mark.parametrize("place", [SPOT_IN_A, IN_B, Place("g5.xlarge", subnet="s1")])
def test_what_is_about_the_account_holds_everything(code: str, place: Place) -> None:
    backoffs = {quota_name(IN_A, about=REFUSALS[code].about): held()}

    assert choose_place([place], backoffs, NOW, timings=TIMINGS).place is None


def test_refusals_about_different_things_have_different_names() -> None:
    kinds = {
        refusal
        for refusal in REFUSALS.values()
        if refusal.handling in (Handling.OTHER_ZONE, Handling.QUOTA, Handling.SPLIT)
    }

    assert len(names_of(IN_A, 50)) == len({about for _, about in kinds})
    assert all(is_of_capacity(name) != is_of_quota(name) for name in names_of(IN_A, 50))


def test_with_no_place_at_all_there_is_something_to_say() -> None:
    choice = choose_place([], {}, NOW, timings=TIMINGS)

    assert choice.place is None
    assert choice.why


@pytest.mark.parametrize(
    ("instance_type", "family"),
    [
        ("t3.micro", "standard"),
        ("m5.large", "standard"),
        ("hpc7g.4xlarge", "HPC"),
        ("z1d.large", "standard"),
        ("g5g.xlarge", "G and VT"),
        ("vt1.3xlarge", "G and VT"),
        ("p4d.24xlarge", "P"),
        ("x2idn.large", "X"),
        ("f1.2xlarge", "F"),
        ("inf2.xlarge", "Inf"),
        ("trn1.2xlarge", "Trn"),
        ("dl1.24xlarge", "DL"),
        ("u-6tb1.metal", "u"),
    ],
)
def test_types_share_the_quota_of_their_family(instance_type: str, family: str) -> None:
    assert quota_name(Place(instance_type)) == f"quota/family={family},market=on-demand"


# -- since when there is no capacity ---


def dry(since: float | None) -> Backoff:
    return Backoff(NOW + 30, 1, "dry", since=since)


def test_there_is_no_capacity_since_the_last_of_all_places_refused() -> None:
    backoffs = {capacity_name(IN_A): dry(NOW - 90), capacity_name(IN_B): dry(NOW - 20)}

    assert choose_place([IN_A, IN_B], backoffs, NOW, timings=TIMINGS).dry_since == NOW - 20


@pytest.mark.parametrize(
    "other",
    [{}, {capacity_name(IN_B): dry(None)}, {capacity_name(IN_B): dry(NOW - 20), QUOTA: held(why="quota")}],
    ids=["a place that may be asked", "one that EC2 has not refused", "a quota that holds all"],
)
def test_it_is_not_capacity_alone_that_is_waited_for(other: dict[str, Backoff]) -> None:
    backoffs = {capacity_name(IN_A): dry(NOW - 90), **other}

    assert choose_place([IN_A, IN_B], backoffs, NOW, timings=TIMINGS).dry_since is None


# -- how many ---


def test_a_dry_place_is_left_alone_and_then_probed_with_one() -> None:
    assert after_no_capacity(None, NOW, "dry", TIMINGS) == Backoff(NOW + TIMINGS.no_capacity_s, 1, "dry", since=NOW)


def test_a_place_is_dry_since_the_first_refusal_after_a_success() -> None:
    first = after_no_capacity(None, NOW, "dry", TIMINGS)
    again = after_no_capacity(first, NOW + 70, "dry", TIMINGS)
    success = after_success(again, 1)
    after = after_no_capacity(success, NOW + 90, "dry", TIMINGS)

    assert (again.since, after.since) == (NOW, NOW + 90)


def test_a_group_that_a_quota_refused_is_halved_at_once() -> None:
    assert after_quota(None, 9, NOW, "full", TIMINGS) == Backoff(NOW, 4, "full")


def test_one_machine_that_a_quota_refused_waits() -> None:
    assert after_quota(None, 1, NOW, "full", TIMINGS).until == NOW + TIMINGS.quota_s


def test_a_quota_under_which_a_machine_has_ended_is_tried_at_once_and_then_less_and_less_often() -> None:
    backoff = after_an_end(Backoff(NOW + TIMINGS.quota_s, 1, "full"), TIMINGS)
    pauses = [backoff.until]
    for _ in range(7):
        backoff = after_quota(backoff, 1, NOW, "full", TIMINGS)
        pauses.append(backoff.until - NOW)

    assert pauses == [0, 2, 4, 8, 16, 32, 60, 60]


def test_after_a_success_twice_as_many_may_be_requested() -> None:
    after = after_success(Backoff(NOW, 8, "why"), 8)

    assert after is not None
    assert after.most == 16


def test_a_small_success_does_not_take_back_what_was_learned() -> None:
    after = after_success(Backoff(NOW, 8, "why"), 1)

    assert after is not None
    assert after.most == 8


def test_a_backoff_that_lets_a_whole_group_through_is_off() -> None:
    assert after_success(Backoff(NOW, 50, "why"), 50) is None


@pytest.mark.parametrize(
    ("code", "instance_type", "spot", "told"),
    [
        ("VcpuLimitExceeded", "t3.micro", False, "vCPU quota reached"),
        ("VcpuLimitExceeded", "g5.xlarge", False, "vCPU quota of G and VT types reached"),
        ("InstanceLimitExceeded", "p4d.24xlarge", False, "instance quota of p4d.24xlarge reached"),
        ("MaxSpotInstanceCountExceeded", "g5.xlarge", True, "Spot quota of G and VT types reached"),
        ("VolumeLimitExceeded", "t3.micro", False, "quota of EBS volumes reached"),
        ("MaxSpotInstanceCountExceeded", "t3.micro", True, "Spot quota reached"),
        ("PendingVerification", "t3.micro", False, "AWS is still verifying the account"),
        ("ResourceCountExceeded", "t3.micro", False, "EC2 limit reached (ResourceCountExceeded)"),
    ],
)
def test_a_quota_is_told_in_plain_words(code: str, instance_type: str, spot: bool, told: str) -> None:
    assert quota_reached(code, Place(instance_type, spot=spot)) == told


@pytest.mark.parametrize(
    ("code", "place", "told"),
    [
        ("InsufficientInstanceCapacity", ANYWHERE, "no capacity for t3.micro (InsufficientInstanceCapacity)"),
        (
            "InsufficientInstanceCapacity",
            SPOT_IN_A,
            "no Spot capacity for t3.micro in a (InsufficientInstanceCapacity)",
        ),
        ("InsufficientFreeAddressesInSubnet", IN_A, "no free addresses in a (InsufficientFreeAddressesInSubnet)"),
        ("InsufficientVolumeCapacity", ANYWHERE, "no disk there (InsufficientVolumeCapacity)"),
        ("Unsupported", IN_A, "t3.micro is not offered in a (Unsupported)"),
    ],
)
def test_want_of_capacity_is_told_in_plain_words(code: str, place: Place, told: str) -> None:
    error = Ec2Error(code, "why", handling=Handling.OTHER_ZONE, about=About.PLACE)
    if code in REFUSALS:
        error = Ec2Error(code, "why", handling=Handling.OTHER_ZONE, about=REFUSALS[code].about)

    assert capacity_missing(error, place) == told


# -- Spot, if there is capacity ---

DRY = Choice(None, wait_s=9.0, why="no Spot capacity", dry_since=5.0)
FULL = Choice(None, wait_s=4.0, why="no capacity", dry_since=7.0)


@pytest.mark.parametrize(
    "on_demand",
    [Choice(ANYWHERE), Choice(None, wait_s=3.0, why="vCPU quota reached", quota=True)],
    ids=["there", "quota"],
)
def test_on_demand_counts_where_spot_is_dry(on_demand: Choice) -> None:
    assert either(DRY, on_demand) is on_demand


def test_where_both_are_dry_the_one_that_is_tried_sooner_counts() -> None:
    assert either(DRY, FULL) == Choice(None, wait_s=4.0, why="no Spot capacity; no capacity", dry_since=7.0)


def refused(place: Place, *, ago_s: float, since_s: float, quota: bool = False) -> dict[str, Backoff]:
    """Its last refusal was `ago_s` ago, and the first of them `since_s` ago."""
    pause_s = TIMINGS.no_capacity_s
    name = quota_name(place) if quota else capacity_name(place)
    return {name: Backoff(NOW - ago_s + pause_s, 1, "refused", since=NOW - since_s)}


@pytest.mark.parametrize("quota", [False, True])
@pytest.mark.parametrize(
    ("ago_s", "refused_since"),
    [
        (0.0, NOW - 200),
        (TIMINGS.no_capacity_s + 300, NOW - 200),  # its pause is over, because other places were tried meanwhile
        (TIMINGS.no_capacity_s + TIMINGS.refusals_end_s + 1, None),  # nobody has tried it for long
    ],
)
def test_a_place_counts_as_refused_until_a_success_or_until_nobody_has_tried_for_long(
    quota: bool, ago_s: float, refused_since: float | None
) -> None:
    backoffs = refused(IN_A, ago_s=10.0, since_s=900.0) | refused(
        Place("g5.xlarge", zone="b"), ago_s=ago_s, since_s=200.0, quota=quota
    )

    choice = choose_place([IN_A, Place("g5.xlarge", zone="b")], backoffs, NOW, timings=TIMINGS)

    assert choice.refused_since == refused_since
    assert choose_place([IN_A, IN_B], backoffs, NOW, timings=TIMINGS).refused_since is None


def test_slow_attempts_reach_every_place_before_on_demand_counts() -> None:
    wanted = places([f"t{number}.micro" for number in range(10)], ["a", "b", "c"], [], spot=True)
    an_attempt_s = TIMINGS.no_capacity_s / 10  # after ten, the pause of the first is over
    backoffs: dict[str, Backoff] = {}
    tried: list[Place] = []
    now = NOW
    while (choice := choose_place(wanted, backoffs, now, timings=TIMINGS)).refused_since is None:
        assert choice.place is not None
        tried.append(choice.place)
        name = capacity_name(choice.place)
        backoffs[name] = after_no_capacity(backoffs.get(name), now, "dry", TIMINGS)
        now += an_attempt_s
        assert len(tried) < 10 * len(wanted), "some place is never tried"

    assert set(tried) == set(wanted)
    assert tried[10] == wanted[0]  # at first, the order of the request counts


def test_a_place_that_has_capacity_again_is_noticed_though_another_has_it_all_the_time() -> None:
    wanted, backoffs = [IN_A, IN_B], dict[str, Backoff]()
    tried: list[float] = []
    for now in range(0, 1_000, 5):
        if choose_place(wanted, backoffs, NOW + now, timings=TIMINGS).place == IN_A:
            tried.append(now)
            name = capacity_name(IN_A)
            backoffs[name] = after_no_capacity(backoffs.get(name), NOW + now, "dry", TIMINGS)

    assert tried[:3] == [0, 60, 120]
    assert all(60 <= later - one <= max(60, one) for one, later in pairwise(tried))


def test_of_places_that_are_refused_again_and_again_the_one_that_waited_longest_is_tried_first() -> None:
    backoffs = refused(IN_A, ago_s=70.0, since_s=370.0) | refused(IN_B, ago_s=90.0, since_s=390.0)

    assert choose_place([IN_A, IN_B], backoffs, NOW, timings=TIMINGS).place == IN_B
    assert choose_place([IN_A, IN_B, ANYWHERE], backoffs, NOW, timings=TIMINGS).place == ANYWHERE


def test_refusals_after_a_long_pause_begin_anew() -> None:
    (morning,) = refused(IN_A, ago_s=10_000.0, since_s=20_000.0).values()
    (just_now,) = refused(IN_A, ago_s=100.0, since_s=20_000.0).values()

    assert after_no_capacity(morning, NOW, "dry", TIMINGS).since == NOW
    assert after_no_capacity(just_now, NOW, "dry", TIMINGS).since == NOW - 20_000
    assert after_quota(just_now, 1, NOW, "quota", TIMINGS).since == NOW - 20_000
