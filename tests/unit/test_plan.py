"""How waiting keys are put together into launches."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from puter_client.contract import readers
from puter_client.contract.declaration import Field
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.contract.spec import Spec
from puter_worker.pacer import Budget
from puter_worker.stages.batch_window import BatchWindow
from puter_worker.stages.plan import Calls, Waiting, estimate_s, in_turns, rounded_up, units, wait_s
from puter_worker.store.versioned import Versioned
from puter_worker.timings import Timings


def waiting(
    tag: str, namespace: str = "betty", *, size: int | None = None, owner: str = "me", **fields: Any
) -> Waiting:
    record = Record(
        namespace=namespace,
        tag=tag,
        phase=Phase.LAUNCHING,
        created_at=0.0,
        changed_at=0.0,
        batch_id="b-1",
        batch_size=size,
        owner=owner,
    )
    return Waiting(Versioned(record, b"1"), Spec(**fields))


def many(count: int, **fields: Any) -> list[Waiting]:
    return [waiting(f"t-{n}", **fields) for n in range(count)]


def sizes(of: list[Waiting], calls_now: int, most: int = 100) -> list[int]:
    return [len(unit) for unit in units(of, calls_now=calls_now, most=most)]


def test_as_many_as_there_are_calls_for_are_launched_singly() -> None:
    assert sizes(many(4), calls_now=4) == [1, 1, 1, 1]


def test_more_are_launched_in_groups_as_large_as_may_be() -> None:
    assert sizes(many(205), calls_now=4) == [100, 100, 5]


def test_keys_of_a_shape_are_counted_as_sharing_their_calls() -> None:
    calls = Calls(most=2)
    alike, other, spot = (
        waiting("a"),
        waiting("b", instance_type="c5.large"),
        waiting("c", spot=True, instance_type="t2.micro"),
    )

    alone = waiting("d", alone=True)

    assert [calls.until(w) for w in (alike, other, alike, alike, other, spot, spot)] == [1, 2, 1, 3, 2, 4, 5]
    assert [calls.until(w) for w in (alone, alone, alike)] == [6, 7, 3]


@pytest.mark.parametrize(
    "single",
    [
        {"alone": True},
        {"spot": True, "instance_type": "m4.large"},
        {"spot": "prefer", "instance_types": ("c5.large", "t2.micro")},
        {"spot": True, "aws_tags": {"Cost Center": "7"}},
        {"spot": True, "alone": True},
    ],
)
def test_what_shares_with_nobody_is_launched_singly(single: dict[str, Any]) -> None:
    some = [*many(5, **single), *many(3)]

    assert sorted(sizes(some, calls_now=4)) == [1, 1, 1, 1, 1, 3]


@pytest.mark.parametrize("spot", [True, "prefer"])
def test_spot_machines_that_read_their_tags_are_launched_in_groups(spot: bool | str) -> None:
    assert sizes(many(205, spot=spot, aws_tags={"team": "a"}), calls_now=4) == [100, 100, 5]


@pytest.mark.parametrize(
    "other",
    [
        {"spot": True},
        {"instance_type": "c5.large"},
        {"instance_types": ("c5.large",)},
        {"os": "al2"},
        {"ami": "ami-12345678"},
        {"subnet": "subnet-12345678"},
        {"disk": 20},
        {"instance_profile": "p"},
        {"key_name": "k"},
        {"public_key": "ssh-ed25519 AAAA"},
        {"security_group_name": "g"},
        {"ssh_from": ("192.0.2.1/32",)},
        {"aws_tags": {"a": "b"}},
        {"ttl_s": 60},
        {"namespace": "anna"},
        {"owner": "you"},
    ],
)
def test_what_one_call_gives_to_all_must_be_the_same_for_all(other: dict[str, Any]) -> None:
    of = [*many(3), waiting("other", **other)]

    assert sorted(sizes(of, calls_now=0)) == [1, 3]


def test_workloads_may_differ_within_a_group() -> None:
    of = [waiting("a", run="make a"), waiting("b", run="make b", env={"X": "1"}), waiting("c")]

    assert sizes(of, calls_now=0) == [3]


def test_nobodys_user_data_stands_beside_anothers() -> None:
    texts = [None, "#!/bin/sh\n", "#!/bin/sh\n\n", " #!/bin/sh\n"]
    of = [waiting(f"{n}-{copy}", user_data=text) for copy in "ab" for n, text in enumerate(texts)]

    units_of = units(of, calls_now=0, most=100)

    assert [[w.key.tag for w in unit] for unit in units_of] == [[f"{n}-a", f"{n}-b"] for n in range(4)]


def test_calls_are_counted_apart_for_different_user_data() -> None:
    calls = Calls(most=100)

    assert [calls.until(waiting(f"t-{n}", user_data=f"#!/bin/sh\n# {n % 2}\n")) for n in range(4)] == [1, 2, 1, 2]


def test_a_shapes_repr_shows_no_secret() -> None:
    assert "hunter2" not in repr(waiting("a", user_data="#!/bin/sh\n# hunter2\n").shape)


class Wider(Spec, frozen=True, kw_only=True):
    """A spec with one more field, of which nobody but its declaration says a word."""

    placement_group: Annotated[str | None, Field(read=readers.text, help="")] = None
    note: Annotated[str | None, Field(read=readers.text, help="", per_member=True)] = None


def wider(tag: str, **fields: Any) -> Waiting:
    return Waiting(waiting(tag).stored, Wider(**fields))


def test_a_new_field_separates_groups_unless_it_is_declared_a_members_own() -> None:
    of = [wider("a", note="1"), wider("b", note="2"), wider("c", placement_group="p"), wider("d", placement_group="p")]

    assert [[w.key.tag for w in unit] for unit in units(of, calls_now=0, most=100)] == [["a", "b"], ["c", "d"]]


def test_namespaces_take_turns() -> None:
    of = [(one,) for one in [*many(3, namespace="anna"), waiting("x", "betty")]]

    assert [unit[0].key.namespace for unit in in_turns(of)] == ["anna", "betty", "anna", "anna"]


@given(
    st.lists(st.tuples(st.sampled_from(["anna", "betty"]), st.sampled_from(["t3.micro", "c5.large"]), st.booleans())),
    st.integers(0, 10),
    st.integers(1, 5),
)
def test_every_key_is_in_one_launch_and_none_is_too_large(
    of: list[tuple[str, str, bool]], calls_now: int, most: int
) -> None:
    keys = [waiting(f"t-{n}", namespace, instance_type=kind, spot=spot) for n, (namespace, kind, spot) in enumerate(of)]
    planned = units(keys, calls_now=calls_now, most=most)

    assert sorted(w.key for unit in planned for w in unit) == sorted(w.key for w in keys)
    assert all(1 <= len(unit) <= most for unit in planned)
    assert all(len({w.shape for w in unit}) == 1 for unit in planned)


TIMINGS = Timings()


def window(most: int) -> BatchWindow:
    """How long a launch of at most so many machines is waited for."""
    return BatchWindow(TIMINGS.batch_idle_s, TIMINGS.batch_longest_s, most)


@pytest.mark.parametrize(
    ("count", "since", "now", "waits"),
    [
        (1, [1.0], 1.031, 0.0),
        (1, [1.0], 1.01, 0.02),  # somebody may come yet
        (2, [0.69, 1.0], 1.0, 0.0),  # somebody has waited for 0.3 s
        (2, [0.71, 1.0], 1.0, 0.01),  # somebody has waited for nearly as long
        (3, [1.0, 1.0, 1.0], 1.0, 0.0),  # a full group
    ],
)
def test_a_launch_queue_waits_a_moment_for_more(count: int, since: list[float], now: float, *, waits: float) -> None:
    times = {f"t-{n}": at for n, at in enumerate(since)}

    assert wait_s(many(count, size=count), times, now, window(3)) == pytest.approx(waits)


def test_a_launch_queue_without_keys_waits_for_nobody() -> None:
    assert wait_s([], {}, 1.0, window(3)) == 0.0


def test_a_batch_that_is_still_coming_in_is_waited_for() -> None:
    some = many(2, size=3)
    times = {"t-0": 1.0, "t-1": 1.0}

    assert wait_s(some, times, 1.2, window(100)) == pytest.approx(0.1)
    assert wait_s(some, times, 1.31, window(100)) == 0.0


BURST = Budget(calls=4, calls_rate=2.0, machines=1_000, machines_rate=2.0)


def test_what_fits_the_budget_does_not_wait() -> None:
    assert estimate_s(BURST, machines=400, calls=4) == 0


def test_the_estimate_follows_whichever_budget_is_scarcer() -> None:
    assert estimate_s(BURST, machines=1_000, calls=10) == pytest.approx(3.0)  # six more calls, two a second
    assert estimate_s(BURST, machines=500, calls=500) == pytest.approx(248)  # each its own call
    assert estimate_s(BURST, machines=3_000, calls=30) == pytest.approx(1_000)  # machines, two a second


def test_the_estimate_counts_what_is_spent_and_what_is_slowed_down() -> None:
    spent = Budget(calls=0, calls_rate=1.0, machines=0, machines_rate=1.0)

    assert estimate_s(spent, machines=9_000, calls=90) == pytest.approx(9_000)


@pytest.mark.parametrize(("seconds", "told"), [(0.0, 5), (5.1, 10), (61.0, 90), (3_601.0, 3_900), (4_500.0, 4_500)])
def test_an_estimate_is_told_coarsely_and_never_too_short(seconds: float, told: int) -> None:
    assert rounded_up(seconds) == told
