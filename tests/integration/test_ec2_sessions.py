"""AWS profiles of a host, as a worker finds them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from puter_worker.ec2.answers import Vpcs
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.errors import Ec2Error, Handling, ProfileMissing
from puter_worker.ec2.session import Sessions
from tests.integration.moto_server import REGION


def configure(text: str) -> None:
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(text)


def test_profiles_are_offered_by_name(sessions: Sessions) -> None:
    configure("[profile lab]\nregion = eu-west-1\n[profile art]\n[default]\n")

    assert sessions.offered_profiles() == ["art", "default", "lab"]


def test_a_profile_has_its_own_region(sessions: Sessions) -> None:
    configure("[profile lab]\nregion = eu-west-1\n")

    assert sessions.region_of("lab") == "eu-west-1"


def test_the_default_credentials_may_have_no_region(sessions: Sessions) -> None:
    assert sessions.region_of(None) is None


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

    with pytest.raises(Ec2Error) as caught:
        await Caller(sessions, profile=None, region=REGION).call("DescribeVpcs", Vpcs)

    assert caught.value.handling is Handling.CREDENTIALS


async def test_credentials_that_come_later_are_used(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(Ec2Error):
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


async def test_what_is_closed_can_be_opened_again(sessions: Sessions) -> None:
    caller = Caller(sessions, profile=None, region=REGION)
    await caller.call("DescribeVpcs", Vpcs)

    await sessions.aclose()

    assert (await caller.call("DescribeVpcs", Vpcs)).vpcs
