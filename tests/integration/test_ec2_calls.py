"""How calls end that moto never ends so: against an endpoint that does as it is told."""

from __future__ import annotations

import logging
import socket

import pytest
from structlog.testing import capture_logs

from puter_worker.ec2.answers import Answer, Images, Instances, ReservationAnswer
from puter_worker.ec2.calls import Caller
from puter_worker.ec2.instances import console_output, run_instances
from puter_worker.ec2.session import Sessions
from puter_worker.errors import Ec2Error, Handling, NotReached, StageError, Unanswered
from puter_worker.timings import Timings
from tests.integration.moto_server import REGION
from tests.integration.scripted_endpoint import (
    CLOSED,
    REQUEST_ID,
    RESET,
    SILENT,
    Endpoint,
    Reply,
    answer,
    refusal,
)

LAUNCH = {"ImageId": "ami-1", "MinCount": 1, "MaxCount": 3, "ClientToken": "token-1", "UserData": "c2VjcmV0IQ=="}


@pytest.fixture
def sessions(told_sessions: Sessions) -> Sessions:
    return told_sessions


@pytest.fixture
def caller(told_caller: Caller) -> Caller:
    return told_caller


async def error_of(caller: Caller) -> StageError:
    with pytest.raises(StageError) as caught:
        await run_instances(caller, LAUNCH)
    return caught.value


@pytest.mark.parametrize(
    "reply",
    [
        CLOSED,
        RESET,
        Reply(body="<RunInstancesResponse>", missing=500),
        Reply(body="no XML"),
        Reply(502, "<html>Bad Gateway</html>"),
        Reply(400, "<html>what?</html>"),
        Reply(200, answer("RunInstances", "<instancesSet><item><amiLaunchIndex>0</amiLaunchIndex></item>").body),
        answer("RunInstances", "<instancesSet><item><amiLaunchIndex>0</amiLaunchIndex></item></instancesSet>"),
        refusal("SomethingNew", 500),
    ],
    ids=["closed", "reset", "cut", "garbage", "proxy", "garbage-400", "broken-xml", "no-id", "unknown-500"],
)
async def test_an_end_that_tells_nothing_is_doubtful(told: Endpoint, caller: Caller, reply: Reply) -> None:
    told.replies = [reply]

    error = await error_of(caller)

    assert (error.handling, error.doubtful) == (Handling.DOUBTFUL, True)


async def test_silence_is_doubtful(told: Endpoint) -> None:
    told.replies = [SILENT]
    impatient = Sessions(Timings(sdk_read_s=0.2), version="0")

    error = await error_of(Caller(impatient, profile=None, region=REGION))
    await impatient.aclose()

    assert (type(error), error.handling, error.doubtful) == (Unanswered, Handling.DOUBTFUL, True)


async def test_a_refused_connection_is_not_doubtful(monkeypatch: pytest.MonkeyPatch, caller: Caller) -> None:
    with socket.socket() as bound:  # and not listening, so that nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{bound.getsockname()[1]}")

        error = await error_of(caller)

    assert (type(error), error.handling, error.doubtful) == (NotReached, Handling.AGAIN, False)


async def test_a_refusal_keeps_what_ec2_said(told: Endpoint, caller: Caller) -> None:
    told.replies = [refusal("VcpuLimitExceeded", message="You have requested more vCPU capacity")]

    error = await error_of(caller)

    assert isinstance(error, Ec2Error)
    assert (error.code, error.message) == ("VcpuLimitExceeded", "You have requested more vCPU capacity")
    assert error.request_id == REQUEST_ID
    assert error.handling is Handling.QUOTA


@pytest.mark.parametrize(
    ("code", "status", "handling"),
    [
        ("RequestLimitExceeded", 503, Handling.THROTTLED),
        ("InsufficientInstanceCapacity", 500, Handling.OTHER_ZONE),
    ],
)
async def test_a_server_error_that_says_what_it_is_is_not_doubtful(
    told: Endpoint, caller: Caller, code: str, status: int, handling: Handling
) -> None:
    told.replies = [refusal(code, status)]

    error = await error_of(caller)

    assert (error.handling, error.doubtful) == (handling, False)


@pytest.mark.parametrize("reply", [refusal("InternalError", 500), refusal("RequestLimitExceeded", 503), CLOSED])
async def test_the_sdk_repeats_nothing_by_itself(told: Endpoint, caller: Caller, reply: Reply) -> None:
    told.replies = [reply, answer("RunInstances"), answer("RunInstances")]

    await error_of(caller)

    assert told.actions == ["RunInstances"]


async def test_each_call_and_page_is_paced(told: Endpoint, sessions: Sessions) -> None:
    paced: list[str] = []

    async def pace(action: str) -> None:
        paced.append(action)

    caller = Caller(sessions, profile=None, region=REGION, pace=pace)
    told.replies = [
        answer("RunInstances"),
        answer("DescribeInstances", "<nextToken>more</nextToken>"),
        answer("DescribeInstances"),
    ]

    await run_instances(caller, LAUNCH)
    pages = [page async for page in caller.pages("DescribeInstances", Instances, MaxResults=5)]

    assert len(pages) == 2
    assert paced == ["RunInstances", "DescribeInstances", "DescribeInstances"]
    assert told.asked[-1]["NextToken"] == "more"


async def test_a_call_says_that_it_comes_from_puter(told: Endpoint, caller: Caller) -> None:
    told.replies = [answer("DescribeImages")]

    await caller.call("DescribeImages", Images)

    assert "puter/0" in told.agents[0].split()


async def test_throttling_is_told(told: Endpoint, sessions: Sessions) -> None:
    heard: list[str] = []

    async def throttled(action: str) -> None:
        heard.append(action)

    told.replies = [refusal("RequestLimitExceeded", 503)]

    await error_of(Caller(sessions, profile=None, region=REGION, throttled=throttled))

    assert heard == ["RunInstances"]


async def test_a_change_is_logged_with_its_request_id(told: Endpoint, caller: Caller) -> None:
    told.replies = [answer("CreateTags")]

    with capture_logs() as logs:
        await caller.call("CreateTags", Answer, Resources=["i-1"], Tags=[{"Key": "puter", "Value": "x"}])

    assert [log["event"] for log in logs] == ["ec2.called"]
    assert {"action": "CreateTags", "request_id": REQUEST_ID, "resources": ["i-1"]}.items() <= logs[0].items()


async def test_a_refused_change_is_logged(told: Endpoint, caller: Caller) -> None:
    told.replies = [refusal("Blocked")]

    with capture_logs() as logs:
        await error_of(caller)

    assert [(log["event"], log["code"], log["request_id"]) for log in logs] == [("ec2.refused", "Blocked", REQUEST_ID)]


async def test_reading_is_not_logged(told: Endpoint, caller: Caller) -> None:
    told.replies = [answer("DescribeImages")]

    with capture_logs() as logs:
        await caller.call("DescribeImages", Images)

    assert logs == []


async def test_user_data_is_in_no_log_at_any_level(
    told: Endpoint, caller: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    told.replies = [answer("RunInstances")]
    caplog.set_level(logging.DEBUG)

    with capture_logs() as logs:
        await run_instances(caller, LAUNCH)

    assert told.asked[0]["UserData"] == "c2VjcmV0IQ=="
    assert not any(secret in f"{caplog.text}{logs}" for secret in ("c2VjcmV0IQ", "secret!"))


async def test_new_credentials_are_read_after_expired_ones_were_refused(
    told: Endpoint, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.replies = [refusal("RequestExpired"), answer("RunInstances")]
    await error_of(caller)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "renewed")

    await run_instances(caller, LAUNCH)

    assert told.signed_with == ["testing", "renewed"]


async def test_forgetting_lets_a_call_on_its_way_end(told: Endpoint, sessions: Sessions) -> None:
    told.replies = [answer("DescribeInstances")]

    async with sessions.ec2(None, REGION) as lent:
        await sessions.forget(None)
        answered = await lent.describe_instances(MaxResults=5)

    assert answered["ResponseMetadata"]["HTTPStatusCode"] == 200


async def test_only_the_first_of_many_failed_calls_forgets_a_client(told: Endpoint, sessions: Sessions) -> None:
    async with sessions.ec2(None, REGION) as old:
        await sessions.forget(None, old)
        async with sessions.ec2(None, REGION) as renewed:
            await sessions.forget(None, old)
            async with sessions.ec2(None, REGION) as current:
                assert current is renewed


@pytest.mark.parametrize("code", ["UnsupportedOperation", "IncorrectInstanceState"])
async def test_where_ec2_cannot_tell_the_latest_the_stored_console_is_read(
    told: Endpoint, caller: Caller, code: str
) -> None:
    told.replies = [
        refusal(code),
        answer("GetConsoleOutput", "<instanceId>i-1</instanceId><output>aGVsbG8=</output>"),
    ]

    assert await console_output(caller, "i-1", latest=True) == "hello"


async def test_an_answer_without_instances_is_an_empty_launch(told: Endpoint, caller: Caller) -> None:
    told.replies = [answer("RunInstances")]

    reservation = await caller.call("RunInstances", ReservationAnswer, MinCount=1, MaxCount=1, ClientToken="t")

    assert reservation.instances == []
