"""Every error that EC2 is known to answer, on the launch itself and on the calls that prepare it."""

from __future__ import annotations

import pytest

from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.view import WaitFor
from puter_worker.stations import brakes
from tests.ec2sim.config import Fault
from tests.integration.sim_workshop import SimWorkshop, eventually, sim_url, sim_workshop

__all__ = ["sim_url", "sim_workshop"]

AGAIN = (
    "InternalError",
    "InternalFailure",
    "ServiceUnavailable",
    "Unavailable",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
)
ELSEWHERE = ("InsufficientInstanceCapacity", "Unsupported", "InsufficientFreeAddressesInSubnet")
QUOTAS = ("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "PendingVerification")
TOO_MUCH = ("ResourceCountExceeded", "FilterLimitExceeded")
FINAL = (
    "InvalidAMIID.NotFound",
    "InvalidAMIID.Malformed",
    "InvalidAMIID.Unavailable",
    "InvalidParameterValue",
    "InvalidParameterCombination",
    "InvalidParameter",
    "UnauthorizedOperation",
    "AuthFailure",
    "OptInRequired",
    "Blocked",
    "InvalidKeyPair.NotFound",
    "VPCIdNotSpecified",
    "TagPolicyViolation",
    "NeverHeardOf",
)
GONE = ("InvalidAMIID.NotFound", "InvalidKeyPair.NotFound", "InvalidGroup.NotFound")
JUST_MADE = ("InvalidInstanceID.NotFound", "InvalidGroup.NotFound")
CREDENTIALS = ("ExpiredToken", "RequestExpired", "InvalidClientTokenId", "SignatureDoesNotMatch")
PREPARING = (
    "GetCallerIdentity",
    "DescribeInstances",
    "DescribeInstanceTypes",
    "DescribeImages",
    "DescribeKeyPairs",
    "ImportKeyPair",
    "DescribeVpcs",
    "DescribeSecurityGroups",
    "CreateSecurityGroup",
    "AuthorizeSecurityGroupIngress",
)


async def launched(shop: SimWorkshop) -> Record:
    """The record of the one wish, once its machine is there; and that it is the only one."""
    (view,) = await shop.wish("one", wait=WaitFor.LAUNCHED)
    assert view.record is not None
    assert view.record.error is None
    await shop.one_each("one")
    return view.record


async def failed(shop: SimWorkshop) -> Record:
    """The record of the one wish, once it has failed."""
    (view,) = await shop.wish("one", wait=WaitFor.LAUNCHED)
    assert view.record is not None
    assert view.record.phase is Phase.FAILED
    return view.record


# -- of RunInstances ---


@pytest.mark.parametrize("code", AGAIN)
async def test_what_may_pass_is_asked_again_with_the_same_token(sim_workshop: SimWorkshop, code: str) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code=code, times=2))
    async with sim_workshop.working():
        await launched(sim_workshop)

    calls = await sim_workshop.calls("RunInstances")
    assert [call.code for call in calls] == [code, code, "OK"]
    assert len({call.params["ClientToken"] for call in calls}) == 1


@pytest.mark.parametrize("code", ELSEWHERE)
async def test_without_room_it_is_asked_for_elsewhere_with_a_new_token(sim_workshop: SimWorkshop, code: str) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code=code, times=2))
    async with sim_workshop.working():
        record = await launched(sim_workshop)

    calls = await sim_workshop.calls("RunInstances")
    assert [call.code for call in calls] == [code, code, "OK"]
    assert len({call.params["ClientToken"] for call in calls}) == 3
    assert record.short_since is None


@pytest.mark.parametrize("code", QUOTAS)
async def test_a_quota_is_waited_for(sim_workshop: SimWorkshop, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(brakes, "QUOTA_FOR_S", 0.5)
    await sim_workshop.faults(Fault(action="RunInstances", code=code))
    async with sim_workshop.working():
        await sim_workshop.submit("one")
        await eventually("the reason is told", lambda: says(sim_workshop, "standard quota reached", code, "0 live"))
        (waiting,) = await sim_workshop.records("one")
        await sim_workshop.faults()
        await launched(sim_workshop)

    assert waiting.phase is Phase.LAUNCHING


@pytest.mark.parametrize("code", TOO_MUCH)
async def test_what_was_too_much_at_once_is_asked_for_in_parts(sim_workshop: SimWorkshop, code: str) -> None:
    tags = [f"job-{n}" for n in range(8)]
    await sim_workshop.faults(Fault(action="RunInstances", code=code, times=1))
    async with sim_workshop.working():
        await sim_workshop.wish(*tags, wait=WaitFor.LAUNCHED)
        await sim_workshop.one_each(*tags)

    first, second, *_ = await sim_workshop.calls("RunInstances")
    assert int(second.params["MaxCount"]) == int(first.params["MaxCount"]) // 2


@pytest.mark.parametrize("code", FINAL)
async def test_what_cannot_be_mended_fails_the_wish_in_ec2s_words(sim_workshop: SimWorkshop, code: str) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code=code, message="It cannot be."))
    async with sim_workshop.working():
        record = await failed(sim_workshop)

    refused = (await sim_workshop.calls("RunInstances"))[-1]
    assert record.error is not None
    assert (record.error.code, record.error.request_id) == (code, refused.request_id)
    assert record.error.message.startswith("It cannot be.")


@pytest.mark.parametrize("code", GONE)
async def test_what_was_deleted_meanwhile_is_made_anew(sim_workshop: SimWorkshop, code: str) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code=code, times=1))
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert [call.code for call in await sim_workshop.calls("RunInstances")] == [code, "OK"]


async def test_a_failed_wish_that_is_wished_again_has_a_token_of_its_own(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code="InvalidParameterValue", times=1))
    async with sim_workshop.working():
        await failed(sim_workshop)
        again = await launched(sim_workshop)

    refused, granted = await sim_workshop.calls("RunInstances")
    assert refused.params["ClientToken"] != granted.params["ClientToken"]
    assert again.generation == 1


@pytest.mark.parametrize("code", JUST_MADE)
async def test_what_ec2_does_not_see_yet_is_asked_for_again(sim_workshop: SimWorkshop, code: str) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code=code, times=2))
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert [call.code for call in await sim_workshop.calls("RunInstances")] == [code, code, "OK"]


@pytest.mark.parametrize("code", CREDENTIALS)
async def test_credentials_are_waited_for(sim_workshop: SimWorkshop, code: str) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code=code))
    async with sim_workshop.working():
        await sim_workshop.submit("one")
        await eventually("the reason is told", lambda: says(sim_workshop, "waiting for AWS credentials", code))
        await sim_workshop.faults()
        await launched(sim_workshop)


async def says(shop: SimWorkshop, *words: str) -> bool:
    """Whether the one wish says why it waits, in these words."""
    return any(all(word in reason for word in words) for reason in await shop.reasons("one"))


# -- of the calls before it ---


@pytest.mark.parametrize("action", PREPARING)
async def test_a_missing_permission_fails_the_wish(sim_workshop: SimWorkshop, action: str) -> None:
    await sim_workshop.faults(Fault(action=action, code="UnauthorizedOperation"))
    async with sim_workshop.working():
        record = await failed(sim_workshop)

    refused = [call.request_id for call in await sim_workshop.calls(action)]
    assert record.error is not None
    assert record.error.code == "UnauthorizedOperation"
    assert record.error.request_id in refused
    assert await sim_workshop.living() == []


@pytest.mark.parametrize("action", PREPARING)
async def test_what_passes_delays_the_wish_and_never_fails_it(sim_workshop: SimWorkshop, action: str) -> None:
    codes = ("InternalError", "RequestLimitExceeded", "ExpiredToken")
    await sim_workshop.faults(*(Fault(action=action, code=code, times=1) for code in codes))
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert [call.code for call in await sim_workshop.calls(action)][:3] == list(codes)
