"""Instance types are read many at a time, in turns, within bounds; what EC2 has said of them is remembered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from puter_worker.ec2.answers import InstanceTypeAnswer, InstanceTypes, ProcessorAnswer, VcpuAnswer
from puter_worker.ec2.images import InstanceType
from puter_worker.errors import About, Ec2Error, Handling, NotReached, StageError, UnusableInstanceType
from puter_worker.instance_types import A_CALL, MOST_KNOWN, MOST_WANTED
from puter_worker.instance_types import InstanceTypes as Catalog
from puter_worker.timings import Timings

TIMINGS = Timings()
T3 = InstanceType(name="t3.micro", architecture="x86_64", vcpus=2)


class Ec2:
    """An EC2 that has t3.micro and mac1.metal, and answers when it may.

    Attributes:
        asked: the names in each call.
        may: cleared, calls wait.
        at: the clock of whoever remembers.
    """

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.may = asyncio.Event()
        self.may.set()
        self.refuse: Callable[[list[str]], StageError | None] = lambda _: None
        self.at = 1.0

    def monotonic(self) -> float:
        return self.at

    async def pages(self, action: str, answer: Any, /, **params: Any) -> AsyncIterator[InstanceTypes]:
        ((one,), _) = params["Filters"], params["MaxResults"]
        assert (action, one["Name"]) == ("DescribeInstanceTypes", "instance-type")
        self.asked.append(one["Values"])
        await self.may.wait()
        if (error := self.refuse(one["Values"])) is not None:
            raise error
        yield InstanceTypes(
            instance_types=[shown(name) for name in one["Values"] if name in {"t3.micro", "mac1.metal"}]
        )


def shown(name: str) -> InstanceTypeAnswer:
    architecture = "x86_64" if name == "t3.micro" else "x86_64_mac"
    return InstanceTypeAnswer(
        instance_type=name,
        processor_info=ProcessorAnswer(supported_architectures=[architecture]),
        v_cpu_info=VcpuAnswer(default_v_cpus=2),
    )


@pytest.fixture
async def ec2() -> Ec2:
    return Ec2()


@pytest.fixture
async def types(ec2: Ec2) -> AsyncIterator[Catalog]:
    catalog = Catalog(cast("Any", ec2), clock=cast("Any", ec2), timings=TIMINGS)
    yield catalog
    await catalog.drain()


async def read(types: Catalog, owner: str, *names: str) -> list[str]:
    """Who was told until the owner was told that these are known."""
    told: asyncio.Queue[str] = asyncio.Queue()
    types.on_read = told.put_nowait
    types.want(owner, names)
    owners = [await told.get()]
    while owners[-1] != owner:
        owners.append(await told.get())
    return owners


async def test_one_call_tells_of_those_that_exist_and_those_that_do_not(ec2: Ec2, types: Catalog) -> None:
    await read(types, "ann", "t3.micro", "mac1.metal", "t9.none")

    assert ec2.asked == [["t3.micro", "mac1.metal", "t9.none"]]
    assert types.known("t3.micro") == T3
    assert isinstance(types.known("mac1.metal"), UnusableInstanceType)
    missing = types.known("t9.none")
    assert isinstance(missing, Ec2Error)
    assert (missing.code, missing.handling) == ("InvalidInstanceType", Handling.FAIL)
    assert missing.message == "The following supplied instance types do not exist: [t9.none]"


async def test_who_wants_one_type_does_not_wait_for_who_wants_many(ec2: Ec2, types: Catalog) -> None:
    ec2.may.clear()
    types.want("mallory", [f"t3.a{n}" for n in range(MOST_WANTED)])
    await asyncio.sleep(0)  # the first call has begun
    types.want("ann", ["t3.micro"])
    types.want("bob", ["t3.micro", "t9.none"])
    assert types.is_reading("bob")
    ec2.may.set()
    told = await read(types, "mallory", "t3.a0")

    assert len(ec2.asked[0]) == A_CALL
    assert {"t3.micro", "t9.none"} <= set(ec2.asked[1])
    assert max(map(len, ec2.asked)) == A_CALL
    assert len(ec2.asked) == 1 + MOST_WANTED // A_CALL
    assert told == ["ann", "bob", "mallory"]
    assert not types.is_reading("bob")


async def test_of_more_owners_than_a_call_has_names_each_has_its_turn(ec2: Ec2, types: Catalog) -> None:
    ec2.may.clear()
    for owner in range(2 * A_CALL):
        types.want(f"n{owner}", [f"t3.a{owner}x{n}" for n in range(3)])
    ec2.may.set()
    await read(types, f"n{2 * A_CALL - 1}", "t9.none")

    first_two = {name.partition("x")[0] for asked in ec2.asked[:2] for name in asked}
    assert len(first_two) == 2 * A_CALL


async def test_what_one_owner_may_have_read_at_a_time_is_bounded(ec2: Ec2, types: Catalog) -> None:
    ec2.may.clear()
    for n in range(3 * MOST_WANTED):
        types.want("mallory", [f"t3.a{n}"])
    ec2.may.set()
    await read(types, "mallory")

    assert sum(map(len, ec2.asked)) == MOST_WANTED


@pytest.mark.parametrize(
    ("name", "error", "kept_s"),
    [
        ("t3.micro", None, TIMINGS.target_cache_s),
        ("t9.none", None, TIMINGS.no_type_s),
        ("t3.micro", NotReached("EC2 was not reached"), TIMINGS.launch_again_s),
        ("t3.micro", Ec2Error("UnauthorizedOperation", "You may not."), TIMINGS.launch_again_s),
    ],
    ids=["it exists", "it does not", "not answered", "not allowed"],
)
async def test_what_ec2_has_said_is_used_for_its_time(
    ec2: Ec2, types: Catalog, name: str, error: StageError | None, kept_s: float
) -> None:
    ec2.refuse = lambda _: error
    await read(types, "ann", name)
    assert types.known(name) is not None
    ec2.at += kept_s - 0.1
    assert types.known(name) is not None
    ec2.at += 0.2
    assert types.known(name) is None


async def test_names_of_no_type_take_bounded_memory_and_do_not_drive_out_types(ec2: Ec2, types: Catalog) -> None:
    await read(types, "ann", "t3.micro")
    for start in range(0, 2 * MOST_KNOWN, MOST_WANTED):
        await read(types, "mallory", *(f"t3.a{n}" for n in range(start, start + MOST_WANTED)))

    names = [f"t3.a{n}" for n in range(2 * MOST_KNOWN)]
    known = [name for name in names if types.known(name) is not None]
    assert 0 < len(known) < MOST_KNOWN
    assert known == names[-len(known) :]  # the latest
    assert types.known("t3.micro") == T3


async def test_a_name_that_ec2_refuses_fails_alone(ec2: Ec2, types: Catalog) -> None:
    refusal = Ec2Error("InvalidParameterValue", "What is that?")
    ec2.refuse = lambda names: refusal if "t3.bad" in names else None
    await read(types, "ann", "t3.a", "t3.micro", "t3.bad", "t3.b")

    assert types.known("t3.bad") is refusal
    assert types.known("t3.micro") == T3


@pytest.mark.parametrize(
    "error",
    [
        Ec2Error("UnauthorizedOperation", "You may not."),
        Ec2Error("OptInRequired", "You are not subscribed.", about=About.ACCOUNT),
        NotReached("EC2 was not reached"),
    ],
    ids=lambda error: error.code,
)
async def test_a_refusal_that_is_not_about_the_names_costs_one_call(
    ec2: Ec2, types: Catalog, error: StageError
) -> None:
    ec2.refuse = lambda _: error
    await read(types, "ann", "t3.micro", "t9.none")

    assert types.known("t3.micro") is types.known("t9.none") is error
    assert len(ec2.asked) == 1


async def test_a_launch_that_has_begun_waits_for_its_type_and_is_told_of_what_is_remembered(
    ec2: Ec2, types: Catalog
) -> None:
    assert await types.of("t3.micro") == await types.of("t3.micro") == T3
    for _ in range(2):
        with pytest.raises(Ec2Error, match=r"InvalidInstanceType: .*\[t9\.none\]"):
            await types.of("t9.none")
    assert ec2.asked == [["t3.micro"], ["t9.none"]]


async def test_after_an_error_that_may_pass_the_next_launch_asks_again(ec2: Ec2, types: Catalog) -> None:
    ec2.refuse = lambda _: NotReached("EC2 was not reached")
    with pytest.raises(NotReached):
        await types.of("t3.micro")
    ec2.refuse = lambda _: None
    assert await types.of("t3.micro") == T3


async def test_nothing_goes_on_after_the_end(ec2: Ec2, types: Catalog) -> None:
    ec2.may.clear()
    types.want("ann", ["t3.micro"])
    await asyncio.sleep(0)
    await types.drain()

    assert not types.is_reading("ann")
    assert len(asyncio.all_tasks()) == 1
