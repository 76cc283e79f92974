"""Every error that EC2 is known to answer, on the launch itself and on the calls that prepare it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from puter_client.cli.loglines import lines_of
from puter_client.contract.phase import Phase
from puter_client.contract.record import Record
from puter_client.view import WaitFor
from puter_worker.stages.send import MOST_MADE_ANEW
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
QUOTAS = {
    "VcpuLimitExceeded": "vCPU quota reached",
    "InstanceLimitExceeded": "instance quota of t3.micro reached",
    "MaxSpotInstanceCountExceeded": "Spot quota reached",
    "PendingVerification": "AWS is still verifying the account",
}
TOO_MUCH = ("ResourceCountExceeded", "FilterLimitExceeded")
FINAL = (
    "InvalidAMIID.NotFound",
    "InvalidAMIID.Malformed",
    "InvalidAMIID.Unavailable",
    "InvalidParameterValue",
    "InvalidParameterCombination",
    "InvalidParameter",
    "UnauthorizedOperation",
    "OptInRequired",
    "Blocked",
    "InvalidKeyPair.NotFound",
    "VPCIdNotSpecified",
    "TagPolicyViolation",
    "NeverHeardOf",
)
GONE = ("InvalidAMIID.NotFound", "InvalidKeyPair.NotFound", "InvalidGroup.NotFound")
JUST_MADE = ("InvalidInstanceID.NotFound", "InvalidGroup.NotFound")
CREDENTIALS = ("ExpiredToken", "RequestExpired", "InvalidClientTokenId", "SignatureDoesNotMatch", "AuthFailure")
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
MAKING = ("ImportKeyPair", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress")
HOME = "192.0.2.7/32"
PATIENCE_WITH_EC2_S = 0.4


@pytest.fixture
def impatient(sim_workshop: SimWorkshop) -> None:
    """Puter gives up on an answer soon."""
    sim_workshop.hurry(sdk_read_s=PATIENCE_WITH_EC2_S)


async def launched(shop: SimWorkshop) -> Record:
    """The record of the one request, once its machine is there; and that it is the only one."""
    (view,) = await shop.request("one", wait=WaitFor.LAUNCHED)
    assert view.record is not None
    assert view.record.error is None
    await shop.one_each("one")
    return view.record


async def failed(shop: SimWorkshop) -> Record:
    """The record of the one request, once it has failed."""
    (view,) = await shop.request("one", wait=WaitFor.LAUNCHED)
    assert view.record is not None
    assert view.record.phase is Phase.FAILED
    return view.record


async def codes(shop: SimWorkshop, action: str) -> list[str]:
    """What EC2 answered to each call of an action, others' too."""
    return [call.code for call in await shop.calls(action)]


def let_in(shop: SimWorkshop) -> list[str]:
    """What may reach port 22 through Puter's group, sorted."""
    (group,) = shop.ec2.describe_security_groups(GroupNames=["puter-v1-betty"])["SecurityGroups"]
    return sorted(found["CidrIp"] for rule in group["IpPermissions"] for found in rule["IpRanges"])


def key_pairs(shop: SimWorkshop) -> list[dict[str, Any]]:
    """Every key pair that EC2 holds."""
    return list(shop.ec2.describe_key_pairs(IncludePublicKey=True)["KeyPairs"])


# -- of RunInstances ---


@pytest.mark.parametrize("code", AGAIN)
async def test_what_may_pass_is_asked_again_with_the_same_token(sim_workshop: SimWorkshop, code: str) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code=code, times=2))
    async with sim_workshop.working():
        await launched(sim_workshop)

    calls = await sim_workshop.calls("RunInstances")
    assert [call.code for call in calls] == [code, code, "OK"]
    assert len({call.params["ClientToken"] for call in calls}) == 1


@pytest.mark.parametrize("code", ["RequestLimitExceeded", "InternalError", "InsufficientInstanceCapacity"])
async def test_a_refusal_is_in_the_timeline_and_in_the_log_with_its_request_id(
    sim_workshop: SimWorkshop, tmp_path: Path, code: str
) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code=code, times=1))
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        async with sim_workshop.working():
            record = await launched(sim_workshop)

    refused, _ = await sim_workshop.calls("RunInstances")
    events = await sim_workshop.client.events(record.tag)
    put_off = [event for event in events if event.event in ("launch.delayed", "launch.put_off")]
    assert [event.request_id for event in put_off] == [refused.request_id]
    written = [{**line, "timestamp": "2026"} for line in logs if line["event"] == "ec2.refused"]
    (tmp_path / "worker.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, written)))
    (view,) = await sim_workshop.client.views([record.tag])
    assert [code in line for line in lines_of(tmp_path, view, events)] == [True]


@pytest.mark.parametrize("code", ELSEWHERE)
async def test_without_room_it_is_requested_elsewhere_with_a_new_token(sim_workshop: SimWorkshop, code: str) -> None:
    message = "It is not supported in your requested Availability Zone."  # of Unsupported, this decides
    await sim_workshop.faults(Fault(action="RunInstances", code=code, message=message, times=2))
    async with sim_workshop.working():
        record = await launched(sim_workshop)

    calls = await sim_workshop.calls("RunInstances")
    assert [call.code for call in calls] == [code, code, "OK"]
    assert len({call.params["ClientToken"] for call in calls}) == 3
    assert record.short_since is None


@pytest.mark.parametrize(("code", "words"), QUOTAS.items(), ids=QUOTAS)
async def test_a_quota_is_waited_for(sim_workshop: SimWorkshop, code: str, words: str) -> None:
    sim_workshop.hurry(quota_s=0.5)
    await sim_workshop.faults(Fault(action="RunInstances", code=code))
    async with sim_workshop.working():
        await sim_workshop.submit("one")
        await eventually("the reason is told", lambda: says(sim_workshop, words, "0 machines live"))
        (waiting,) = await sim_workshop.records("one")
        await sim_workshop.faults()
        await launched(sim_workshop)

    assert waiting.phase is Phase.LAUNCHING


@pytest.mark.parametrize("code", TOO_MUCH)
async def test_what_was_too_much_at_once_is_requested_in_parts(sim_workshop: SimWorkshop, code: str) -> None:
    tags = [f"job-{n}" for n in range(8)]
    await sim_workshop.faults(Fault(action="RunInstances", code=code, times=1))
    async with sim_workshop.working():
        await sim_workshop.request(*tags, wait=WaitFor.LAUNCHED)
        await sim_workshop.one_each(*tags)

    first, second, *_ = await sim_workshop.calls("RunInstances")
    assert int(second.params["MaxCount"]) == int(first.params["MaxCount"]) // 2


@pytest.mark.parametrize("code", FINAL)
async def test_what_cannot_be_mended_fails_the_request_in_ec2s_words(sim_workshop: SimWorkshop, code: str) -> None:
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


async def test_what_is_always_gone_fails_the_request(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code=GONE[1]))
    async with sim_workshop.working():
        record = await failed(sim_workshop)

    assert (record.error and record.error.code, record.made_anew) == (GONE[1], MOST_MADE_ANEW)
    assert len(await sim_workshop.calls("RunInstances")) == MOST_MADE_ANEW + 1


async def test_refusals_for_other_reasons_do_not_count_against_making_anew(sim_workshop: SimWorkshop) -> None:
    short = "InsufficientInstanceCapacity"
    await sim_workshop.faults(
        Fault(action="RunInstances", code=short, times=MOST_MADE_ANEW),
        Fault(action="RunInstances", code=GONE[1], times=1),
    )
    async with sim_workshop.working():
        await launched(sim_workshop)

    codes = [call.code for call in await sim_workshop.calls("RunInstances")]
    assert codes == [*[short] * MOST_MADE_ANEW, GONE[1], "OK"]


async def test_a_failed_request_that_is_requested_again_has_a_token_of_its_own(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code="InvalidParameterValue", times=1))
    async with sim_workshop.working():
        await failed(sim_workshop)
        again = await launched(sim_workshop)

    refused, granted = await sim_workshop.calls("RunInstances")
    assert refused.params["ClientToken"] != granted.params["ClientToken"]
    assert again.generation == 1


@pytest.mark.parametrize("code", JUST_MADE)
async def test_what_ec2_does_not_see_yet_is_requested_again(sim_workshop: SimWorkshop, code: str) -> None:
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
    """Whether the one request says why it waits, in these words."""
    return any(all(word in reason for word in words) for reason in await shop.reasons("one"))


# -- of the calls before it ---


@pytest.mark.parametrize("action", PREPARING)
async def test_a_missing_permission_fails_the_request(sim_workshop: SimWorkshop, action: str) -> None:
    await sim_workshop.faults(Fault(action=action, code="UnauthorizedOperation"))
    async with sim_workshop.working():
        record = await failed(sim_workshop)

    refused = [call.request_id for call in await sim_workshop.calls(action)]
    assert record.error is not None
    assert record.error.code == "UnauthorizedOperation"
    assert record.error.request_id in refused
    assert await sim_workshop.living() == []


@pytest.mark.parametrize("action", PREPARING)
async def test_what_passes_delays_the_request_and_never_fails_it(sim_workshop: SimWorkshop, action: str) -> None:
    codes = ("InternalError", "RequestLimitExceeded", "ExpiredToken")
    await sim_workshop.faults(*(Fault(action=action, code=code, times=1) for code in codes))
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert [call.code for call in await sim_workshop.calls(action)][:3] == list(codes)


# -- answers that are unknown, or none ---


@pytest.mark.parametrize("status", [500, 503])
async def test_an_unknown_error_of_ec2s_own_after_a_launch_finds_the_machine(
    sim_workshop: SimWorkshop, status: int
) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code="NeverHeardOf", status=status, when="after", times=1))
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert await codes(sim_workshop, "RunInstances") == ["NeverHeardOf"]


async def test_an_unknown_error_of_ec2s_own_instead_of_a_launch_asks_again_with_the_same_token(
    sim_workshop: SimWorkshop,
) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", code="NeverHeardOf", status=500, times=1))
    async with sim_workshop.working():
        await launched(sim_workshop)

    calls = await sim_workshop.calls("RunInstances")
    assert [call.code for call in calls] == ["NeverHeardOf", "OK"]
    assert len({call.params["ClientToken"] for call in calls}) == 1


@pytest.mark.parametrize("action", PREPARING)
async def test_an_unknown_error_of_ec2s_own_while_preparing_is_asked_again(
    sim_workshop: SimWorkshop, action: str
) -> None:
    await sim_workshop.faults(Fault(action=action, code="NeverHeardOf", status=500, times=1))
    async with sim_workshop.working():
        await launched(sim_workshop)

    first, *others = await codes(sim_workshop, action)
    assert first == "NeverHeardOf"
    assert others


@pytest.mark.parametrize("action", MAKING)
async def test_what_was_made_in_spite_of_an_error_is_made_once(sim_workshop: SimWorkshop, action: str) -> None:
    await sim_workshop.faults(Fault(action=action, code="NeverHeardOf", status=500, when="after", times=1))
    async with sim_workshop.working():
        record = await launched(sim_workshop)

    assert record.key_name == "puter-v1-betty"
    assert let_in(sim_workshop) == [HOME]
    assert len(key_pairs(sim_workshop)) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_launch_whose_answer_does_not_come_is_found(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", when="after", delay_s=PATIENCE_WITH_EC2_S + 1, times=1))
    async with sim_workshop.working():
        await launched(sim_workshop)

    assert len(await sim_workshop.calls("RunInstances")) == 1


@pytest.mark.usefixtures("impatient")
async def test_a_launch_that_takes_place_after_it_was_given_up_is_the_only_one(sim_workshop: SimWorkshop) -> None:
    await sim_workshop.faults(Fault(action="RunInstances", hold=True, times=1))
    async with sim_workshop.working():
        await launched(sim_workshop)
        await sim_workshop.faults()
        await eventually("both calls have taken place", lambda: so_many(sim_workshop, "RunInstances", 2))
        await sim_workshop.one_each("one")

    first, second = await sim_workshop.calls("RunInstances")
    assert first.params["ClientToken"] == second.params["ClientToken"]


async def so_many(shop: SimWorkshop, action: str, count: int) -> bool:
    """Whether EC2 has carried out so many calls of an action."""
    return len(await shop.calls(action)) == count


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("action", PREPARING)
async def test_an_answer_that_does_not_come_while_preparing_is_requested_again(
    sim_workshop: SimWorkshop, action: str
) -> None:
    await sim_workshop.faults(Fault(action=action, when="after", delay_s=PATIENCE_WITH_EC2_S + 1, times=1))
    async with sim_workshop.working():
        await launched(sim_workshop)

    # What was made without a word is seen when Puter looks again.
    assert (len(await sim_workshop.calls(action)) == 1) is (action in MAKING)
    assert let_in(sim_workshop) == [HOME]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("action", MAKING)
async def test_what_is_made_after_it_was_given_up_is_made_once(sim_workshop: SimWorkshop, action: str) -> None:
    await sim_workshop.faults(Fault(action=action, hold=True, times=1))
    async with sim_workshop.working():
        record = await launched(sim_workshop)
        await sim_workshop.faults()
        await eventually("both calls have taken place", lambda: so_many(sim_workshop, action, 2))

    first, second = await codes(sim_workshop, action)
    assert first == "OK"
    assert second.endswith(".Duplicate")
    assert record.key_name == "puter-v1-betty"
    assert let_in(sim_workshop) == [HOME]
