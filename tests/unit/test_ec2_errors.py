"""What each way a call can end means."""

from __future__ import annotations

import errno
import socket
import ssl

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL as YARL

from puter_client.contract.errors import PuterError
from puter_worker.ec2.errors import is_of_a_call, stage_error
from puter_worker.ec2.refusals import REFUSALS, meaning_of
from puter_worker.errors import (
    About,
    Ec2Error,
    Handling,
    InvalidCall,
    NoImage,
    NotReached,
    StageError,
    Unanswered,
    fit_for_users,
    is_final,
    reason_after,
)


def refused(code: str, status: int = 400, message: str = "no", operation: str = "RunInstances") -> sdk.ClientError:
    told = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "req-1"},
    }
    return sdk.ClientError(told, operation)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("code", "status", "handling"),
    [
        ("RequestLimitExceeded", 503, Handling.THROTTLED),
        ("ThrottlingWhatever", 400, Handling.THROTTLED),
        ("InternalError", 500, Handling.AGAIN),
        ("Unavailable", 503, Handling.AGAIN),
        ("InsufficientInstanceCapacity", 500, Handling.OTHER_ZONE),
        ("Unsupported", 400, Handling.FAIL),
        ("InsufficientFreeAddressesInSubnet", 400, Handling.OTHER_ZONE),
        ("VcpuLimitExceeded", 400, Handling.QUOTA),
        ("PendingVerification", 400, Handling.QUOTA),
        ("ResourceCountExceeded", 400, Handling.SPLIT),
        ("FilterLimitExceeded", 400, Handling.SPLIT),
        ("InvalidAMIID.NotFound", 400, Handling.FAIL),
        ("InvalidParameterSomething", 400, Handling.FAIL),
        ("UnauthorizedOperation", 403, Handling.FAIL),
        ("AuthFailure", 401, Handling.CREDENTIALS),
        ("InvalidClientTokenId", 403, Handling.CREDENTIALS),
        ("IncompleteSignature", 400, Handling.CREDENTIALS),
        ("SomethingNew", 400, Handling.FAIL),
        ("SomethingNew", 500, Handling.DOUBTFUL),
        ("502", 502, Handling.DOUBTFUL),
        ("InvalidInstanceID.NotFound", 400, Handling.JUST_MADE),
        ("InvalidGroup.Duplicate", 400, Handling.ALREADY_THERE),
        ("RequestExpired", 400, Handling.CREDENTIALS),
        ("ExpiredToken", 403, Handling.CREDENTIALS),
        ("IdempotentParameterMismatch", 400, Handling.IDEMPOTENT_MISMATCH),
        ("IdempotentInstanceTerminated", 400, Handling.IDEMPOTENT_TERMINATED),
    ],
)
def test_a_code_says_what_to_do(code: str, status: int, handling: Handling) -> None:
    assert meaning_of(code, "why", status).handling is handling


def test_the_code_of_a_state_reason_is_known_without_its_prefix() -> None:
    assert meaning_of("Server.InsufficientInstanceCapacity").handling is Handling.OTHER_ZONE


def test_each_code_has_one_row() -> None:
    from puter_worker.ec2 import refusals

    assert len(REFUSALS) == sum(len(codes) for _, _, codes in refusals._TABLE)


ZONE_LACKS_IT = (
    "Your requested instance type (t3.micro) is not supported in your requested Availability Zone (us-east-1e). Please "
    "retry your request by not specifying an Availability Zone or choosing us-east-1a."
)


@pytest.mark.parametrize(
    ("message", "handling", "about"),
    [
        (
            ZONE_LACKS_IT,
            Handling.OTHER_ZONE,
            About.TYPE | About.MARKET | About.PLACE,
        ),
        ("The requested configuration is currently not supported.", Handling.FAIL, About.REQUEST),
        ("The instance configuration for this AWS Marketplace product is not supported.", Handling.FAIL, About.REQUEST),
    ],
)
def test_unsupported_is_about_the_zone_only_if_ec2_says_so(message: str, handling: Handling, about: About) -> None:
    error = stage_error(refused("Unsupported", message=message))

    assert isinstance(error, Ec2Error)
    assert (error.handling, error.about) == (handling, about)
    assert error.message == message


@pytest.mark.parametrize(
    ("code", "status", "doubtful"),
    [
        ("InternalError", 500, True),
        ("ServiceUnavailable", 503, True),
        ("SomethingNew", 500, True),
        ("RequestLimitExceeded", 503, False),
        ("InsufficientInstanceCapacity", 500, False),
        ("InvalidParameterValue", 400, False),
        ("IdempotentParameterMismatch", 400, False),
    ],
)
def test_a_refusal_is_doubtful_only_if_the_server_failed_for_no_known_reason(
    code: str, status: int, doubtful: bool
) -> None:
    assert stage_error(refused(code, status)).doubtful is doubtful


HERE = ConnectionKey("ec2.test", 443, True, True, None, None, None, None)
URL = "https://user:hunter2@ec2.test/path?X-Amz-Signature=abc"


@pytest.mark.parametrize(
    ("error", "kind", "handling", "doubtful"),
    [
        (sdk.ReadTimeoutError(endpoint_url=URL, error=None), Unanswered, Handling.DOUBTFUL, True),
        (sdk.ConnectionClosedError(endpoint_url=URL, error=None, request=None), Unanswered, Handling.DOUBTFUL, True),
        (sdk.HTTPClientError(error="?"), Unanswered, Handling.DOUBTFUL, True),
        (
            sdk.EndpointConnectionError(endpoint_url=URL, error=ConnectionResetError()),
            Unanswered,
            Handling.DOUBTFUL,
            True,
        ),
        (
            sdk.EndpointConnectionError(endpoint_url=URL, error=aiohttp.ClientOSError()),
            Unanswered,
            Handling.DOUBTFUL,
            True,
        ),
        (ResponseParserError("<html>"), Unanswered, Handling.DOUBTFUL, True),
        (TimeoutError(), Unanswered, Handling.DOUBTFUL, True),
        (ConnectionResetError(), Unanswered, Handling.DOUBTFUL, True),
        (aiohttp.ServerDisconnectedError(), Unanswered, Handling.DOUBTFUL, True),
        (
            sdk.EndpointConnectionError(
                endpoint_url=URL, error=aiohttp.ClientConnectorError(HERE, ConnectionRefusedError())
            ),
            NotReached,
            Handling.AGAIN,
            False,
        ),
        (sdk.EndpointConnectionError(endpoint_url=URL, error=socket.gaierror()), NotReached, Handling.AGAIN, False),
        (sdk.ConnectTimeoutError(endpoint_url=URL, error=None), NotReached, Handling.AGAIN, False),
        (sdk.SSLError(endpoint_url=URL, error=OSError()), NotReached, Handling.AGAIN, False),
        (sdk.ParamValidationError(report="UserData, value: hunter2"), InvalidCall, Handling.FAIL, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else getattr(value, "__name__", str(value)),
)
def test_an_end_without_an_answer_is_understood(
    error: Exception, kind: type[StageError], handling: Handling, doubtful: bool
) -> None:
    assert is_of_a_call(error)
    told = stage_error(error, profile="lab")
    assert (type(told), told.handling, told.doubtful) == (kind, handling, doubtful)


@pytest.mark.parametrize(
    "error",
    [
        sdk.ParamValidationError(report="Invalid type for parameter UserData, value: hunter2"),
        sdk.EndpointConnectionError(endpoint_url=URL, error=socket.gaierror()),
        sdk.ReadTimeoutError(endpoint_url=URL, error="hunter2"),
        ResponseParserError("body: hunter2"),
        refused("AuthFailure", message=f"see {URL}"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_shows_no_secret(error: Exception) -> None:
    told = stage_error(error)
    shown = f"{told} {told.message} {told!r}"
    assert "hunter2" not in shown
    assert "Signature" not in shown


NOT_VALID = "AWS was not able to validate the provided access credentials"


@pytest.mark.parametrize(
    ("message", "handling"),
    [
        (NOT_VALID, Handling.CREDENTIALS),
        ("AWS was not able to authenticate the request: access credentials are missing", Handling.CREDENTIALS),
        ("Something that EC2 has not said before", Handling.CREDENTIALS),
        ("Not authorized for images: [ami-12345678]", Handling.FAIL),
        ("Unauthorized attempt to access restricted resource", Handling.FAIL),
        ("You do not have permission to access the specified resource.", Handling.FAIL),
    ],
)
def test_credentials_that_ec2_cannot_validate_are_waited_for_and_what_a_request_may_not_use_fails_it(
    message: str, handling: Handling
) -> None:
    told = stage_error(refused("AuthFailure", 401, message))
    assert (told.handling, told.doubtful, is_final(told)) == (handling, False, handling is Handling.FAIL)


def test_credentials_that_are_refused_come_with_what_to_do_about_them() -> None:
    assert "aws sso login --profile lab" in stage_error(refused("ExpiredToken"), profile="lab").message


@pytest.mark.parametrize("code", ["AuthFailure", "InvalidClientTokenId", "RegionDisabledException"])
def test_a_region_that_may_not_be_enabled_is_named(code: str) -> None:
    told = stage_error(refused(code, 403, NOT_VALID), region="eu-south-1")
    assert "or enable region eu-south-1 for the account" in told.message
    assert told.message.endswith("Puter then continues by itself")


def test_an_encoded_reason_of_a_denial_is_left_out_for_a_remedy() -> None:
    message = f"You are not authorized. Encoded authorization failure message: {'Ab3_' * 200}"
    told = stage_error(refused("UnauthorizedOperation", 403, message))
    assert told.message.startswith("You are not authorized. Give the worker's role")
    assert "Ab3_" not in told.message


def test_a_message_is_one_short_line() -> None:
    told = fit_for_users("two\nlines\x1b[31m " + "long " * 200)
    assert told.isprintable()
    assert len(told) <= 400


def test_a_defect_keeps_its_traceback() -> None:
    assert not is_of_a_call(TypeError("defect"))
    assert not is_of_a_call(RuntimeError("Event loop is closed"))


def test_an_error_of_ours_is_left_as_it_is() -> None:
    ours = NoImage("none")
    assert stage_error(ours) is ours


def test_an_error_is_one_of_puters() -> None:
    told = stage_error(refused("Blocked"))
    assert isinstance(told, PuterError)
    assert (told.code, told.request_id, str(told)) == ("Blocked", "req-1", "Blocked: no")


@pytest.mark.parametrize("error", [sdk.ClientError({}, "RunInstances"), refused("502", 502), refused("", 403)])
def test_what_a_proxy_answers_in_ec2s_place_is_doubtful_and_no_word_of_ec2s(error: sdk.ClientError) -> None:
    told = stage_error(error)
    assert (type(told), told.handling, told.doubtful) == (Unanswered, Handling.DOUBTFUL, True)
    assert "from a proxy or load balancer instead of EC2's answer" in reason_after(told)


def no_connection(reason: OSError, host: str = "ec2.test") -> sdk.EndpointConnectionError:
    key = ConnectionKey(host, 443, True, True, None, None, None, None)
    return sdk.EndpointConnectionError(endpoint_url=URL, error=aiohttp.ClientConnectorError(key, reason))


def refused_by_proxy(status: int, message: str) -> sdk.ProxyConnectionError:
    cause = aiohttp.ClientHttpProxyError(RequestInfo(YARL(URL), "CONNECT", CIMultiDictProxy(CIMultiDict())), (),
                                         status=status, message=message)  # fmt: skip
    return sdk.ProxyConnectionError(proxy_url="http://***:***@proxy.test:3128", error=cause)


def wrong_certificate(reason: str) -> sdk.SSLError:
    error = ssl.SSLCertVerificationError()
    error.verify_message = reason
    return sdk.SSLError(endpoint_url=URL, error=aiohttp.ClientConnectorCertificateError(HERE, error))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (no_connection(ConnectionRefusedError(errno.ECONNREFUSED, "x")), "ec2.test refused the connection"),
        (no_connection(OSError(errno.EHOSTUNREACH, "No route to host")), "ec2.test cannot be connected to (No route"),
        (no_connection(socket.gaierror(-2, "no such name")), "ec2.test cannot be resolved (no such name): check the "),
        (no_connection(socket.gaierror(-2, "no such name"), "proxy.test"), "proxy proxy.test:443 cannot be resolved"),
        (sdk.ConnectTimeoutError(endpoint_url=URL, error=None), "ec2.test did not accept a connection in time"),
        (refused_by_proxy(407, "Authentication Required"), "proxy proxy.test:3128 refused the connection (HTTP 407 "),
        (sdk.ProxyConnectionError(proxy_url="http://proxy.test:3128", error=None), "check HTTPS_PROXY and NO_PROXY"),
        (wrong_certificate("self-signed certificate"), "TLS with ec2.test failed (self-signed certificate): if the "),
        (wrong_certificate("self-signed certificate"), "set AWS_CA_BUNDLE in the worker's environment"),
    ],
)  # fmt: skip
def test_where_nothing_was_reached_it_is_told_in_plain_words_with_the_host(error: Exception, words: str) -> None:
    told = stage_error(error)
    assert (type(told), told.handling, told.doubtful) == (NotReached, Handling.AGAIN, False)
    assert reason_after(told).startswith("EC2 was not reached: ")
    assert words in told.message
