"""EC2's error codes, and how Puter handles each.

The table below is data. Its codes are those of
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html.
This module alone translates what botocore and aiohttp raise into errors of `puter_worker.errors`.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from types import MappingProxyType

import aiohttp
import msgspec
from botocore import exceptions as sdk
from botocore.parsers import ResponseParserError

from puter_client.contract.key import shown
from puter_worker.errors import (
    CredentialsError,
    Ec2Error,
    Handling,
    InvalidCall,
    NotReached,
    ProfileMissing,
    StageError,
    Unanswered,
    UnknownRegion,
    fit_for_users,
)

_TABLE: Mapping[Handling, tuple[str, ...]] = {
    Handling.AGAIN: ("InternalError", "InternalFailure", "ServiceUnavailable", "Unavailable"),
    Handling.THROTTLED: (
        "RequestLimitExceeded", "Throttling", "ThrottlingException", "ThrottledException", "RequestThrottled",
        "RequestThrottledException", "TooManyRequestsException", "SlowDown", "EC2ThrottledException",
    ),
    Handling.OTHER_ZONE: (
        "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity", "InsufficientAddressCapacity", "InsufficientFreeAddressesInSubnet", "Unsupported",
    ),
    Handling.QUOTA: (
        "VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded", "PendingVerification",
        "VolumeLimitExceeded", "NetworkInterfaceLimitExceeded",
    ),
    Handling.SPLIT: ("ResourceCountExceeded", "FilterLimitExceeded"),
    Handling.JUST_MADE: ("InvalidInstanceID.NotFound", "InvalidGroup.NotFound"),
    Handling.ALREADY_THERE: ("InvalidGroup.Duplicate", "InvalidKeyPair.Duplicate", "InvalidPermission.Duplicate"),
    # The last four mean that keys were revoked or mistyped, or that a clock is wrong: the request is not at fault,
    # and the worker's operator can fix it while the request waits.
    Handling.CREDENTIALS: (
        "ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired",
        "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch", "InvalidAccessKeyId",
    ),
    Handling.IDEMPOTENT_MISMATCH: ("IdempotentParameterMismatch",),
    Handling.IDEMPOTENT_TERMINATED: ("IdempotentInstanceTerminated",),
    # These would fail without a row too; they are listed for the reader.
    Handling.FAIL: (
        "UnauthorizedOperation", "AuthFailure", "OptInRequired", "Blocked", "InvalidKeyPair.NotFound",
        "VPCIdNotSpecified", "TagPolicyViolation", "InvalidAMIID.NotFound", "InvalidAMIID.Malformed",
        "InvalidAMIID.Unavailable", "InvalidParameterValue", "InvalidParameterCombination", "InvalidParameter",
    ),
}  # fmt: skip

HANDLING: Mapping[str, Handling] = MappingProxyType(
    {code: handling for handling, codes in _TABLE.items() for code in codes}
)
"""EC2's error code → what to do; `handling_of` decides by the HTTP status about codes without a row."""

# EC2 may answer these with an HTTP status ≥500; the code says that nothing was done.
_SURELY_NOT_DONE = frozenset({Handling.THROTTLED, Handling.OTHER_ZONE, Handling.QUOTA, Handling.CREDENTIALS})

# The SDK fetches credentials with these, inside the call that needs them; their errors are raised by that call.
_CREDENTIAL_OPERATIONS = frozenset(
    {"AssumeRole", "AssumeRoleWithWebIdentity", "AssumeRoleWithSAML", "GetRoleCredentials", "CreateToken"}
)
_CREDENTIAL_ERRORS = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.NoAuthTokenError,
    sdk.TokenRetrievalError,
    sdk.SSOError,
    sdk.RefreshWithMFAUnsupportedError,
    sdk.MetadataRetrievalError,
    sdk.UnknownCredentialError,
    sdk.InvalidConfigError,
    sdk.ConfigParseError,
)
_SDK_ERRORS = (
    sdk.ClientError,
    sdk.BotoCoreError,
    ResponseParserError,
    aiohttp.ClientError,
    OSError,
    msgspec.ValidationError,
)


def handling_of(code: str, http_status: int | None = None) -> Handling:
    """What to do about one of EC2's error codes.

    Args:
        code: from an answer, or from an instance's StateReason (`Server.InsufficientInstanceCapacity`).
        http_status: the answer's status; it decides about codes that have no row.
    """
    row = HANDLING.get(code.removeprefix("Client.").removeprefix("Server."))
    if row:
        return row
    if code.startswith("Throttling"):
        return Handling.THROTTLED
    return Handling.DOUBTFUL if http_status is not None and http_status >= 500 else Handling.FAIL


def is_of_a_call(error: Exception) -> bool:
    """Whether a call can raise this error; anything else is a defect and keeps its traceback."""
    return isinstance(error, _SDK_ERRORS) or _refresh_failed(error)


def _refresh_failed(error: BaseException) -> bool:
    # botocore has no error class for credentials that have expired by the time they are fetched.
    return isinstance(error, RuntimeError) and "credentials" in str(error)


def stage_error(error: BaseException, *, profile: str | None = None) -> StageError:
    """Translates what a call raised; nothing else does.

    Args:
        error: one for which `is_of_a_call` is true; any other becomes Unanswered.
        profile: the AWS profile whose credentials were used; the message names it where the user should renew them.
    """
    if isinstance(error, StageError):
        return error
    if isinstance(error, sdk.ClientError):
        return _refused(error, profile)
    if isinstance(error, sdk.ProfileNotFound):
        return ProfileMissing(
            f"this worker has no AWS profile {shown(profile or error.kwargs.get('profile'))}: add it to the AWS "
            "config of the worker's host, or name another profile"
        )
    if isinstance(error, _CREDENTIAL_ERRORS) or _refresh_failed(error):
        # The SDK's text is not shown: it may quote a credential process or a token file, and so a secret.
        return CredentialsError(f"the worker has no usable AWS credentials{_remedy(profile)}")
    return _not_answered(error)


def _refused(error: sdk.ClientError, profile: str | None) -> Ec2Error:
    told = error.response.get("Error", {})
    metadata = error.response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode")
    code = str(told.get("Code") or "Unknown")
    message = str(told.get("Message") or "EC2 gave no reason")
    # An error without a code may come from a proxy or load balancer instead of EC2.
    handling = handling_of(code, status) if told.get("Code") else Handling.DOUBTFUL
    if error.operation_name in _CREDENTIAL_OPERATIONS:
        handling = Handling.CREDENTIALS
    if handling is Handling.CREDENTIALS:
        message = f"{fit_for_users(message)}{_remedy(profile)}"
    elif code == "UnauthorizedOperation":
        message = f"{fit_for_users(message)} Give the worker's role the permission (deploy/iam-policy.json has all)."
    return Ec2Error(
        code,
        message,
        handling=handling,
        doubtful=handling is Handling.DOUBTFUL or ((status or 0) >= 500 and handling not in _SURELY_NOT_DONE),
        request_id=metadata.get("RequestId"),
    )


def _remedy(profile: str | None) -> str:
    login = f"aws sso login --profile {profile}" if profile else "aws sso login"
    return f": sign in on the worker's host (such as `{login}`) or renew them; Puter then continues by itself"


def _not_answered(error: BaseException) -> StageError:
    name = type(error).__name__
    if isinstance(error, sdk.NoRegionError | sdk.InvalidRegionError | sdk.UnknownRegionError):
        return UnknownRegion("no such AWS region: give one like us-east-1 with --region")
    if isinstance(error, sdk.ParamValidationError):
        # The SDK's text quotes values, which may include user data.
        return InvalidCall("Puter composed a call that EC2's interface does not know: an internal error in Puter")
    if _never_sent(error):
        return NotReached(f"EC2 was not reached ({name}): {_where(error)}")
    if isinstance(error, ResponseParserError | msgspec.ValidationError):
        message = "EC2's answer could not be read"
    elif isinstance(error, sdk.ReadTimeoutError | TimeoutError):
        message = "EC2 did not answer in time"
    elif isinstance(error, OSError | sdk.HTTPClientError | sdk.ConnectionError | aiohttp.ClientError):
        message = "the connection to EC2 broke before its answer"
    else:
        message = "the call to EC2 ended in an unknown way"
    return Unanswered(f"{message} ({name})")


def _never_sent(error: BaseException) -> bool:
    if isinstance(error, sdk.EndpointConnectionError):
        # aiobotocore raises this also for a connection that broke during the call; the cause tells the two cases apart.
        cause = error.kwargs.get("error")
        return isinstance(cause, aiohttp.ClientConnectorError | socket.gaierror)
    before_sending = (
        sdk.ConnectTimeoutError, sdk.SSLError, sdk.ProxyConnectionError, sdk.EndpointResolutionError,
        sdk.InvalidProxiesConfigError, aiohttp.ClientConnectorError, socket.gaierror, ConnectionRefusedError,
    )  # fmt: skip
    return isinstance(error, before_sending)


def _where(error: BaseException) -> str:
    endpoint = getattr(error, "kwargs", {}).get("endpoint_url") or getattr(error, "kwargs", {}).get("proxy_url")
    return str(endpoint) if endpoint else "is the network up?"
