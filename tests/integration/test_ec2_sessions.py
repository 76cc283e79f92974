"""AWS profiles of a host, as a worker finds them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from aiobotocore.session import AioSession
from redis.asyncio import Redis

from puter_worker.clock import Clock
from puter_worker.ec2.answers import Vpcs
from puter_worker.ec2.aws_settings import check_connection_settings
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.session import Sessions
from puter_worker.errors import CredentialsError, Handling, ProfileMissing, UnknownRegion, WrongAccount
from puter_worker.store.store import Store
from puter_worker.target import TargetId
from puter_worker.targets import Targets
from puter_worker.tasks import cancel_all
from puter_worker.timings import Timings
from tests.integration.moto_server import REGION

KEYS = "aws_access_key_id = testing\naws_secret_access_key = testing\n"


def configure(text: str) -> None:
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(text)


def test_profiles_are_offered_by_name(sessions: Sessions) -> None:
    configure("[profile lab]\nregion = eu-west-1\n[profile art]\n[default]\n")

    assert sessions.offered_profiles() == ["art", "default", "lab"]


def test_a_profile_has_its_own_region(sessions: Sessions) -> None:
    configure("[profile lab]\nregion = eu-west-1\n")

    assert sessions.region_of("lab") == "eu-west-1"


REGIONS = [
    # requested, AWS_REGION, AWS_DEFAULT_REGION, the profile's own → used
    ("us-west-2", "ca-central-1", "ap-south-1", "eu-west-1", "us-west-2"),
    (None, "ca-central-1", "ap-south-1", "eu-west-1", "ca-central-1"),
    (None, None, "ap-south-1", "eu-west-1", "ap-south-1"),
    (None, "", "ap-south-1", "eu-west-1", "ap-south-1"),
    (None, "ca-central-1", None, None, "ca-central-1"),
    (None, None, None, "eu-west-1", "eu-west-1"),
    (None, "", "", "eu-west-1", "eu-west-1"),
    (None, None, None, None, "us-east-1"),
]


@pytest.mark.parametrize("named_by", ["the request", "AWS_PROFILE", "nobody"])
@pytest.mark.parametrize(("asked", "region", "default", "own", "used"), REGIONS)
async def test_a_region_is_the_requests_else_the_environments_else_the_profiles_however_that_is_named(
    sessions: Sessions,
    monkeypatch: pytest.MonkeyPatch,
    named_by: str,
    asked: str | None,
    region: str | None,
    default: str | None,
    own: str | None,
    used: str,
) -> None:
    name = "default" if named_by == "nobody" else "profile lab"
    configure(f"[{name}]\n{KEYS}" + (f"region = {own}\n" if own else ""))
    if named_by == "AWS_PROFILE":
        monkeypatch.setenv("AWS_PROFILE", "lab")
    for variable, value in (("AWS_REGION", region), ("AWS_DEFAULT_REGION", default)):
        if value is not None:
            monkeypatch.setenv(variable, value)

    assert (await found(sessions, "lab" if named_by == "the request" else None, asked)).region == used


async def test_where_nobody_names_a_region_it_is_us_east_1(sessions: Sessions) -> None:
    assert (await found(sessions, None, None)).region == "us-east-1"


def targets_of(sessions: Sessions) -> Targets:
    """Targets of a worker whose Redis is not asked for anything."""
    timings = Timings()
    return Targets(Store(Redis(), clock=Clock(), timings=timings), sessions, timings)


async def found(sessions: Sessions, profile: str | None, region: str | None) -> TargetId:
    """The target that a request is launched with."""
    targets = targets_of(sessions)
    return (await targets.find(profile, region)).target_id


def test_the_default_credentials_may_have_no_region(sessions: Sessions) -> None:
    assert sessions.region_of(None) is None


async def test_a_missing_profile_is_told_though_the_environment_names_a_region(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-west-1")

    with pytest.raises(ProfileMissing, match="'lab'"):
        await found(sessions, "lab", None)


async def test_a_profile_that_is_added_has_its_region(sessions: Sessions) -> None:
    with pytest.raises(ProfileMissing):
        sessions.region_of("lab")

    configure(f"[profile lab]\nregion = eu-west-1\n{KEYS}")

    assert sessions.region_of("lab") == "eu-west-1"


async def test_what_is_not_a_region_is_told_with_its_name(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "UP_NORTH")

    with pytest.raises(UnknownRegion, match="'UP_NORTH' is not the name of an AWS region"):
        await found(sessions, None, None)


def test_profiles_are_still_offered_while_the_config_cannot_be_parsed(moto: str) -> None:
    sessions = Sessions(Timings(profiles_s=0.0), version="0")
    configure("[profile lab]\n")
    assert sessions.offered_profiles() == ["lab"]

    configure("[profile lab]\nhello\n")

    assert sessions.offered_profiles() == ["lab"]


def test_a_missing_profile_has_no_region(sessions: Sessions) -> None:
    with pytest.raises(ProfileMissing, match="'lab'"):
        sessions.region_of("lab")


async def test_a_call_with_a_missing_profile_says_so(sessions: Sessions) -> None:
    caller = Caller(sessions, profile="lab", region=REGION)

    with pytest.raises(ProfileMissing):
        await caller.call("DescribeVpcs", Vpcs)


async def test_a_profile_that_is_added_is_found(sessions: Sessions) -> None:
    caller = Caller(sessions, profile="lab", region=REGION)
    with pytest.raises(ProfileMissing):
        await caller.call("DescribeVpcs", Vpcs)

    configure("[profile lab]\naws_access_key_id = a\naws_secret_access_key = b\n")

    assert (await caller.call("DescribeVpcs", Vpcs)).vpcs


async def test_no_credentials_are_waited_for(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(CredentialsError) as caught:
        await Caller(sessions, profile=None, region=REGION).call("DescribeVpcs", Vpcs)

    assert caught.value.handling is Handling.CREDENTIALS


async def test_credentials_that_come_later_are_used(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CredentialsError):
        await sessions.account_id(None, REGION)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")

    assert await sessions.account_id(None, REGION) == "123456789012"


async def test_a_client_is_made_once_for_all_that_ask_at_once(sessions: Sessions) -> None:
    async def lent() -> object:
        async with sessions.ec2(None, REGION) as client:
            return client

    assert len({id(client) for client in await asyncio.gather(*(lent() for _ in range(8)))}) == 1


async def test_regions_have_clients_of_their_own(sessions: Sessions) -> None:
    async with sessions.ec2(None, "us-east-1") as one, sessions.ec2(None, "eu-west-1") as other:
        assert (one.meta.region_name, other.meta.region_name) == ("us-east-1", "eu-west-1")


async def test_others_are_served_between_two_clients_though_many_regions_are_asked_at_once(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads its certificates, which takes 20 ms of CPU or more."""
    turns, made_in = 0, list[int]()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def checked(core: AioSession, endpoint_url: str) -> None:
        made_in.append(turns)
        check_connection_settings(core, endpoint_url)

    monkeypatch.setattr("puter_worker.ec2.session.check_connection_settings", checked)
    configure("".join(f"[profile p{number}]\n{KEYS}" for number in range(20)))
    others_run = asyncio.create_task(others())

    async def opened(number: int) -> None:
        await sessions.account_id(f"p{number}", REGION)
        async with sessions.ec2(f"p{number}", REGION):
            pass

    await asyncio.gather(*(opened(number) for number in range(20)))
    await cancel_all([others_run])

    assert len(made_in) == 2 * 20  # one for STS, one for EC2
    assert len(set(made_in)) == len(made_in)


async def test_a_client_that_is_there_does_not_wait_for_those_that_are_to_be_made(sessions: Sessions) -> None:
    async with sessions.ec2(None, REGION) as made:
        pass
    async with sessions._making:
        others = [asyncio.create_task(sessions.check()), asyncio.create_task(opens(sessions, "eu-west-1"))]
        await asyncio.sleep(0)
        async with sessions.ec2(None, REGION) as lent:
            assert lent is made
    await asyncio.gather(*others)


async def opens(sessions: Sessions, region: str) -> None:
    async with sessions.ec2(None, region):
        pass


async def test_what_is_closed_can_be_opened_again(sessions: Sessions) -> None:
    caller = Caller(sessions, profile=None, region=REGION)
    await caller.call("DescribeVpcs", Vpcs)

    await sessions.aclose()

    assert (await caller.call("DescribeVpcs", Vpcs)).vpcs


ELSEWHERE = "210987654321"


async def test_nothing_is_asked_of_another_account(sessions: Sessions) -> None:
    with pytest.raises(WrongAccount, match=f"now belong to account 123456789012, not {ELSEWHERE}") as caught:
        await Caller(sessions, profile=None, region=REGION, account=ELSEWHERE).call("DescribeVpcs", Vpcs)

    assert caught.value.handling is Handling.CREDENTIALS


async def test_credentials_that_have_become_another_accounts_are_not_used_and_read_anew(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts = [ELSEWHERE, "123456789012"]

    async def account_of(_self: Sessions, known: object, _region: str) -> str:
        return accounts[0] if known is first else accounts[1]

    caller = Caller(sessions, profile=None, region=REGION, account="123456789012")
    first = sessions._profile(None)
    monkeypatch.setattr(Sessions, "_account_of", account_of)
    with pytest.raises(WrongAccount):
        await caller.call("DescribeVpcs", Vpcs)

    assert (await caller.call("DescribeVpcs", Vpcs)).vpcs


async def test_a_host_takes_up_its_own_accounts_targets_alone(sessions: Sessions) -> None:
    targets = targets_of(sessions)

    assert await targets.reaches(TargetId("123456789012", REGION))
    assert not await targets.reaches(TargetId(ELSEWHERE, REGION))
    assert not await targets.reaches(TargetId("123456789012", REGION, "lab"))  # a profile that is not here


async def test_where_an_account_cannot_be_told_the_calls_say_why(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    targets = targets_of(sessions)
    asked: list[str] = []

    async def account_id(_self: Sessions, _profile: str | None, region: str) -> str:
        asked.append(region)
        raise CredentialsError("there are none")

    monkeypatch.setattr(Sessions, "account_id", account_id)

    assert [await targets.reaches(TargetId(ELSEWHERE, REGION)) for _ in range(5)] == [True] * 5
    assert asked == [REGION]  # not again and again
